/**
 * Experiment -> plan: every prompt as token ids, every position as an index, every cell numbered. Pure data,
 * made with tokenizers alone; the same experiment gives the same plan.
 */
import { createHash } from 'node:crypto';
import { chooseCacheLayout } from '../cache-layout.js';
import { type ResolvedToken, resolveContinuation } from '../continuation.js';
import type { CacheLayout, Tokenizer } from '../engine.js';
import { PatchscopeError } from '../errors.js';
import { ownTokensFor } from '../metrics.js';
import { type Control, controls, type Experiment, type FittedMapping, type Side } from '../patchscope.js';
import { type Place, parsePlaces } from '../places.js';
import { inputOf, type ResolvedPrompt } from '../prompts.js';
import { arrangeCells, type CellColumns, type Grid, type Windows, windowKey } from './arrange.js';
import { checkVectors, VectorVariants } from './check-vectors.js';
import { sequencesOf } from './contrast.js';
import { checkFidelity } from './fidelity.js';
import { keptSettings, mappingsOf } from './mappings.js';
import {
  type ModelShape,
  movesOfPair,
  type Pair,
  type PlannedModel,
  type PlannedModels,
  resolvePairs,
  sharedTokens,
  trackedTokens,
  type VariantSettings,
  variantsOf,
} from './pairs.js';
import { checkKnownAndProbe } from './probe-units.js';
import { cutRepeats } from './repeats.js';
import { identityOf, type ResolvedSource } from './sources.js';
import { windowAround } from './windows.js';

