/** The states of a plan's sources, and what their model itself says next there. */
import type { CapturePoint, CaptureRequest, Engine, Tokenizer, WorkOptions } from './engine.js';
import { concatenate } from './floats.js';
import { grouped } from './group.js';
import type { NextToken } from './own-readings.js';
import type { Place } from './places.js';
import { cellAt, movesAt, ownTokenCount, type Plan } from './plan/plan.js';
import { promptsOf } from './plan/sources.js';
import { inputOf, type ResolvedPrompt, sourceAsTarget } from './prompts.js';

export interface Failure {
  readonly code: string;
  readonly error: string;
}

/** The state of each prompt at each place that is wanted. */
export type States = ReadonlyMap<ResolvedPrompt, ReadonlyMap<Place, Float32Array | Failure>>;

export interface SourceReadings {
  readonly states: States;
  /** At each source, where it is needed: what its model itself says, token by token. */
  readonly next: ReadonlyMap<ResolvedPrompt, readonly NextToken[]>;
}

/** Where the states of a plan's cells come from. */
export interface SourceStates {
  /** Of the model that they are from. */
  readonly tokenizer: Tokenizer;
  /** Floats of a state. */
  readonly width: number;
  /** @param cells all those of a block, or some of one. */
  capture(cells: readonly number[], options?: WorkOptions): Promise<SourceReadings>;
}

export type KeepState = (source: ResolvedPrompt, place: Place, state: Float32Array) => void;

/** Which places of which prompts are wanted. */
export type Needed = Map<ResolvedPrompt, Set<Place>>;

export function addNeeded(needed: Needed, prompt: ResolvedPrompt, place: Place): void {
  const places = needed.get(prompt);
  if (places === undefined) needed.set(prompt, new Set([place]));
  else places.add(place);
}

/** Which states some cells take. */
export function neededStates(plan: Plan, cells: readonly number[]): Needed {
  const needed: Needed = new Map();
  for (const index of cells) {
    if (cellAt(plan, index).control === 'unpatched') continue;
    for (const { from, source } of movesAt(plan, index)) {
      for (const prompt of promptsOf(from)) addNeeded(needed, prompt, source);
    }
  }
  return needed;
}

/** Captured when they are asked for. */
export class CapturedStates implements SourceStates {
  readonly #plan: Plan;
  readonly #engine: Engine;
  readonly #keep: KeepState;

  /**
   * @param engine of the source's model.
   * @param keep is given each state that is captured.
   */
  constructor(plan: Plan, engine: Engine, keep: KeepState = () => undefined) {
    this.#plan = plan;
    this.#engine = engine;
    this.#keep = keep;
  }

  get tokenizer(): Tokenizer {
    return this.#engine.tokenizer;
  }

  get width(): number {
    return this.#engine.record.embeddingSize;
  }

  async capture(cells: readonly number[], options: WorkOptions = {}): Promise<SourceReadings> {
    const { ownPlace } = this.#plan;
    const needed = neededStates(this.#plan, cells);
    if (ownPlace !== undefined) for (const places of needed.values()) places.add(ownPlace);
    const states = await captureStates(this.#engine, needed, options);
    for (const [source, of] of states) {
      for (const [place, state] of of) {
        if (state instanceof Float32Array && place !== ownPlace) this.#keep(source, place, state);
      }
    }
    return { states, next: ownPlace ? await this.#readNext(states, ownPlace, options) : new Map() };
  }

  /** What the model says next where its last block's output is its own. */
  async #readNext(states: States, place: Place, options: WorkOptions): Promise<SourceReadings['next']> {
    const own = [...states].flatMap(([source, of]) => {
      const state = of.get(place);
      return state instanceof Float32Array ? [{ source, state }] : [];
    });
    const { experiment } = this.#plan;
    if (experiment.reading.ownContinuation) {
      const prompts = own.map(({ source }) => source);
      return this.#generate(prompts, ownTokenCount(experiment), options);
    }
    const next = new Map<ResolvedPrompt, readonly NextToken[]>();
    for (const [adapter, alike] of grouped(own, ({ source }) => source.adapter)) {
      const results = await this.#engine.lens(
        concatenate(alike.map(({ state }) => state)),
        { topK: 1, logits: true, adapter },
        options,
      );
      for (const [i, result] of results.entries()) {
        if (result.status !== 'ok') continue;
        next.set(alike[i]!.source, [{ logits: result.logits!, top: result.top[0]! }]);
      }
    }
    return next;
  }

  /** Its most probable tokens, one behind the other, at most so many. */
  async #generate(
    sources: readonly ResolvedPrompt[],
    maxTokens: number,
    options: WorkOptions,
  ): Promise<SourceReadings['next']> {
    const end = { kind: 'index', index: -1 } as const;
    const rows = sources.map((source) => ({
      ...inputOf(sourceAsTarget(source, end, this.#engine.tokenizer)),
      edits: [],
    }));
    const results = await this.#engine.patch(rows, { topK: 1, maxTokens, logits: true }, options);
    return new Map(
      results.flatMap((result, i) => {
        if (result.status === 'failed') return [];
        const tokens = result.steps.map(({ logits, top }) => ({ logits: logits!, top: top[0]! }));
        return [[sources[i]!, tokens] as const];
      }),
    );
  }
}

export function pointOf({ side, tokenIndex }: ResolvedPrompt, place: Place): CapturePoint {
  return { ...(side && { side }), ...place, tokenIndex };
}

/** Tokens of one prompt are captured together. */
export async function captureStates(
  engine: Engine,
  needed: Needed,
  options: WorkOptions = {},
): Promise<States> {
  const requests = new Map<readonly number[], CaptureRequest & { readonly points: CapturePoint[] }>();
  const found: [ResolvedPrompt, Place, CaptureRequest, number][] = [];
  for (const [prompt, places] of needed) {
    const input = inputOf(prompt);
    const request = requests.get(input.tokenIds) ?? { ...input, points: [] };
    requests.set(input.tokenIds, request);
    for (const place of places) {
      found.push([prompt, place, request, request.points.push(pointOf(prompt, place)) - 1]);
    }
  }
  const all = [...requests.values()];
  const captured = await captureLayers(engine, all, options);
  const ofRequest = new Map(all.map((request, i) => [request as CaptureRequest, captured[i]!]));
  const states = new Map(
    [...needed.keys()].map((prompt) => [prompt, new Map<Place, Float32Array | Failure>()]),
  );
  for (const [prompt, place, request, at] of found) {
    states.get(prompt)!.set(place, ofRequest.get(request)![at]!);
  }
  return states;
}

/**
 * The state at each point, or why there is none. A prompt with NaN in some layer is captured layer by layer, and
 * that layer token by token.
 */
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
      const distinct = (keyOf: (point: CapturePoint) => string) => [...new Set(points.map(keyOf))];
      const placeKey = ({ site, layer }: CapturePoint) => `${site} ${layer}`;
      const tokenKey = ({ side, tokenIndex }: CapturePoint) => `${side} ${tokenIndex}`;
      const keyOf = distinct(placeKey).length > 1 ? placeKey : tokenKey;
      const keys = distinct(keyOf);
      if (result.code !== 'not_finite' || keys.length === 1) return points.map(() => result);
      const parts = keys.map((key) => points.filter((point) => keyOf(point) === key));
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
