/**
 * Results in one SQLite file, which needs nothing but `sqlite3` to be read.
 * The store knows no llama and no prompts' meaning.
 */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import type { Database } from 'better-sqlite3';
import { PatchscopeError } from '../errors.js';
import { probeFile } from '../folders.js';
import type { Observation, Probe } from '../observation.js';
import { metricRows } from './aggregate.js';
import { choiceRows } from './choices.js';
import { ChunkWriter, layerNumber } from './chunk-writer.js';
import { effectRows } from './effects.js';
import { storeError } from './failure.js';
import { fidelityNames, fidelityScores } from './fidelity.js';
import { findRun } from './find-run.js';
import { openDatabase } from './open-database.js';
import type { FinalStatus, ModelRecord, RunContents, RunRecord, VariantRecord } from './records.js';
import { columnsOf } from './run-columns.js';
import { type ProbedGroup, prepareStatements, type Statements } from './statements.js';

export interface Store {
  /** A run with status `running`, its models where they are new, and all that its cells name; gives the run's id. */
  beginRun(run: RunRecord, contents: RunContents): number;
  /**
   * All observations of a chunk or, where this throws, none.
   *
   * @param chunk place in the plan, from 0; a chunk that is there already is refused.
   */
  addChunk(runId: number, chunk: number, observations: readonly Observation[]): void;
  /** In ascending order. */
  doneChunks(runId: number): number[];
  /** Indexes of the samples whose fact the model knows, by the cells that are there; in ascending order. */
  knownSamples(runId: number): number[];
  /** The probes of one group in one variant, or where this throws none. */
  addProbes(runId: number, probes: readonly Probe[]): void;
  /** Groups that have their probes, by variant. */
  probedGroups(runId: number): ProbedGroup[];
  /**
   * The newest unfinished run of this name and shard that fits, or the one that is named.
   *
   * @throws PatchscopeError `bad_input` where there are some, but with another model file, experiment, plan or
   *   engine settings, and says what differs in the newest; or where the named one is none or done.
   */
  findRun(run: RunRecord, which?: number): UnfinishedRun | undefined;
  /** It goes on: its status is `running` again, and metrics, effects, choices and comparisons of what it had are gone. */
  resumeRun(runId: number): void;
  /** Compares the cells that are there, as the experiment asks, and makes the rows of `metric`, `effect` and `choice` from all scores; the same from the same cells. */
  aggregate(runId: number): void;
  finishRun(runId: number, status: FinalStatus): void;
  /** Idempotent. */
  close(): void;
}

export interface UnfinishedRun {
  readonly runId: number;
  readonly doneChunks: readonly number[];
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

class SqliteStore implements Store {
  readonly #database: Database;
  readonly #path: string;
  readonly #statements: Statements;
  readonly #chunks: ChunkWriter;

  constructor(database: Database, path: string) {
    this.#database = database;
    this.#path = path;
    this.#statements = prepareStatements(database);
    this.#chunks = new ChunkWriter(this.#statements);
  }

