/** Plan x engine -> outcomes, chunk by chunk; a failed cell is an outcome, not an exception. */
import { isDeepStrictEqual } from 'node:util';
import type { Edit, Engine, PatchRow, RowResult, StepReading, TokenReading, WorkOptions } from './engine.js';
import { norm } from './floats.js';
import { Mapper, type MapTask } from './mapping/mapper.js';
import { measure, needsUnpatched } from './metrics.js';
import type { Observation, Outcome, TokenRelevancy, TokenScore } from './observation.js';
import { OwnEdits } from './own-edits.js';
import { type OwnReading, ownReading } from './own-readings.js';
import { cutsAt } from './plan/cuts.js';
import { movesOfPair } from './plan/pairs.js';
import { blockRange, cellAt, chunkCount, chunkRange, drawAt, movesAt, type Plan } from './plan/plan.js';
import { isVector, type ResolvedSource } from './plan/sources.js';
import { inputOf, type ResolvedPrompt, tokenText } from './prompts.js';
import { gaussians, seedOf } from './random.js';
import { leftAsItIs, type Relevancy, relevancies } from './relevancy.js';
import {
  addNeeded,
  CapturedStates,
  captureStates,
  type Failure,
  type Needed,
  pointOf,
  type SourceStates,
  type States,
} from './source-states.js';
import { directionless, valuesFrom } from './vector-values.js';
import { Translation } from './vocabulary.js';

export interface RunOptions extends WorkOptions {
  /** Chunks to run, in this order. Default: all. */
  readonly chunks?: Iterable<number>;
}

/** What came of one chunk, in the order of its cells. */
export interface ChunkResult {
  readonly chunk: number;
  readonly observations: readonly Observation[];
}

/** Anything that runs the cells of a chunk: in this process, or in another one. */
export interface Runner {
  run(chunk: number, options?: WorkOptions): Promise<readonly Outcome[]>;
}

/**
 * Yields what came of each chunk; of those to repeat what came the first time, and whether the second time was the
 * same. Where the signal aborts, the chunk under way is given up.
 */
export async function* run(
  plan: Plan,
  runner: Runner,
  { chunks = allChunks(plan), signal }: RunOptions = {},
): AsyncGenerator<ChunkResult> {
  for (const chunk of chunks) {
    if (signal?.aborted) return;
    const attempt = () => runner.run(chunk, { signal }).catch(unlessAborted(signal));
    const outcomes = await attempt();
    const isRepeated = plan.repeats.includes(chunk);
    const again = isRepeated && outcomes !== undefined ? await attempt() : undefined;
    if (outcomes === undefined || (isRepeated && again === undefined)) return;
    const [begin] = chunkRange(plan, chunk);
    yield {
      chunk,
      observations: outcomes.map((outcome, i) => ({
        ...observe(plan, begin + i, outcome),
        ...(again && { differs: !isDeepStrictEqual(outcome, again[i]) }),
      })),
    };
  }
}

/** Work that was given up gives nothing; any other failure is thrown on. */
export function unlessAborted(signal: AbortSignal | undefined): (error: unknown) => undefined {
  return (error) => {
    if (!signal?.aborted || (error !== signal.reason && (error as Error).name !== 'AbortError')) throw error;
  };
}

export function allChunks(plan: Plan): number[] {
  return Array.from({ length: chunkCount(plan) }, (_, chunk) => chunk);
}

function observe(plan: Plan, index: number, outcome: Outcome): Observation {
  const { pair, source, target, control, draw } = cellAt(plan, index);
  const isPatched = control !== 'unpatched';
  return {
    sample: pair.sample,
    variant: pair.variant,
    sourceSite: source.site,
    targetSite: target.site,
    ...(pair.swept !== undefined && { move: pair.swept * movesOfPair(pair).length }),
    sourceLayer: isPatched ? source.layer : null,
    targetLayer: isPatched ? target.layer : null,
    mapping: plan.mappings.get(pair.variant)?.name ?? 'identity',
    control,
    draw,
    ...outcome,
  };
}

/**
 * Runs chunks of one plan on one engine. What comes of a chunk depends on the plan and the engine alone. A chunk that is
 * run again is run from the captures on; states that were captured ahead, and lie in a file, are read from it again.
 */
export class ChunkRunner implements Runner {
  readonly #plan: Plan;
  readonly #engine: Engine;
  readonly #sources: SourceStates;
  readonly #mapper: Mapper;
  readonly #ownEdits: OwnEdits;
  readonly #translations: { readonly toSource: Translation; readonly toTarget: Translation } | undefined;
  /** Of one block, known by its first cell, and the chunks that were run from it. */
  #captured: { readonly block: number; readonly of: Captured; readonly chunks: Set<number> } | undefined;

