/** A run and its observations, written to a results file as they come. */
import os from 'node:os';
import path from 'node:path';
import { distinct } from './adapters.js';
import type { Engine, EngineRecord, ModelRecords } from './engine.js';
import { PatchscopeError } from './errors.js';
import { grouped } from './group.js';
import { type LensPlan, lensPosition } from './lens.js';
import type { Experiment, FittedMapping } from './patchscope.js';
import { keptSettings } from './plan/mappings.js';
import { movesOfPair, type Pair } from './plan/pairs.js';
import { cellsIn, type Plan } from './plan/plan.js';
import { isVector, type ResolvedSource, type ResolvedVector, vectorText } from './plan/sources.js';
import { positionTokens, type ResolvedPrompt } from './prompts.js';
import type { Probing } from './record-probes.js';
import { allChunks, type ChunkResult } from './run.js';
import type {
  MappingRow,
  PlaceRecord,
  PromptRecord,
  RunContents,
  RunRecord,
  VariantRecord,
  VectorRecord,
} from './store/records.js';
import type { Store, UnfinishedRun } from './store/store.js';

/** A part of a plan's chunks, which may be run elsewhere; `index` counts from 1. */
export type Shard = NonNullable<RunRecord['shard']>;

export interface RunHeader {
  readonly name: string;
  /** As typed. */
  readonly command: string;
  /** The file that the experiment was read from, as it was written. */
  readonly experimentSource: string | null;
  /** The same as it was run. */
  readonly experimentFile?: object | undefined;
  /** As resolved, but for its samples. */
  readonly experiment: object;
  readonly reading: object;
  readonly seed: number;
  readonly planSha256: string;
  readonly cacheLayout: Plan['cacheLayout'];
  readonly contents: RunContents;
  readonly shard: Shard | null;
  /** Of the shard, where there is one. */
  readonly cellsPlanned: number;
  readonly chunksPlanned: number;
}

/** What is said of a run that its plan does not say. */
export interface RunOrigin {
  readonly command: string;
  readonly experimentSource?: string;
  readonly experimentFile?: object;
  readonly shard?: Shard | undefined;
}

/** What is kept of a run of Patchscopes before its first cell. */
export function runHeader(
  plan: Plan,
  { command, experimentSource, experimentFile, shard }: RunOrigin,
): RunHeader {
  const { samples, ...experiment } = plan.experiment;
  const { name, seed } = experiment;
  const given = plan.continuation && {
    continuationTokenIds: plan.continuation.map(({ tokenId }) => tokenId),
  };
  const reading = { ...experiment.reading, ...given };
  const chunks = shardChunks(plan, shard);
  return {
    name,
    command,
    experimentSource: experimentSource ?? null,
    experimentFile,
    experiment: keptSettings(experiment),
    reading,
    seed,
    planSha256: plan.sha256,
    cacheLayout: plan.cacheLayout,
    contents: contentsOf(plan),
    shard: shard ?? null,
    cellsPlanned: cellsIn(plan, chunks),
    chunksPlanned: chunks.length,
  };
}

/**
 * The chunks of one shard, or all of them, in their order.
 *
 * @throws PatchscopeError `bad_input` where there are fewer chunks than shards.
 */
export function shardChunks(plan: Plan, shard: Shard | undefined): number[] {
  const all = allChunks(plan);
  if (shard === undefined) return all;
  if (shard.count > all.length) {
    throw new PatchscopeError(
      'bad_input',
      `The plan has ${all.length} chunk${all.length === 1 ? '' : 's'}, which can't be shared out over ${shard.count} shards: take fewer.`,
    );
  }
  return all.filter((chunk) => chunk % shard.count === shard.index - 1);
}

function contentsOf({ experiment, pairs, mappings }: Plan): RunContents {
  const prompts = new PromptList();
  const vectors = new VectorList(prompts);
  return {
    samples: experiment.samples.map(({ name, group, answer, subject, class: kind }) => ({
      name,
      ...(group !== undefined && { group }),
      ...(answer !== undefined && { answer }),
      ...(subject !== undefined && { subject }),
      ...(kind !== undefined && { class: kind }),
    })),
    variants: variantRecords(experiment, pairs, prompts, vectors),
    prompts: prompts.all,
    vectors: vectors.all,
    mappings: [...new Map([...mappings.values()].map((mapping) => [mapping.name, rowOf(mapping)])).values()],
  };
}