  beginRun(run: RunRecord, { prompts, samples, variants, vectors = [], mappings = [] }: RunContents): number {
    // another process may have deleted the model and its tokens since
    this.#chunks.forgetTokens();
    return this.#write(() => {
      const { addRun, addPrompt, addVector, addSample, addMapping } = this.#statements;
      const models = {
        sourceModelId: this.#addModel(run.sourceModel),
        targetModelId: this.#addModel(run.targetModel),
      };
      const runId = Number(addRun.run({ ...columnsOf(run), ...models }).lastInsertRowid);
      for (const [index, { text, tokenIds, decoderTokenIds, reading }] of prompts.entries()) {
        const { bos, chat, special } = reading ?? { bos: null, chat: null, special: null };
        addPrompt.run(
          runId,
          index,
          text,
          JSON.stringify(tokenIds),
          jsonOrNull(decoderTokenIds),
          ...[bos, chat, special].map((flag) => (flag === null ? null : Number(flag))),
        );
      }
      for (const [index, { text, record }] of vectors.entries()) {
        addVector.run(runId, index, text, JSON.stringify(record));
      }
      for (const [index, { name, group, answer, subject, class: kind }] of samples.entries()) {
        addSample.run(
          ...[runId, index, name, group || null, jsonOrNull(answer), subject ?? null, kind ?? null],
        );
      }
      for (const variant of variants) this.#addVariant(runId, variant, models);
      for (const { name, sha256, record } of mappings) {
        addMapping.run(name, record.kind, sha256, JSON.stringify(record));
      }
      return runId;
    });
  }

  addChunk(runId: number, chunk: number, observations: readonly Observation[]): void {
    this.#write(() => {
      const modelId = this.#statements.targetModel.get(runId);
      if (modelId === undefined) throw this.#noRun(runId);
      this.#chunks.write(runId, chunk, modelId, observations);
    });
  }

  doneChunks(runId: number): number[] {
    return this.#read(() => this.#statements.doneChunks.all(runId));
  }

  knownSamples(runId: number): number[] {
    return this.#read(() => this.#statements.knownSamples.all(runId));
  }

  addProbes(runId: number, probes: readonly Probe[]): void {
    this.#write(() => {
      const { addProbe, addPrediction } = this.#statements;
      const now = new Date().toISOString();
      for (const { variant, group, known, samples, subjects, classes, note, predictions } of probes) {
        addProbe.run(runId, variant, group, Number(known), samples, subjects, classes, note, now);
        for (const { sample, sourceSite, sourceLayer, fold, predicted, correct } of predictions) {
          addPrediction.run(
            ...[runId, variant, sample, Number(known), sourceSite, layerNumber(sourceLayer)],
            ...[fold, predicted, Number(correct)],
          );
        }
      }
    });
  }

  probedGroups(runId: number): ProbedGroup[] {
    return this.#read(() => this.#statements.probedGroups.all(runId));
  }

  findRun(run: RunRecord, which?: number): UnfinishedRun | undefined {
    return this.#read(() => {
      const runId = findRun(this.#database, this.#path, run, which);
      return runId === undefined ? undefined : { runId, doneChunks: this.doneChunks(runId) };
    });
  }

  resumeRun(runId: number): void {
    this.#chunks.forgetTokens();
    this.#write(() => {
      const { changes } = this.#statements.resumeRun.run(runId);
      if (changes === 0) throw this.#noRun(runId);
      this.#deleteMade(runId);
    });
  }

  aggregate(runId: number): void {
    // before the write lock, which others wait for
    const scores = this.#read(() => [...fidelityScores(this.#database, runId)]);
    this.#write(() => {
      this.#deleteMade(runId);
      for (const row of scores) this.#statements.addScore.run(...row);
    });
    const { metrics, effects, choices } = this.#read(() => {
      if (this.#statements.targetModel.get(runId) === undefined) throw this.#noRun(runId);
      return {
        metrics: [...metricRows(this.#database, runId)],
        effects: [...effectRows(this.#database, runId)],
        choices: [...choiceRows(this.#database, runId)],
      };
    });
    this.#write(() => {
      this.#deleteMeans(runId);
      for (const row of metrics) this.#statements.addMetric.run(runId, ...row);
      for (const row of effects) this.#statements.addEffect.run(runId, ...row);
      for (const row of choices) this.#statements.addChoice.run(runId, ...row);
    });
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

  #deleteMeans(runId: number): void {
    this.#statements.deleteMetrics.run(runId);
    this.#statements.deleteEffects.run(runId);
    this.#statements.deleteChoices.run(runId);
  }

  /** All that was made of the cells of a run. */
  #deleteMade(runId: number): void {
    this.#deleteMeans(runId);
    for (const name of fidelityNames(this.#database, runId)) this.#statements.deleteScores.run(name, runId);
  }

  #addVariant(
    runId: number,
    variant: VariantRecord,
    { sourceModelId, targetModelId }: { readonly sourceModelId: number; readonly targetModelId: number },
  ): void {
    const { sample, name, source, target, op, alpha, atGenerated, cuts } = variant;
    const { swept = false, moves = [variant], sourceVector, ownEdits, contrast, decay, answer } = variant;
    this.#statements.addVariant.run(
      runId,
      sample,
      name,
      source.prompt,
      source.side ?? null,
      source.position,
      source.tokenId,
      source.token,
      target.prompt,
      target.side ?? null,
      target.position,
      target.tokenId,
      target.token,
      op,
      alpha,
      Number(atGenerated),
      jsonOrNull(cuts),
      Number(swept),
      source.adapter ?? null,
      target.adapter ?? null,
      sourceVector ?? null,
      jsonOrNull(ownEdits),
      jsonOrNull(contrast),
      decay ?? null,
      jsonOrNull(answer),
    );
    for (const [index, { source, target }] of moves.entries()) {
      this.#statements.addMove.run(
        ...[runId, sample, name, index],
        ...[source.position, source.tokenId, source.token, target.position, target.tokenId, target.token],
      );
      if (sourceVector === undefined) this.#chunks.addToken(sourceModelId, source.tokenId, source.token);
      this.#chunks.addToken(targetModelId, target.tokenId, target.token);
    }
  }

  /** @returns its id. */
  #addModel(model: ModelRecord): number {
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
  }

  /** One transaction, which takes the write lock at its start. */
  #write<Result>(work: () => Result): Result {
    try {
      return this.#open.transaction(work).immediate();
    } catch (error) {
      this.#chunks.forgetTokens();
      throw storeError(error, this.#path);
    }
  }

  /** All that it reads is of one moment. */
  #read<Result>(work: () => Result): Result {
    try {
      return this.#open.transaction(work)();
    } catch (error) {
      throw storeError(error, this.#path);
    }
  }

  get #open(): Database {
    if (this.#database.open) return this.#database;
    throw new PatchscopeError('closed', `The store ${this.#path} is closed; open it again`);
  }

  #noRun(runId: number): PatchscopeError {
    return new PatchscopeError('store', `There is no run ${runId} in ${this.#path}`);
  }
}

function jsonOrNull(value: object | undefined): string | null {
  return value === undefined ? null : JSON.stringify(value);
}