export interface Plan {
  readonly experiment: Experiment;
  /** Sample by sample, the variants of each in their order. */
  readonly pairs: readonly Pair[];
  /** Distinct places, to which cells refer. */
  readonly places: readonly Place[];
  /** Of the variants that patch several layers in a cell, by name. */
  readonly windows: ReadonlyMap<string, Windows>;
  /** In the order of execution. */
  readonly cells: CellColumns;
  readonly cellCount: number;
  /** Cell with which each chunk begins, and the number of cells at the end. A chunk is run and stored whole. */
  readonly chunkStarts: Uint32Array;
  /** Chunk with which each block begins, and the number of chunks at the end. The chunks of a block share their captured states. */
  readonly blockStarts: Uint32Array;
  /** How often each cell of a variant is run, by the variant's name. */
  readonly draws: ReadonlyMap<string, number>;
  /** Chunks that are run twice. */
  readonly repeats: readonly number[];
  /** Tokens that are scored for every cell. */
  readonly trackedTokens: readonly number[];
  /** What is scored behind each target, where it is given. */
  readonly continuation?: readonly ResolvedToken[];
  readonly cacheLayout: CacheLayout;
  /** Of the variants that have one other than the identity, by name. */
  readonly mappings: ReadonlyMap<string, FittedMapping>;
  /** Where the source model's own next token is read from, if it is compared with: the last block's output. */
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

/** One state of a cell: where it is taken and where it is written. */
export interface CellMove {
  readonly from: ResolvedSource;
  readonly source: Place;
  readonly to: ResolvedPrompt;
  readonly target: Place;
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
  const ownTokens = ownTokenCount(experiment);
  const own = ownTokens > 0;
  if (own && variants.some(({ sourceSide }) => sourceSide === 'encoder')) {
    throw new PatchscopeError(
      'bad_input',
      "An encoder says no next token to compare with: take sources of the decoder's side, or leave out metrics such as precision-at-1 and surprisal.",
    );
  }
  const vectors = new VectorVariants(pairs);
  if (own) vectors.refuse('says no next token for the metrics precision-at-1 and surprisal: leave these out');
  if (experiment.probe) vectors.refuse('a probe learns from the states of source prompts: leave probe out');
  checkKnownAndProbe(experiment);
  checkFidelity(experiment);
  if (experiment.controls?.shuffled)
    vectors.refuse(
      "is no state of a sample, another one's of which the control shuffled takes: leave it out",
    );
  const places = new PlaceList();
  const grids = new Map(
    variants.map((variant) => [
      variant.name,
      vectors.isLayered(variant.name)
        ? placePairs(variant, models, places)
        : targetPlaces(variant, models, places),
    ]),
  );
  checkCutWindows(pairs, grids, places.all);
  checkVectors(pairs, grids, places.all, models);
  const windows = new Map(
    variants
      .filter(({ window }) => window !== undefined)
      .map((variant) => [variant.name, windowsOf(variant, grids.get(variant.name)!, models, places)]),
  );
  const draws = new Map(variants.map(({ name, draws = 1 }) => [name, draws]));
  const arranged = cutRepeats(
    arrangeCells({
      experiment,
      steps,
      pairs,
      grids,
      windows,
      draws,
      stateBytes: 4 * shape.embeddingSize,
      sourceBytes: 4 * tokenizer.vocabularySize * ownTokens,
    }),
    { count: experiment.controls?.repeat ?? 0, seed: experiment.seed },
  );
  const plan = {
    experiment,
    pairs,
    places: places.all,
    windows,
    draws,
    ...arranged,
    cellCount: arranged.cells.pair.length,
    trackedTokens: trackedTokens(experiment.reading.tracked ?? [], target.tokenizer),
    ...(continuation && { continuation }),
    mappings: mappingsOf(variants, withWindows(grids, windows), places.all, models),
    ...(own && { ownPlace: { site: 'resid_out' as const, layer: shape.layerCount - 1 } }),
    cacheLayout: layoutOf(pairs, arranged, steps, target.record),
  };
  return { ...plan, sha256: hashOf(plan) };
}

/**
 * How many tokens of what the source's model itself says are read behind each source.
 *
 * @throws PatchscopeError `bad_input` where it is not the only way to go on.
 */
export function ownTokenCount({ reading, metrics = [] }: Pick<Experiment, 'reading' | 'metrics'>): number {
  const { ownContinuation = false, continuation, sampling, stop, stopAtAnswer = false, maxTokens } = reading;
  const needed = Math.max(0, ...metrics.map(ownTokensFor));
  if (
    ownContinuation &&
    (continuation !== undefined || sampling !== undefined || stop.length > 0 || stopAtAnswer)
  ) {
    throw new PatchscopeError(
      'bad_input',
      "The model's own continuation is scored to its end: leave out another one, how tokens are drawn and where they stop.",
    );
  }
  if (needed > (ownContinuation ? maxTokens : 1)) {
    throw new PatchscopeError(
      'bad_input',
      `A metric compares ${needed} tokens with the model's own: the reading must have its own continuation, and as many tokens.`,
    );
  }
  return ownContinuation ? maxTokens : needed;
}

/** A window of cut layers lies around a block. */
function checkCutWindows(
  pairs: readonly Pair[],
  grids: ReadonlyMap<string, readonly (readonly [source: number, target: number])[]>,
  places: readonly Place[],
): void {
  for (const { variant, cuts = [] } of pairs) {
    if (!cuts.some(({ layers }) => 'around' in layers)) continue;
    if (grids.get(variant)!.every(([, target]) => places[target]!.layer !== 'embed')) continue;
    throw new PatchscopeError(
      'bad_input',
      `The variant '${variant}' cuts attention in layers around the one that is patched, and embed is no block: leave it out of its target layers.`,
    );
  }
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

/** All that a cell patches: first the state at its own places, from its first position to its first position. */
export function movesAt(plan: Plan, index: number): CellMove[] {
  const { pair, sourcePair, source, target } = cellAt(plan, index);
  const { cells, places, windows } = plan;
  const others = windows.get(pair.variant)?.get(windowKey(cells.source[index]!, cells.target[index]!)) ?? [];
  const sources = movesOfPair(sourcePair);
  return [[source, target] as const, ...others.map(([a, b]) => [places[a]!, places[b]!] as const)].flatMap(
    ([source, target]) =>
      movesOfPair(pair).map((move, i) => ({
        from: sourcePair === pair ? move.source : sources[i % sources.length]!.source,
        source,
        to: move.target,
        target,
      })),
  );
}

/** Which of the draws of its variant a cell belongs to. */
export function drawAt(plan: Plan, index: number): number {
  const { pair, draw } = cellAt(plan, index);
  return draw % plan.draws.get(pair.variant)!;
}

/** The pair of a sample and a variant, the first where it goes through several positions. */
export function pairOf({ pairs }: Plan, sample: number, variant: string): Pair {
  let [begin, end] = [0, pairs.length];
  while (begin < end) {
    const middle = (begin + end) >> 1;
    if (pairs[middle]!.sample < sample) begin = middle + 1;
    else end = middle;
  }
  while (pairs[begin]!.variant !== variant) begin++;
  return pairs[begin]!;
}

/** The layout that suits the most cells that share a beginning of their target prompt. */
function layoutOf(
  pairs: readonly Pair[],
  { cells, chunkStarts }: Pick<Plan, 'cells' | 'chunkStarts'>,
  steps: number,
  { batchRows, noStreams }: ModelShape,
): CacheLayout {
  if (noStreams !== null) return 'unified';
  const counts = new Map<readonly number[], Map<number, number>>();
  for (const index of cells.pair) {
    const pair = pairs[index]!;
    const { tokenIds } = inputOf(pair.target);
    const [byPrefix, shared] = [counts.get(tokenIds) ?? new Map<number, number>(), sharedTokens(pair)];
    counts.set(tokenIds, byPrefix.set(shared, (byPrefix.get(shared) ?? 0) + sequencesOf(pair)));
  }
  const groups = [...counts].flatMap(([tokenIds, byPrefix]) =>
    [...byPrefix].map(([shared, count]) => ({ length: tokenIds.length, shared, count })),
  );
  const { length, shared, count } = groups.reduce((most, one) => (one.count > most.count ? one : most));
  return chooseCacheLayout({
    prefixTokens: shared,
    rowTokens: length - shared,
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

function layersOf({ record }: PlannedModel, side: Side = 'decoder'): number {
  return side === 'encoder' ? (record.encoderLayerCount ?? 0) : record.layerCount;
}

function windowsOf(
  { window, sourceSide, targetSide }: VariantSettings,
  grid: Grid,
  models: PlannedModels,
  list: PlaceList,
): Windows {
  const counts = [layersOf(models.source, sourceSide), layersOf(models.target, targetSide)] as const;
  return new Map(
    grid.map(([source, target]) => [
      windowKey(source, target),
      windowAround(window!, [list.all[source]!, list.all[target]!], counts).map(
        ([a, b]) => [list.numberOf(a), list.numberOf(b)] as const,
      ),
    ]),
  );
}

/** Every place that some cell of a variant takes a state from, with where it goes. */
function withWindows(
  grids: ReadonlyMap<string, Grid>,
  windows: ReadonlyMap<string, Windows>,
): ReadonlyMap<string, Grid> {
  return new Map(
    [...grids].map(([name, grid]) => [name, [...grid, ...[...(windows.get(name)?.values() ?? [])].flat()]]),
  );
}

/** Source and target place of each cell of a pair, by number, target by target. */
function placePairs(
  { sourceLayers, sourceSite, sourceSide, targetLayers, targetSite, targetSide, window }: VariantSettings,
  models: PlannedModels,
  list: PlaceList,
): [source: number, target: number][] {
  const targetsOf = (selector: string) =>
    parsePlaces(selector, layersOf(models.target, targetSide), targetSite);
  const sources = parsePlaces(sourceLayers, layersOf(models.source, sourceSide), sourceSite);
  const relative = relations[targetLayers.trim()];
  const hasEmbed = (targetSite === undefined || targetSite === 'resid_out') && window === undefined;
  const everywhere = hasEmbed ? 'embed,all' : 'all';
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

/**
 * The same for a vector that has no layer of its own: each target place stands for both. Where a target layer is
 * told by the source layer, the source layers are those of the target.
 */
function targetPlaces(
  { name, sourceLayers, targetLayers, targetSite, targetSide }: VariantSettings,
  { target }: PlannedModels,
  list: PlaceList,
): [source: number, target: number][] {
  const relative = relations[targetLayers.trim()];
  if (typeof relative === 'function') {
    throw new PatchscopeError(
      'bad_input',
      `The source of the variant '${name}' is a vector without a layer, than which no target layer lies ${targetLayers.trim()}: name the target layers.`,
    );
  }
  const count = layersOf(target, targetSide);
  return parsePlaces(relative === 'same' ? sourceLayers : targetLayers, count, targetSite).map((place) => {
    const number = list.numberOf(place);
    return [number, number];
  });
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
  const add = (value: unknown) => hash.update(identityOf(value)).update('\n');
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
