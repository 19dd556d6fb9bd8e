/** A chunk's observations as rows. */
import { PatchscopeError } from '../errors.js';
import type { Observation, TokenScore } from '../observation.js';
import type { Layer } from '../patchscope.js';
import { failureSigns } from '../statistics/failure-signs.js';
import type { Statements } from './statements.js';

export class ChunkWriter {
  readonly #statements: Statements;
  /** By model: ids of the tokens whose text is in the file. */
  readonly #knownTokens = new Map<number, Set<number>>();

  constructor(statements: Statements) {
    this.#statements = statements;
  }

  /** Also what was written of them in a transaction that was rolled back. */
  forgetTokens(): void {
    this.#knownTokens.clear();
  }

  addToken(modelId: number, tokenId: number, text: string): void {
    this.#addToken(this.#known(modelId), modelId, tokenId, text);
  }

  /** In the transaction of the caller. */
  write(runId: number, chunk: number, modelId: number, observations: readonly Observation[]): void {
    this.#addChunk(runId, chunk, observations.length);
    const mappings = new Map<string, number>();
    const known = this.#known(modelId);
    let failed = 0;
    for (const observation of observations) {
      const id = this.#addObservation(runId, observation, this.#mappingId(observation.mapping, mappings));
      const { steps, scores } = observation;
      for (let step = 0; step < steps.length; step++) this.#addStep(id, step, steps[step]!, modelId, known);
      for (const name in scores) this.#statements.addScore.run(id, name, scores[name]);
      observation.relevancy?.forEach(({ tokenId, probability, unpatched }, step) => {
        this.#statements.addRelevancy.run(id, step, tokenId, probability, unpatched);
      });
      if (observation.status === 'failed') failed++;
    }
    if (failed > 0) this.#statements.countFailed.run(failed, runId);
  }

  #addChunk(runId: number, chunk: number, cells: number): void {
    try {
      this.#statements.addChunk.run(runId, chunk, cells, new Date().toISOString());
    } catch (error) {
      if ((error as { code?: unknown }).code !== 'SQLITE_CONSTRAINT_PRIMARYKEY') throw error;
      throw new PatchscopeError(
        'store',
        `Run ${runId} already has chunk ${chunk}; a chunk is stored once, and two processes can't go on with one run`,
        { cause: error },
      );
    }
  }

  #addObservation(runId: number, cell: Observation, mappingId: number): number | bigint {
    try {
      return this.#statements.addObservation.run(
        runId,
        cell.sample,
        cell.variant,
        cell.sourceSite,
        cell.targetSite,
        layerNumber(cell.sourceLayer),
        layerNumber(cell.targetLayer),
        mappingId,
        cell.control,
        cell.draw,
        cell.status,
        cell.error,
        cell.text,
        JSON.stringify(cell.tokenIds),
        ...signsOf(cell),
        cell.normRatio ?? null,
        cell.differs === undefined ? null : Number(cell.differs),
        cell.move ?? 0,
      ).lastInsertRowid;
    } catch (error) {
      throw cellError(error, runId, cell);
    }
  }

  #addStep(
    id: number | bigint,
    step: number,
    scores: readonly TokenScore[],
    modelId: number,
    known: Set<number>,
  ): void {
    for (const { rank, tokenId, token, logprob } of scores) {
      this.#addToken(known, modelId, tokenId, token);
      this.#statements.addTokenScore.run(id, step, rank, tokenId, logprob);
    }
  }

  #known(modelId: number): Set<number> {
    let known = this.#knownTokens.get(modelId);
    if (known === undefined) {
      known = new Set();
      this.#knownTokens.set(modelId, known);
    }
    return known;
  }

  #addToken(known: Set<number>, modelId: number, tokenId: number, text: string): void {
    if (known.has(tokenId)) return;
    this.#statements.addToken.run(modelId, tokenId, text);
    known.add(tokenId);
  }

  #mappingId(name: string, found: Map<string, number>): number {
    const id = found.get(name) ?? this.#statements.mappingId.get(name);
    if (id === undefined)
      throw new PatchscopeError('store', `There is no mapping "${name}"; name one that is`);
    found.set(name, id);
    return id;
  }
}

/** Empty, repetitive, unprintable; what is no text has no signs. */
function signsOf({ text, tokenIds }: Observation): readonly (number | null)[] {
  if (text === null) return [null, null, null];
  const { empty, repetitive, unprintable } = failureSigns(text, tokenIds);
  return [Number(empty), Number(repetitive), Number(unprintable)];
}

/** The same in every column that holds a layer. */
export function layerNumber(layer: Layer | null): number | null {
  return layer === 'embed' ? -1 : layer;
}

function cellError(error: unknown, runId: number, cell: Observation): unknown {
  const { code } = error as { code?: unknown };
  if (code === 'SQLITE_CONSTRAINT_UNIQUE') {
    return new PatchscopeError(
      'store',
      `Run ${runId} already has this cell: sample ${cell.sample}, variant "${cell.variant}", ${cell.targetSite}, source layer ${cell.sourceLayer}, target layer ${cell.targetLayer}, control ${cell.control}; a cell is stored once`,
      { cause: error },
    );
  }
  if (code === 'SQLITE_CONSTRAINT_FOREIGNKEY') {
    return new PatchscopeError(
      'store',
      `Run ${runId} has no variant "${cell.variant}" of sample ${cell.sample}; give beginRun all samples and variants`,
      { cause: error },
    );
  }
  return error;
}
