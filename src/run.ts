/** Plan x engine -> outcomes, chunk by chunk; a failed cell is an outcome, not an exception. */
import { isDeepStrictEqual } from 'node:util';
import type { Edit, Engine, PatchRow, RowResult, StepReading, TokenReading, WorkOptions } from './engine.js';
import { Mapper, type MapTask } from './mapping/mapper.js';
import { measure } from './metrics.js';
import type { Observation, Outcome, TokenScore } from './observation.js';
import { type OwnReading, ownReading } from './own-readings.js';
import { blockRange, cellAt, chunkCount, chunkRange, type Plan } from './plan/plan.js';
import { inputOf, type ResolvedPrompt, tokenText } from './prompts.js';
import { gaussians } from './random.js';
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
    const own = [...next].map(([source, token]) => [source, ownReading(token, this.#translations!)] as const);
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
    const { reading } = experiment;
    const ownTokens = own.get(pair.source)?.tokenIds ?? [];
    return {
      ...inputOf(pair.target),
      edits: [edit],
      ...(pair.cuts && { cuts: pair.cuts }),
      seed: this.#seed(index),
      trackedTokens: [...pair.trackedTokens, ...ownTokens],
      ...(continuation && { continuation: continuation.map(({ tokenId }) => tokenId) }),
      ...(reading.stopAtAnswer && { until: pair.answer }),
    };
  }

  #seed(index: number): number {
    return this.#plan.experiment.seed + index;
  }

  #outcome(index: number, result: RowResult, own: Captured['own']): Outcome {
    if (result.status === 'failed') return failedOutcome(result);
    const { experiment } = this.#plan;
    const { answer, source, trackedTokens } = cellAt(this.#plan, index).pair;
    const read = {
      text: result.text,
      tokenIds: result.tokenIds,
      steps: result.steps.map((step) => scoresOf(step, this.#engine)),
    };
    const truth = {
      answer,
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
  /** What the source's model itself says at each source, where a metric needs it. */
  readonly own: ReadonlyMap<ResolvedPrompt, OwnReading>;
}

const notFinite = { code: 'not_finite', error: 'The mapped state holds NaN or infinity.' } as const;

function range(begin: number, end: number): number[] {
  return Array.from({ length: end - begin }, (_, i) => begin + i);
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
