/** Plan x engine -> outcomes, chunk by chunk; a failed cell is an outcome, not an exception. */
import { isDeepStrictEqual } from 'node:util';
import type {
  CapturePoint,
  CaptureRequest,
  Edit,
  Engine,
  PatchRow,
  RowResult,
  StepReading,
  TokenReading,
  WorkOptions,
} from './engine.js';
import { concatenate } from './floats.js';
import { Mapper, type MapTask } from './mapping/mapper.js';
import { measure } from './metrics.js';
import type { Observation, Outcome, TokenScore } from './observation.js';
import { type OwnReading, ownReading } from './own-readings.js';
import type { Place } from './places.js';
import { blockRange, cellAt, chunkCount, chunkRange, type Plan } from './plan/plan.js';
import { inputOf, type ResolvedPrompt, tokenText } from './prompts.js';
import { gaussians } from './random.js';

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
    sourceLayer: isPatched ? source.layer : null,
    targetLayer: isPatched ? target.layer : null,
    mapping: plan.mappings.get(pair.variant)?.name ?? 'identity',
    control,
    draw,
    ...outcome,
  };
}

export type KeepState = (source: ResolvedPrompt, place: Place, state: Float32Array) => void;

/**
 * Runs chunks of one plan on one engine. What comes of a chunk depends on the plan and the engine alone. A chunk that is
 * run again is run from the captures on.
 */
export class ChunkRunner implements Runner {
  readonly #plan: Plan;
  readonly #engine: Engine;
  readonly #keep: KeepState;
  readonly #mapper: Mapper;
  /** Of one block, known by its first cell, and the chunks that were run from it. */
  #captured: { readonly block: number; readonly of: Captured; readonly chunks: Set<number> } | undefined;

  /** @param keep is given each state that is captured. */
  constructor(plan: Plan, engine: Engine, keep: KeepState = () => undefined) {
    this.#plan = plan;
    this.#engine = engine;
    this.#keep = keep;
    this.#mapper = new Mapper(engine.record.threads);
  }

