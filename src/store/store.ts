/**
 * Results in one SQLite file, which needs nothing but `sqlite3` to be read.
 * The store knows no llama and no prompts' meaning.
 */
import { existsSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import type { Database } from 'better-sqlite3';
import { PatchscopeError } from '../errors.js';
import { makeFolder, probeFile } from '../folders.js';
import type { Observation } from '../observation.js';
import type { Layer } from '../patchscope.js';
import { storeError } from './failure.js';
import { migrate } from './migrations.js';
import type { FinalStatus, ModelRecord, RunRecord, SampleRecord } from './records.js';
import { columnsOf, differingSettings } from './run-columns.js';
import { openSqlite } from './sqlite.js';
import { prepareStatements, type Statements } from './statements.js';

export interface Store {
  /** The id of the model with this sha256, added if it is new. */
  addModel(model: ModelRecord): number;
  /** A run with status `running` and its samples; gives the run's id. */
  beginRun(run: RunRecord, samples: readonly SampleRecord[]): number;
  /** All of them or, where this throws, none. */
  addObservations(runId: number, observations: readonly Observation[]): void;
  /**
   * The newest run of this experiment on this model that has not come to its end, and how many cells it has.
   *
   * @throws PatchscopeError `bad_input` where that was made with other settings, and says which.
   */
  unfinishedRun(run: RunRecord): UnfinishedRun | undefined;
  /** It goes on: its status is `running` again. */
  resumeRun(runId: number): void;
  finishRun(runId: number, status: FinalStatus): void;
  /** Idempotent. */
  close(): void;
}

export interface UnfinishedRun {
  readonly runId: number;
  readonly cells: number;
}

export interface StoreOptions {
  /** How long a write waits for another process. Default 5000. */
  readonly lockWaitMs?: number;
}

/**
 * Opens a results file, made with its folder if it is new, and brings its schema up to date.
 * A file of something else or of a newer version is refused and left as it is.
 */
export function openStore(path: string, { lockWaitMs = 5000 }: StoreOptions = {}): Store {
  if (typeof path !== 'string') throw new TypeError('Expected the path of a results file to be a string');
  if (path === '')
    throw new PatchscopeError('bad_input', 'The path of the results file is empty; name a file');
  try {
    return new SqliteStore(openDatabase(resolve(path), path, lockWaitMs), path);
  } catch (error) {
    throw storeError(error, path);
  }
}

/**
 * Says what would keep `openStore` from working, and leaves nothing behind.
 *
 * @throws PatchscopeError `store`.
 */
export function checkStore(path: string): void {
  if (existsSync(path)) {
    openStore(path).close();
    return;
  }
  try {
    probeFile(path);
  } catch (error) {
    throw storeError(error, path);
  }
}

/** `path` is the file as the user named it, for messages. */
function openDatabase(file: string, path: string, lockWaitMs: number): Database {
  makeFolder(dirname(file));
  if (statSync(file, { throwIfNoEntry: false })?.isDirectory()) {
    throw new PatchscopeError('store', `${path} is a folder; name a file in it`);
  }
  const database = openSqlite(file, { timeout: lockWaitMs });
  try {
    // First of all writes: it refuses what is not ours.
    migrate(database, path);
    database.pragma('journal_mode = WAL');
    database.pragma('synchronous = NORMAL');
    return database;
  } catch (error) {
    database.close();
    throw error;
  }
}

class SqliteStore implements Store {
  readonly #database: Database;
  readonly #path: string;
  readonly #statements: Statements;
  /** Model and token ids whose text is in the file. */
  readonly #knownTokens = new Set<string>();

  constructor(database: Database, path: string) {
    this.#database = database;
    this.#path = path;
    this.#statements = prepareStatements(database);
  }

  addModel(model: ModelRecord): number {
    return this.#write(() => {
      this.#statements.addModel.run(
        model.sha256,
        model.path,
        model.bytes,
        model.architecture,
        model.name,
        model.quantization,
        model.layerCount,
        model.embeddingSize,
        model.vocabularySize,
      );
      return this.#statements.modelId.get(model.sha256) as number;
    });
  }

  beginRun(run: RunRecord, samples: readonly SampleRecord[]): number {
    return this.#write(() => {
      const { lastInsertRowid } = this.#statements.addRun.run(columnsOf(run));
      const runId = Number(lastInsertRowid);
      for (const [index, { name, source, target }] of samples.entries()) {
        this.#statements.addSample.run(
          runId,
          index,
          name,
          source.text,
          JSON.stringify(source.tokenIds),
          target.text,
          JSON.stringify(target.tokenIds),
        );
      }
      return runId;
    });
  }

  addObservations(runId: number, observations: readonly Observation[]): void {
    this.#write(() => {
      const models = this.#statements.modelsOfRun.get(runId);
      if (models === undefined) throw this.#noRun(runId);
      for (const observation of observations) {
        const id = this.#addObservation(runId, observation);
        this.#addToken(models.source, observation.sourceTokenId, observation.sourceToken);
        this.#addToken(models.target, observation.targetTokenId, observation.targetToken);
        for (const [step, scores] of observation.steps.entries()) {
          for (const { rank, tokenId, token, logprob } of scores) {
            this.#addToken(models.target, tokenId, token);
            this.#statements.addScore.run(id, step, rank, tokenId, logprob);
          }
        }
      }
      const failed = observations.filter(({ status }) => status === 'failed').length;
      this.#statements.countFailed.run(failed, runId);
    });
  }

  unfinishedRun(run: RunRecord): UnfinishedRun | undefined {
    const wanted = columnsOf(run);
    const { name, experiment, sourceModelId, targetModelId } = wanted;
    const found = this.#statements.unfinishedRun.get({ name, experiment, sourceModelId, targetModelId });
    if (found === undefined) return undefined;
    const differing = differingSettings(found, wanted);
    if (differing.length > 0) {
      throw new PatchscopeError(
        'bad_input',
        `Run ${found.id} in ${this.#path} can't go on with other settings: ${differing.join(', ')}`,
      );
    }
    return { runId: found.id as number, cells: found.cells_stored as number };
  }

  resumeRun(runId: number): void {
    this.#write(() => this.#statements.resumeRun.run(runId));
  }

  finishRun(runId: number, status: FinalStatus): void {
    this.#write(() => {
      const { changes } = this.#statements.finishRun.run(status, new Date().toISOString(), runId);
      if (changes === 0) throw this.#noRun(runId);
    });
  }

  close(): void {
    this.#database.close();
  }

  #addObservation(runId: number, cell: Observation): number | bigint {
    try {
      return this.#statements.addObservation.run({
        runId,
        sample: cell.sample,
        variant: cell.variant,
        sourceSite: cell.sourceSite,
        targetSite: cell.targetSite,
        sourceLayer: layerNumber(cell.sourceLayer),
        targetLayer: layerNumber(cell.targetLayer),
        op: cell.op,
        alpha: cell.alpha,
        atGenerated: Number(cell.atGenerated),
        sourcePosition: cell.sourcePosition,
        sourceTokenId: cell.sourceTokenId,
        sourceToken: cell.sourceToken,
        targetPosition: cell.targetPosition,
        targetTokenId: cell.targetTokenId,
        targetToken: cell.targetToken,
        status: cell.status,
        error: cell.error,
        text: cell.text,
        tokenIds: JSON.stringify(cell.tokenIds),
      }).lastInsertRowid;
    } catch (error) {
      throw cellError(error, runId, cell);
    }
  }

  #addToken(modelId: number, tokenId: number, text: string): void {
    const key = `${modelId} ${tokenId}`;
    if (this.#knownTokens.has(key)) return;
    this.#statements.addToken.run(modelId, tokenId, text);
    this.#knownTokens.add(key);
  }

  /** One transaction, which takes the write lock at its start. */
  #write<Result>(work: () => Result): Result {
    if (!this.#database.open)
      throw new PatchscopeError('closed', `The store ${this.#path} is closed; open it again`);
    try {
      return this.#database.transaction(work).immediate();
    } catch (error) {
      // Texts of this transaction were rolled back.
      this.#knownTokens.clear();
      throw storeError(error, this.#path);
    }
  }

  #noRun(runId: number): PatchscopeError {
    return new PatchscopeError('store', `There is no run ${runId} in ${this.#path}`);
  }
}

/** The same in every column that holds a layer. */
function layerNumber(layer: Layer): number {
  return layer === 'embed' ? -1 : layer;
}

function cellError(error: unknown, runId: number, cell: Observation): unknown {
  const { code } = error as { code?: unknown };
  if (code === 'SQLITE_CONSTRAINT_UNIQUE') {
    return new PatchscopeError(
      'store',
      `Run ${runId} already has this cell: sample ${cell.sample}, variant "${cell.variant}", ${cell.targetSite}, source layer ${cell.sourceLayer}, target layer ${cell.targetLayer}; a cell is stored once`,
      { cause: error },
    );
  }
  if (code === 'SQLITE_CONSTRAINT_FOREIGNKEY') {
    return new PatchscopeError(
      'store',
      `Run ${runId} has no sample ${cell.sample}; give beginRun all samples`,
      { cause: error },
    );
  }
  return error;
}