/** Pairs of one sample and variant go through several positions, and are one variant. */
function variantRecords(
  { samples }: Experiment,
  pairs: readonly Pair[],
  prompts: PromptList,
  vectors: VectorList,
): VariantRecord[] {
  const variants = grouped(pairs, ({ sample, variant }) => `${sample} ${variant}`);
  const placeOf = (source: ResolvedSource) =>
    isVector(source) ? prompts.inPlaceOf(source) : prompts.place(source);
  return [...variants.values()].map((all) => {
    const { sample, variant: name, answer, source, target, patch, cuts, swept, ownEdits, contrast } = all[0]!;
    const moves = all.flatMap(movesOfPair);
    return {
      ...{ sample, name, source: placeOf(source), target: prompts.place(target) },
      ...(isVector(source) && { sourceVector: vectors.indexOf(source) }),
      ...(samples[sample]!.variants?.[name]?.answer && { answer }),
      ...patch,
      ...(cuts && { cuts }),
      ...(ownEdits && {
        ownEdits: ownEdits.map(({ vector, ...edit }) => ({
          ...edit,
          vector: vector === undefined ? null : vectors.indexOf(vector),
        })),
      }),
      ...(contrast && { contrast }),
      ...(swept !== undefined && { swept: true }),
      ...(moves.length > 1 && {
        moves: moves.map((move) => ({ source: placeOf(move.source), target: prompts.place(move.target) })),
      }),
    };
  });
}

function rowOf(mapping: FittedMapping): MappingRow {
  const { kind, name, sha256 } = mapping;
  if (kind === 'file') return { name, sha256, record: mapping.record };
  const links = mapping.links.map(({ name, sha256, record }) => ({ name, sha256, record }));
  return { name, sha256, record: { kind, links } };
}

/** What is kept of a run of the logit lens, whose target is its source. */
export function lensRunHeader(plan: LensPlan, { command }: RunOrigin): RunHeader {
  const { experiment, samples, cellCount, chunkCount: chunksPlanned, sha256: planSha256 } = plan;
  const prompts = new PromptList();
  const { prompts: _, ...settings } = experiment;
  return {
    name: 'logit-lens',
    command,
    experimentSource: null,
    experiment: settings,
    reading: { topK: experiment.topK },
    seed: experiment.seed,
    planSha256,
    cacheLayout: 'unified',
    contents: {
      samples: samples.map(({ name }) => ({ name })),
      variants: samples.flatMap(({ prompt }, sample) =>
        plan.tokenIndexes[sample]!.map((tokenIndex) => {
          const place = { ...prompts.place(prompt), ...lensPosition(plan, sample, tokenIndex) };
          return {
            ...{ sample, name: String(tokenIndex), source: place, target: place },
            ...{ op: 'replace' as const, alpha: 1, atGenerated: false },
          };
        }),
      ),
      prompts: prompts.all,
    },
    shard: null,
    cellsPlanned: cellCount,
    chunksPlanned,
  };
}

/** Every prompt has one place in the list, however many positions of it are meant. */
class PromptList {
  readonly all: PromptRecord[] = [];
  readonly #places = new Map<string, number>();

  /** A prompt of no tokens whose text says what stands in its place. */
  inPlaceOf(vector: ResolvedVector): PlaceRecord {
    const prompt = this.#indexOf({ text: vectorText(vector), tokenIds: [] });
    return { prompt, position: 0, tokenId: -1, token: '' };
  }

  place(prompt: ResolvedPrompt): PlaceRecord {
    const { side, tokenIndex, token, adapter } = prompt;
    const tokenId = positionTokens(prompt)[tokenIndex]!;
    return {
      ...{ prompt: this.#indexOf(prompt), ...(side && { side }) },
      ...{ position: tokenIndex, tokenId, token },
      ...(adapter !== undefined && { adapter }),
    };
  }

  #indexOf({ text, reading, tokenIds, decoderTokenIds }: PromptRecord): number {
    const key = JSON.stringify([text, reading, tokenIds, decoderTokenIds]);
    let place = this.#places.get(key);
    if (place === undefined) {
      place = this.all.length;
      this.#places.set(key, place);
      this.all.push({
        text,
        ...(reading && { reading }),
        tokenIds,
        ...(decoderTokenIds && { decoderTokenIds }),
      });
    }
    return place;
  }
}

class VectorList {
  readonly all: VectorRecord[] = [];
  readonly #prompts: PromptList;
  readonly #places = new Map<ResolvedVector, number>();

  constructor(prompts: PromptList) {
    this.#prompts = prompts;
  }