  /**
   * @param engine of the target's model.
   * @param sources where states come from. Default: the same engine.
   */
  constructor(plan: Plan, engine: Engine, sources: SourceStates = new CapturedStates(plan, engine)) {
    this.#plan = plan;
    this.#engine = engine;
    this.#sources = sources;
    this.#mapper = new Mapper(engine.record.threads);
    this.#ownEdits = new OwnEdits(plan, engine);
    if (plan.ownPlace !== undefined) {
      const [own, other] = [sources.tokenizer, engine.tokenizer];
      this.#translations = {
        toSource: new Translation(other, own),
        toTarget: new Translation(own, other),
      };
    }
  }

  async run(chunk: number, options: WorkOptions = {}): Promise<Outcome[]> {
    const [block, blockEnd] = blockRange(this.#plan, chunk);
    if (this.#captured?.block !== block || this.#captured.chunks.has(chunk)) {
      this.#captured = undefined; // makes room for the next ones
      const of = this.#read(await this.#sources.capture(range(block, blockEnd), options));
      this.#captured = { block, of, chunks: new Set() };
    }
    this.#captured.chunks.add(chunk);
    return this.#patch(range(...chunkRange(this.#plan, chunk)), this.#captured.of, options);
  }

  /** Some cells alone, with nothing kept: their batches are not those of the whole chunk. */
  async runCells(cells: readonly number[], options: WorkOptions = {}): Promise<Outcome[]> {
    return this.#patch(cells, this.#read(await this.#sources.capture(cells, options)), options);
  }

  #read({ states, next }: Awaited<ReturnType<SourceStates['capture']>>): Captured {
    const own = [...next].map(
      ([source, tokens]) => [source, tokens.map((token) => ownReading(token, this.#translations!))] as const,
    );
    return { states, own: new Map(own) };
  }

  async #patch(
    cells: readonly number[],
    { states, own }: Captured,
    options: WorkOptions,
  ): Promise<Outcome[]> {
    const { experiment, trackedTokens, cacheLayout } = this.#plan;
    const vectors = await this.#map(cells, states);
    const met = await this.#metStates(cells, options);
    await this.#ownEdits.capture(
      cells.map((index) => cellAt(this.#plan, index).pair),
      options,
    );
    const rows: PatchRow[] = [];
    const rowPlaces: number[] = [];
    const outcomes = new Array<Outcome>(cells.length);
    cells.forEach((index, i) => {
      const edits = this.#edits(index, vectors[i]!);
      const before = this.#ownEdits.of(cellAt(this.#plan, index).pair, drawAt(this.#plan, index));
      if ('error' in edits || 'error' in before) {
        outcomes[i] = failedOutcome('error' in edits ? edits : (before as Failure));
        return;
      }
      const row = this.#row(index, edits, own);
      if ('error' in row) {
        outcomes[i] = failedOutcome(row);
        return;
      }
      rows.push({ ...row, ...(before.length > 0 && { ownEdits: before }) });
      rowPlaces.push(i);
    });
    const { topK, maxTokens, stop, sampling } = experiment.reading;
    const reading = { topK, maxTokens, stop, trackedTokens, ...(sampling && { sampling }) };
    const results = await this.#engine.patch(rows, reading, { ...options, cacheLayout });
    const relevancies = await this.#relevancies(rows, results, options);
    results.forEach((result, k) => {
      const place = rowPlaces[k]!;
      const relevancy = relevancies?.[k];
      if (relevancy !== undefined && 'error' in relevancy) {
        outcomes[place] = failedOutcome(relevancy);
        return;
      }
      const { vector } = rows[k]!.edits[0]!;
      const ratio = vector && this.#normRatio(cells[place]!, vector, met);
      outcomes[place] = {
        ...this.#outcome(cells[place]!, result, own, relevancy),
        ...(ratio !== undefined && { normRatio: ratio }),
      };
    });
    return outcomes;
  }

  /** Of each row; undefined where it was not read. */
  async #relevancies(
    rows: readonly PatchRow[],
    results: readonly RowResult[],
    options: WorkOptions,
  ): Promise<readonly (Relevancy | undefined)[] | undefined> {
    const { experiment, cacheLayout } = this.#plan;
    if (!experiment.metrics?.some(needsUnpatched)) return undefined;
    return relevancies(this.#engine, rows, results, { ...options, cacheLayout });
  }

  /** What the target prompts themselves have where they are patched first. */
  #metStates(cells: readonly number[], options: WorkOptions): Promise<States> {
    const needed: Needed = new Map();
    for (const index of cells) {
      const { pair, target, control } = cellAt(this.#plan, index);
      if (control !== 'unpatched' && pair.patch.op !== 'scale') addNeeded(needed, pair.target, target);
    }
    return captureStates(this.#engine, needed, options);
  }

  #normRatio(index: number, vector: Float32Array, met: States): number | undefined {
    const { pair, target } = cellAt(this.#plan, index);
    const state = met.get(pair.target)!.get(target)!;
    const ratio = state instanceof Float32Array ? norm(vector) / norm(state) : Number.NaN;
    return Number.isFinite(ratio) ? ratio : undefined;
  }

  /** What each cell is patched with, move by move; nothing where nothing is patched. */
  async #map(cells: readonly number[], states: States): Promise<(Float32Array | Failure)[][]> {
    const tasks: MapTask[] = [];
    const mapped: [cell: number, move: number, task: number][] = [];
    const valuesOf = valuesFrom(states);
    const vectors = cells.map((index, i) => {
      const { pair, sourcePair, control } = cellAt(this.#plan, index);
      const mapping = this.#plan.mappings.get(pair.variant);
      if (control === 'unpatched') return [];
      const seed = () => seedOf(this.#plan.experiment.seed, sourcePair.sample, drawAt(this.#plan, index));
      const moves = movesAt(this.#plan, index);
      const sources = [...new Set(moves.map(({ from }) => from))];
      // a state that goes to several positions is one and the same
      const values = new Map<string, Float32Array | Failure>();
      const known = new Map<string, number>();
      return moves.map(({ from, source, target }, k) => {
        const key = `${sources.indexOf(from)} ${source.layer}`;
        const wanted = { place: source, width: this.#sources.width, seed };
        const state = values.get(key) ?? valuesOf(from, wanted);
        values.set(key, state);
        if (mapping !== undefined && state instanceof Float32Array) {
          const way = `${key} ${target.layer}`;
          const task = known.get(way) ?? tasks.push({ mapping, source, target, state }) - 1;
          known.set(way, task);
          mapped.push([i, k, task]);
        }
        return state;
      });
    });
    const results = await this.#mapper.map(tasks);
    for (const [i, k, task] of mapped) {
      vectors[i]![k] = results[task]!.every(Number.isFinite) ? results[task]! : notFinite;
    }
    return vectors;
  }

  /** What is done to the target, or why nothing can be. */
  #edits(index: number, states: readonly (Float32Array | Failure)[]): Edit[] | Failure {
    const { pair, target, control } = cellAt(this.#plan, index);
    // goes along with the patched rows of its prompt, and leaves its states as they are
    if (control === 'unpatched')
      return movesOfPair(pair).map((move) => leftAsItIs(pointOf(move.target, target)));
    const failed = states.find((state) => !(state instanceof Float32Array));
    if (failed !== undefined) return failed as Failure;
    const captured = states as readonly Float32Array[];
    const vectors = control === 'random' ? randomLike(captured, this.#seed(index)) : captured;
    for (const vector of vectors) {
      const failure = directionless(pair.patch.op, vector);
      if (failure !== undefined) return failure;
    }
    return movesAt(this.#plan, index).map(({ to, target }, k) => ({
      ...pointOf(to, target),
      ...pair.patch,
      ...(pair.patch.op !== 'scale' && { vector: vectors[k]! }),
    }));
  }

  /** What is run, or why nothing can be. */
  #row(index: number, edits: readonly Edit[], own: Captured['own']): PatchRow | Failure {
    const { pair, target, control } = cellAt(this.#plan, index);
    const { continuation, experiment } = this.#plan;
    const layer = control === 'unpatched' ? undefined : target.layer;
    const cuts = pair.cuts && cutsAt(pair.cuts, layer, this.#engine.record.layerCount);
    const { reading } = experiment;
    const ownTokens = ownOf(pair.source, own);
    const given = reading.ownContinuation
      ? spelledTokens(ownTokens)
      : continuation?.map(({ tokenId }) => tokenId);
    if (given?.length === 0) return noContinuation;
    return {
      ...inputOf(pair.target),
      edits,
      ...(cuts && { cuts }),
      ...(pair.contrast && {
        contrast: 'alpha' in pair.contrast ? { ...pair.contrast, edits: [] } : pair.contrast,
      }),
      seed: this.#seed(index),
      trackedTokens: [...new Set([...pair.trackedTokens, ...ownTokens.flatMap(({ tokenIds }) => tokenIds)])],
      ...(pair.maxTokens !== undefined && { maxTokens: pair.maxTokens }),
      ...(given && { continuation: given }),
      ...(reading.stopAtAnswer && { until: pair.answer }),
    };
  }

  #seed(index: number): number {
    return this.#plan.experiment.seed + index;
  }

  #outcome(
    index: number,
    result: RowResult,
    own: Captured['own'],
    relevancy: readonly TokenRelevancy[] | undefined,
  ): Outcome {
    if (result.status === 'failed') return failedOutcome(result);
    const { experiment } = this.#plan;
    const { answer, source, trackedTokens } = cellAt(this.#plan, index).pair;
    const { tokenizer } = this.#engine;
    const read = {
      ...(experiment.reading.ownContinuation
        ? saidAt(result.steps, tokenizer)
        : { text: result.text, tokenIds: result.tokenIds }),
      steps: result.steps.map((step) => scoresOf(step, this.#engine)),
      ...(relevancy && { relevancy }),
    };
    const truth = {
      answer,
      tokenIds: trackedTokens,
      own: ownOf(source, own),
    };
    return {
      status: 'ok',
      error: null,
      ...read,
      scores: measure(experiment.metrics ?? [], read, truth),
    };
  }
}

interface Captured {
  readonly states: States;
  /** What the source's model itself says at each source, where it is needed. */
  readonly own: ReadonlyMap<ResolvedPrompt, readonly OwnReading[]>;
}

/**
 * Tokens of the target that spell the source's own, up to one whose text is no token of the target. Of several with
 * the same text the last: the bytes that a SentencePiece vocabulary spells anything in come first.
 */
function spelledTokens(own: readonly OwnReading[]): number[] {
  const tokens = own.map(({ tokenIds }) => tokenIds.at(-1));
  const end = tokens.indexOf(undefined);
  return tokens.slice(0, end < 0 ? tokens.length : end) as number[];
}

/** What a run says behind each token that was given: the most probable one, whatever follows. */
function saidAt(steps: readonly StepReading[], tokenizer: Engine['tokenizer']) {
  const tokenIds = steps.flatMap(({ top }) => top.slice(0, 1)).map(({ tokenId }) => tokenId);
  const bytes = tokenIds.map((tokenId) => tokenizer.tokenBytes(tokenId));
  return { text: Buffer.concat(bytes).toString('utf8'), tokenIds };
}

const noContinuation = {
  code: 'no_continuation',
  error: "What the source's model itself says next could not be read, or is no token of the target's model.",
} as const;

function ownOf(source: ResolvedSource, own: Captured['own']): readonly OwnReading[] {
  return isVector(source) ? [] : (own.get(source) ?? []);
}

const notFinite = { code: 'not_finite', error: 'The mapped state holds NaN or infinity.' } as const;

function range(begin: number, end: number): number[] {
  return Array.from({ length: end - begin }, (_, i) => begin + i);
}

/** For each distinct state a random direction with the norm of what would be patched. */
function randomLike(states: readonly Float32Array[], seed: number): Float32Array[] {
  const distinct = [...new Set(states)];
  const width = distinct[0]!.length;
  const drawn = gaussians(width * distinct.length, seed);
  const vectors = new Map(
    distinct.map((state, k) => {
      const vector = drawn.subarray(k * width, (k + 1) * width);
      const factor = norm(state) / norm(vector);
      return [state, vector.map((value) => value * factor)];
    }),
  );
  return states.map((state) => vectors.get(state)!);
}

/** The most probable tokens, the chosen one and those tracked, each once, by rank. */
export function scoresOf(reading: TokenReading | StepReading, { tokenizer }: Engine): TokenScore[] {
  const top = reading.top.map((score, rank) => ({ ...score, rank }));
  const further = 'chosen' in reading ? [reading.chosen, ...reading.tracked] : reading.tracked;
  const all = new Map([...further, ...top].map((score) => [score.tokenId, score]));
  return [...all.values()]
    .sort((a, b) => a.rank - b.rank)
    .map((score) => ({ ...score, token: tokenText(score.tokenId, tokenizer) }));
}

/** What a cell without a reading holds. */
export function failedOutcome({ code, error }: Failure): Outcome {
  return { status: 'failed', error: `${code}: ${error}`, text: null, tokenIds: [], steps: [], scores: {} };
}
