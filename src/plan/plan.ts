/**
 * Experiment -> plan: every prompt as token ids, every position as an index, every cell numbered. Pure data,
 * made with tokenizers alone; the same experiment gives the same plan.
 */
import { createHash } from 'node:crypto';
import { chooseCacheLayout } from '../cache-layout.js';
import { type ResolvedToken, resolveContinuation } from '../continuation.js';
import type { CacheLayout, Tokenizer } from '../engine.js';
import { PatchscopeError } from '../errors.js';
import { needsOwn } from '../metrics.js';
import { type Control, controls, type Experiment, type FittedMapping, type Side } from '../patchscope.js';
import { type Place, parsePlaces } from '../places.js';
import type { ResolvedPrompt } from '../prompts.js';
import { arrangeCells, type CellColumns } from './arrange.js';
import { keptSettings, mappingsOf } from './mappings.js';
import {
  type ModelShape,
  type Pair,
  type PlannedModel,
  type PlannedModels,
  resolvePairs,
  trackedTokens,
  type VariantSettings,
  variantsOf,
} from './pairs.js';
import { checkKnownAndProbe } from './probe-units.js';
import { cutRepeats } from './repeats.js';

export interface Plan {
  readonly experiment: Experiment;
  /** Sample by sample, the variants of each in their order. */
  readonly pairs: readonly Pair[];
  /** Distinct places, to which cells refer. */
  readonly places: readonly Place[];
  /** In the order of execution. */
  readonly cells: CellColumns;
  readonly cellCount: number;
  /** Cell with which each chunk begins, and the number of cells at the end. A chunk is run and stored whole. */
  readonly chunkStarts: Uint32Array;
  /** Chunk with which each block begins, and the number of chunks at the end. The chunks of a block share their captured states. */
  readonly blockStarts: Uint32Array;
  /** Chunks that are run twice. */
  readonly repeats: readonly number[];
  /** Tokens that are scored for every cell. */
  readonly trackedTokens: readonly number[];
  /** What is scored behind each target, where it is given. */
  readonly continuation?: readonly ResolvedToken[];
  readonly cacheLayout: CacheLayout;
  /** Of the variants that have one other than the identity, by name. */
  readonly mappings: ReadonlyMap<string, FittedMapping>;
  /** Where the source model's own next token is read from, if a metric compares with it: the last block's output. */
  readonly ownPlace?: Place;
  /** Of all that is above. */
  readonly sha256: string;
}

/** One cell, read out of the columns. */
export interface Cell {
  readonly pair: Pair;
  /** Whose source is captured. */
  readonly sourcePair: Pair;
  readonly source: Place;
  readonly target: Place;
  readonly control: Control;
  readonly draw: number;
}

/**
 * @param tokenizer of the source's model, and its `shape`.
 * @param target the target's model. Default: the source's.
 * @throws PatchscopeError `bad_input` where the experiment does not fit the models.
 */
export function makePlan(
  experiment: Experiment,
  tokenizer: Tokenizer,
  shape: ModelShape,
  target: PlannedModel = { tokenizer, record: shape },
): Plan {
  const models = { source: { tokenizer, record: shape }, target };
  const variants = variantsOf(experiment);
  const continuation = resolveContinuation(experiment.reading, target.tokenizer);
  const steps = stepCount({ continuation, experiment });
  const pairs = resolvePairs(experiment, variants, models, Math.max(0, steps - 1));
  checkKnownAndProbe(experiment);
  const own = experiment.metrics?.some(needsOwn) ?? false;
  if (own && variants.some(({ sourceSide }) => sourceSide === 'encoder')) {
    throw new PatchscopeError(
      'bad_input',
      "An encoder says no next token to compare with: take sources of the decoder's side, or leave out the metrics precision-at-1 and surprisal.",
    );
  }
  const places = new PlaceList();
  const grids = new Map(variants.map((variant) => [variant.name, placePairs(variant, models, places)]));
  const arranged = cutRepeats(
    arrangeCells({
      experiment,
      steps,
      pairs,
      grids,
      stateBytes: 4 * shape.embeddingSize,
      sourceBytes: own ? 4 * tokenizer.vocabularySize : 0,
    }),
    { count: experiment.controls?.repeat ?? 0, seed: experiment.seed },
  );
  const plan = {
    experiment,
    pairs,
    places: places.all,
    ...arranged,
    cellCount: arranged.cells.pair.length,
    trackedTokens: trackedTokens(experiment.reading.tracked ?? [], target.tokenizer),
    ...(continuation && { continuation }),
    mappings: mappingsOf(variants, grids, places.all, models),
    ...(own && { ownPlace: { site: 'resid_out' as const, layer: shape.layerCount - 1 } }),
    cacheLayout: layoutOf(pairs, arranged, steps, target.record),
  };
  return { ...plan, sha256: hashOf(plan) };
}

/** Tokens that are read of each cell, at most. */
export function stepCount({
  continuation,
  experiment: { reading, variants = [] },
}: {
  readonly continuation?: readonly ResolvedToken[] | undefined;
  readonly experiment: Experiment;
}): number {
  return (
    continuation?.length ??
    Math.max(reading.maxTokens, ...variants.map(({ maxTokens = reading.maxTokens }) => maxTokens))
  );
}

export function chunkCount({ chunkStarts }: Plan): number {
  return chunkStarts.length - 1;
}