  indexOf(vector: ResolvedVector): number {
    const known = this.#places.get(vector);
    if (known !== undefined) return known;
    const index = this.all.length;
    this.#places.set(vector, index);
    this.all.push({ text: vectorText(vector), record: this.#record(vector) });
    return index;
  }

  #record(vector: ResolvedVector): object {
    const placed = (prompts: readonly ResolvedPrompt[]) =>
      prompts.map((one) => {
        const { prompt, position, side } = this.#prompts.place(one);
        return { prompt, position, ...(side && { side }) };
      });
    if (vector.kind === 'mean') return { kind: vector.kind, prompts: placed(vector.prompts) };
    if (vector.kind === 'difference') {
      const { kind, prompts, minus } = vector;
      return { kind, prompts: placed(prompts), minus: placed(minus) };
    }
    if (vector.kind !== 'file') return vector;
    const { kind, path: file, tensor = null, row = null, read } = vector;
    return { kind, name: path.basename(file), sha256: read!.sha256, tensor, row };
  }
}

export interface StoredChunk extends ChunkResult {
  readonly runId: number;
}

/** What a run's record takes from the engine, in this process or in another one. */
export type RecordedEngine = ModelRecords & Pick<Engine, 'tolerance'>;

/**
 * Passes chunks on after each of them is stored. The store is opened and the run begun with the first chunk,
 * so that a run that can't begin leaves nothing behind; the store is closed at the end. Where it ends before
 * all planned chunks and probes, it is marked `interrupted`; where it throws, `failed`.
 *
 * @param resumed a run that these chunks go on with.
 * @param probing what the plan of a probe needs; a shard has none, since the others know other facts.
 */
export async function* recordRun(
  chunks: AsyncIterable<ChunkResult>,
  header: RunHeader,
  engine: RecordedEngine,
  openResults: () => Store,
  resumed?: UnfinishedRun,
  probing?: Probing,
): AsyncGenerator<StoredChunk> {
  const startedAt = new Date();
  let store: Store | undefined;
  let runId: number | undefined;
  let stored = 0;
  if (resumed !== undefined) {
    runId = resumed.runId;
    stored = resumed.doneChunks.length;
    store = openResults();
    store.resumeRun(runId);
  }
  let thrown = false;
  const isWhole = () =>
    stored === header.chunksPlanned &&
    (header.shard !== null || !('probe' in header.experiment) || probing?.isDone === true);
  try {
    for await (const result of chunks) {
      if (store === undefined || runId === undefined) {
        const tolerance = await engine.tolerance(header.cellsPlanned, header.cacheLayout);
        store = openResults();
        runId = store.beginRun(runRecord(header, startedAt, engine, tolerance), header.contents);
      }
      store.addChunk(runId, result.chunk, result.observations);
      stored++;
      yield { ...result, runId };
    }
    if (store !== undefined && runId !== undefined && stored === header.chunksPlanned && !header.shard) {
      await probing?.record(store, runId);
      store.aggregate(runId);
    }
  } catch (error) {
    thrown = true;
    throw error;
  } finally {
    if (store !== undefined && runId !== undefined) {
      store.finishRun(runId, thrown ? 'failed' : isWhole() ? 'done' : 'interrupted');
    }
    store?.close();
  }
}

/**
 * The newest run of this experiment, or that one, which has not come to its end.
 *
 * @throws PatchscopeError `bad_input` where there is none, or only one of another model, experiment or settings.
 */
export function findUnfinishedRun(
  header: RunHeader,
  engine: ModelRecords,
  openResults: () => Store,
  which?: number,
): UnfinishedRun | undefined {
  const store = openResults();
  try {
    return store.findRun(runRecord(header, new Date(), engine, null), which);
  } finally {
    store.close();
  }
}

/** @throws PatchscopeError `bad_input` where there is none. */
export function needUnfinishedRun(...args: Parameters<typeof findUnfinishedRun>): UnfinishedRun {
  const found = findUnfinishedRun(...args);
  if (found !== undefined) return found;
  throw new PatchscopeError(
    'bad_input',
    'There is no unfinished run of this experiment on this model to go on with: leave --resume out.',
  );
}

function runRecord(
  { contents: _, ...run }: RunHeader,
  startedAt: Date,
  { record, sourceRecord = record }: ModelRecords,
  tolerance: number | null,
): RunRecord {
  return {
    ...run,
    startedAt,
    host: os.hostname(),
    sourceModel: sourceRecord,
    targetModel: record,
    engine: record,
    sourceEngine: sourceRecord.sha256 === record.sha256 ? null : sourceEngine(sourceRecord),
    adapters: distinct([...(sourceRecord.adapters ?? []), ...(record.adapters ?? [])]),
    addon: record.addon,
    tolerance,
  };
}

function sourceEngine({ devices, gpuLayers, batchTokens, batchRows, batchOutputs }: EngineRecord) {
  return { devices, gpuLayers, batchTokens, batchRows, batchOutputs };
}