  async run(chunk: number, options: WorkOptions = {}): Promise<Outcome[]> {
    const [block, blockEnd] = blockRange(this.#plan, chunk);
    if (this.#captured?.block !== block || this.#captured.chunks.has(chunk)) {
      this.#captured = undefined; // makes room for the next ones
      const of = await this.#capture(range(block, blockEnd), options);
      this.#captured = { block, of, chunks: new Set() };
    }
    this.#captured.chunks.add(chunk);
    return this.#patch(range(...chunkRange(this.#plan, chunk)), this.#captured.of, options);
  }

  /** Some cells alone, with nothing kept: their batches are not those of the whole chunk. */
  async runCells(cells: readonly number[], options: WorkOptions = {}): Promise<Outcome[]> {
    return this.#patch(cells, await this.#capture(cells, options), options);
  }

  async #capture(cells: readonly number[], options: WorkOptions): Promise<Captured> {
    const { ownPlace } = this.#plan;
    const needed = new Needed();
    for (const index of cells) {
      const { sourcePair, source, control } = cellAt(this.#plan, index);
      if (control !== 'unpatched') needed.add(sourcePair.source, source);
    }
    if (ownPlace !== undefined) for (const source of needed.places.keys()) needed.add(source, ownPlace);
    const states = await this.#states(needed, options);
    for (const [source, of] of states) {
      for (const [place, state] of of) {
        if (state instanceof Float32Array) this.#keep(source, place, state);
      }
    }
    return { states, own: ownPlace ? await this.#readOwn(states, ownPlace, options) : new Map() };
  }

  async #states({ places }: Needed, options: WorkOptions): Promise<States> {
    const requests = [...places].map(([prompt, of]) => ({ prompt, of: [...of] }));
    const captured = await captureLayers(
      this.#engine,
      requests.map(({ prompt, of }) => ({
        ...inputOf(prompt),
        points: of.map((place) => pointOf(prompt, place)),
      })),
      options,
    );
    return new Map(
      requests.map(({ prompt, of }, i) => [
        prompt,
        new Map(of.map((place, k) => [place, captured[i]![k]!] as const)),
      ]),
    );
  }

  /** What the model says next where its last block's output is its own. */
  async #readOwn(states: States, place: Place, options: WorkOptions): Promise<Captured['own']> {
    const own = [...states].flatMap(([source, of]) => {
      const state = of.get(place);
      return state instanceof Float32Array ? [{ source, state }] : [];
    });
    if (own.length === 0) return new Map();
    const results = await this.#engine.lens(
      concatenate(own.map(({ state }) => state)),
      { topK: 1, logits: true },
      options,
    );
    return new Map(
      results.flatMap((result, i) =>
        result.status === 'ok' ? [[own[i]!.source, ownReading(result.logits!, result.top[0]!)] as const] : [],
      ),
    );
  }

  async #patch(
    cells: readonly number[],
    { states, own }: Captured,
    options: WorkOptions,
  ): Promise<Outcome[]> {
    const { experiment, trackedTokens, cacheLayout } = this.#plan;
    const vectors = await this.#map(cells, states);
    const met = await this.#metStates(cells, options);
    const rows: PatchRow[] = [];
    const rowPlaces: number[] = [];
    const outcomes = new Array<Outcome>(cells.length);
    cells.forEach((index, i) => {
      const edit = this.#edit(index, vectors[i]);
      if ('error' in edit) {
        outcomes[i] = failedOutcome(edit);
        return;
      }
      rows.push(this.#row(index, edit, own));
      rowPlaces.push(i);
    });
    const { topK, maxTokens, stop, sampling } = experiment.reading;
    const reading = { topK, maxTokens, stop, trackedTokens, ...(sampling && { sampling }) };
    const results = await this.#engine.patch(rows, reading, { ...options, cacheLayout });
    results.forEach((result, k) => {
      const place = rowPlaces[k]!;
      const { vector } = rows[k]!.edits[0]!;
      const ratio = vector && this.#normRatio(cells[place]!, vector, met);
      outcomes[place] = {
        ...this.#outcome(cells[place]!, result, own),
        ...(ratio !== undefined && { normRatio: ratio }),
      };
    });
    return outcomes;
  }

  /** What the target prompts themselves have where they are patched. */
  #metStates(cells: readonly number[], options: WorkOptions): Promise<States> {
    const needed = new Needed();
    for (const index of cells) {
      const { pair, target, control } = cellAt(this.#plan, index);
      if (control !== 'unpatched' && pair.patch.op !== 'scale') needed.add(pair.target, target);
    }
    return this.#states(needed, options);
  }

  #normRatio(index: number, vector: Float32Array, met: States): number | undefined {
    const { pair, target } = cellAt(this.#plan, index);
    const state = met.get(pair.target)!.get(target)!;
    const ratio = state instanceof Float32Array ? norm(vector) / norm(state) : Number.NaN;
    return Number.isFinite(ratio) ? ratio : undefined;
  }

  /** What each cell is patched with; undefined where nothing is patched. */
  async #map(cells: readonly number[], states: States): Promise<(Float32Array | Failure | undefined)[]> {
    const vectors = cells.map((index) => {
      const { sourcePair, source, control } = cellAt(this.#plan, index);
      return control === 'unpatched' ? undefined : states.get(sourcePair.source)!.get(source)!;
    });
    const mapped = new Map<number, MapTask>();
    cells.forEach((index, i) => {
      const { pair, source, target } = cellAt(this.#plan, index);
      const [mapping, state] = [this.#plan.mappings.get(pair.variant), vectors[i]];
      if (mapping !== undefined && state instanceof Float32Array)
        mapped.set(i, { mapping, source, target, state });
    });
    const results = await this.#mapper.map([...mapped.values()]);
    [...mapped.keys()].forEach((i, k) => {
      vectors[i] = results[k]!.every(Number.isFinite) ? results[k]! : notFinite;
    });
    return vectors;
  }

  /** What is done to the target, or why nothing can be. */
  #edit(index: number, state: Float32Array | Failure | undefined): Edit | Failure {
    const { pair, target, control } = cellAt(this.#plan, index);
    // goes along with the patched rows of its prompt, and leaves its state as it is
    if (state === undefined) return { ...pointOf(pair.target, target), op: 'scale', alpha: 1 };
    if (!(state instanceof Float32Array)) return state;
    const vector = control === 'random' ? randomLike(state, this.#seed(index)) : state;
    return { ...pointOf(pair.target, target), ...pair.patch, ...(pair.patch.op !== 'scale' && { vector }) };
  }

  #row(index: number, edit: Edit, own: Captured['own']): PatchRow {
    const { pair } = cellAt(this.#plan, index);
    const { continuation, experiment } = this.#plan;
    const { reading, samples } = experiment;
    const ownToken = own.get(pair.source)?.tokenId;
    return {
      ...inputOf(pair.target),
      edits: [edit],
      ...(pair.cuts && { cuts: pair.cuts }),
      seed: this.#seed(index),
      trackedTokens: ownToken === undefined ? pair.trackedTokens : [...pair.trackedTokens, ownToken],
      ...(continuation && { continuation: continuation.map(({ tokenId }) => tokenId) }),
      ...(reading.stopAtAnswer && { until: samples[pair.sample]!.answer ?? [] }),
    };
  }

  #seed(index: number): number {
    return this.#plan.experiment.seed + index;
  }

  #outcome(index: number, result: RowResult, own: Captured['own']): Outcome {
    if (result.status === 'failed') return failedOutcome(result);
    const { experiment } = this.#plan;
    const { sample, source, trackedTokens } = cellAt(this.#plan, index).pair;
    const read = {
      text: result.text,
      tokenIds: result.tokenIds,
      steps: result.steps.map((step) => scoresOf(step, this.#engine)),
    };
    const truth = {
      answer: experiment.samples[sample]!.answer ?? [],
      tokenIds: trackedTokens,
      own: own.get(source),
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
  /** What the model itself says at each source, where a metric needs it. */
  readonly own: ReadonlyMap<ResolvedPrompt, OwnReading>;
}

const notFinite = { code: 'not_finite', error: 'The mapped state holds NaN or infinity.' } as const;

/** Which places of which prompts are to be captured. */
class Needed {
  readonly places = new Map<ResolvedPrompt, Set<Place>>();

  add(prompt: ResolvedPrompt, place: Place): void {
    const places = this.places.get(prompt);
    if (places === undefined) this.places.set(prompt, new Set([place]));
    else places.add(place);
  }
}

/** The state of each prompt at each place that is needed. */
type States = ReadonlyMap<ResolvedPrompt, ReadonlyMap<Place, Float32Array | Failure>>;

function range(begin: number, end: number): number[] {
  return Array.from({ length: end - begin }, (_, i) => begin + i);
}

export function pointOf({ side, tokenIndex }: ResolvedPrompt, place: Place): CapturePoint {
  return { ...(side && { side }), ...place, tokenIndex };
}

/** A random direction with the norm of what would be patched. */
function randomLike(state: Float32Array, seed: number): Float32Array {
  const vector = gaussians(state.length, seed);
  const factor = norm(state) / norm(vector);
  return vector.map((value) => value * factor);
}

function norm(vector: Float32Array): number {
  return Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0));
}

export interface Failure {
  readonly code: string;
  readonly error: string;
}

/** The state at each point, or why there is none. A prompt with NaN in some layer is captured layer by layer. */
export async function captureLayers(
  engine: Engine,
  requests: readonly CaptureRequest[],
  options: WorkOptions = {},
): Promise<(Float32Array | Failure)[][]> {
  const results = await engine.capture(requests, options);
  return Promise.all(
    results.map(async (result, i) => {
      if (result.status === 'ok') return [...result.states];
      const { points, ...input } = requests[i]!;
      const placeKey = ({ site, layer }: CapturePoint) => `${site} ${layer}`;
      const layers = [...new Set(points.map(placeKey))];
      if (result.code !== 'not_finite' || layers.length === 1) return points.map(() => result);
      const parts = layers.map((layer) => points.filter((point) => placeKey(point) === layer));
      const byLayer = await captureLayers(
        engine,
        parts.map((part) => ({ ...input, points: part })),
        options,
      );
      const found = new Map(
        parts.flatMap((part, k) => part.map((point, j) => [point, byLayer[k]![j]!] as const)),
      );
      return points.map((point) => found.get(point)!);
    }),
  );
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