/** The first cell of a chunk and the first one after it. */
export function chunkRange({ chunkStarts }: Plan, chunk: number): readonly [number, number] {
  return [chunkStarts[chunk]!, chunkStarts[chunk + 1]!];
}

/** How many cells some chunks have. */
export function cellsIn(plan: Plan, chunks: readonly number[]): number {
  return chunks.reduce((sum, chunk) => {
    const [begin, end] = chunkRange(plan, chunk);
    return sum + end - begin;
  }, 0);
}

/** The first cell of a chunk's block and the first one after it. */
export function blockRange({ chunkStarts, blockStarts }: Plan, chunk: number): readonly [number, number] {
  const after = blockStarts.findIndex((start) => start > chunk);
  return [chunkStarts[blockStarts[after - 1]!]!, chunkStarts[blockStarts[after]!]!];
}

export function cellAt({ pairs, places, cells }: Plan, index: number): Cell {
  return {
    pair: pairs[cells.pair[index]!]!,
    sourcePair: pairs[cells.sourcePair[index]!]!,
    source: places[cells.source[index]!]!,
    target: places[cells.target[index]!]!,
    control: controls[cells.control[index]!]!,
    draw: cells.draw[index]!,
  };
}

/** The pair of a sample and a variant. */
export function pairOf({ experiment, pairs }: Plan, sample: number, variant: string): Pair {
  const variants = pairs.length / experiment.samples.length;
  return pairs.slice(sample * variants, (sample + 1) * variants).find((pair) => pair.variant === variant)!;
}

/** The layout that suits the target prompt of the most cells. */
function layoutOf(
  pairs: readonly Pair[],
  { cells, chunkStarts }: Pick<Plan, 'cells' | 'chunkStarts'>,
  steps: number,
  { batchRows, noStreams }: ModelShape,
): CacheLayout {
  if (noStreams !== null) return 'unified';
  const counts = new Map<ResolvedPrompt, number>();
  for (const pair of cells.pair) {
    const { target } = pairs[pair]!;
    counts.set(target, (counts.get(target) ?? 0) + 1);
  }
  const [target, count] = [...counts].reduce((most, one) => (one[1] > most[1] ? one : most));
  const { tokenIndex, tokenIds } = target;
  return chooseCacheLayout({
    prefixTokens: tokenIndex,
    rowTokens: tokenIds.length - tokenIndex,
    generatedTokens: steps,
    rows: Math.min(count, chunkStarts[1]!),
    batchRows,
  });
}

/** Every place has one number. */
class PlaceList {
  readonly all: Place[] = [];
  readonly #numbers = new Map<string, number>();

  numberOf(place: Place): number {
    const key = `${place.site} ${place.layer}`;
    const known = this.#numbers.get(key);
    if (known !== undefined) return known;
    this.#numbers.set(key, this.all.length);
    this.all.push(place);
    return this.all.length - 1;
  }
}

/** Source and target place of each cell of a pair, by number, target by target. */
function placePairs(
  { sourceLayers, sourceSite, sourceSide, targetLayers, targetSite, targetSide }: VariantSettings,
  models: PlannedModels,
  list: PlaceList,
): [source: number, target: number][] {
  const layersOf = ({ record }: PlannedModel, side: Side = 'decoder') =>
    side === 'encoder' ? (record.encoderLayerCount ?? 0) : record.layerCount;
  const targetsOf = (selector: string) =>
    parsePlaces(selector, layersOf(models.target, targetSide), targetSite);
  const sources = parsePlaces(sourceLayers, layersOf(models.source, sourceSide), sourceSite);
  const relative = relations[targetLayers.trim()];
  const everywhere = targetSite === undefined || targetSite === 'resid_out' ? 'embed,all' : 'all';
  const targets = targetsOf(relative === undefined ? targetLayers : everywhere);
  const pairs =
    relative === 'same'
      ? sources.map((source) => [source, targetsOf(String(source.layer))[0]!] as const)
      : targets.flatMap((target) =>
          sources
            .filter((source) => relative === undefined || relative(rank(target), rank(source)))
            .map((source) => [source, target] as const),
        );
  if (pairs.length === 0) {
    throw new PatchscopeError(
      'bad_input',
      `No target layer lies ${targetLayers.trim()} any of the source layers ${sourceLayers}: choose others.`,
    );
  }
  return pairs.map(([source, target]) => [list.numberOf(source), list.numberOf(target)]);
}

/** Target layers that are told by the source layer; `embed` lies below all others. */
const relations: Readonly<Record<string, 'same' | ((target: number, source: number) => boolean)>> = {
  same: 'same',
  below: (target, source) => target < source,
  above: (target, source) => target > source,
};

function rank({ layer }: Place): number {
  return layer === 'embed' ? -1 : layer;
}

function hashOf(plan: Omit<Plan, 'sha256'>): string {
  const hash = createHash('sha256');
  const add = (value: unknown) => hash.update(JSON.stringify(value)).update('\n');
  const { samples, ...settings } = plan.experiment;
  add(keptSettings(settings));
  for (const sample of samples) add(sample);
  for (const pair of plan.pairs) add(pair);
  add([plan.places, plan.trackedTokens, plan.continuation, plan.cacheLayout, plan.ownPlace, plan.repeats]);
  for (const column of [...Object.values(plan.cells), plan.chunkStarts, plan.blockStarts]) {
    hash.update(new Uint8Array(column.buffer, column.byteOffset, column.byteLength));
  }
  return hash.digest('hex');
}
