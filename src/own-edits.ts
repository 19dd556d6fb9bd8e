/** The target's own edits, with their vectors, as an engine takes them. */
import type { Edit, Engine, WorkOptions } from './engine.js';
import type { Place } from './places.js';
import type { Pair } from './plan/pairs.js';
import type { Plan } from './plan/plan.js';
import { promptsOf, type ResolvedVector } from './plan/sources.js';
import { seedOf } from './random.js';
import { captureStates, type Failure, type Needed, pointOf, type States } from './source-states.js';
import { directionless, valuesOf } from './vector-values.js';

export class OwnEdits {
  readonly #plan: Plan;
  readonly #engine: Engine;
  /** Where vectors that are made of states are wanted. */
  readonly #uses = new Map<ResolvedVector, Set<Place>>();
  readonly #places = new Map<string, Place>();
  /** What the prompts of each vector have at the places of its edits, all of them captured together. */
  readonly #captured = new Map<ResolvedVector, States>();
  /** Of the pairs that were captured for last. */
  readonly #made = new Map<Pair, Map<number, readonly Edit[] | Failure>>();

  /** @param engine of the target's model. */
  constructor(plan: Plan, engine: Engine) {
    this.#plan = plan;
    this.#engine = engine;
    for (const { vector, places } of plan.pairs.flatMap(({ ownEdits = [] }) => ownEdits)) {
      if (vector === undefined || promptsOf(vector).length === 0) continue;
      const used = this.#uses.get(vector) ?? new Set();
      this.#uses.set(vector, used);
      for (const place of places) used.add(this.#one(place));
    }
  }

  /** Captures what the edits of some pairs need; the same states whichever pairs are asked for first. */
  async capture(pairs: Iterable<Pair>, options: WorkOptions): Promise<void> {
    this.#made.clear();
    for (const { vector } of [...new Set(pairs)].flatMap(({ ownEdits = [] }) => ownEdits)) {
      const places = vector && this.#uses.get(vector);
      if (places === undefined || this.#captured.has(vector!)) continue;
      const needed: Needed = new Map(promptsOf(vector!).map((prompt) => [prompt, places]));
      this.#captured.set(vector!, await captureStates(this.#engine, needed, options));
    }
  }

  /**
   * Of a pair that was captured for.
   *
   * @param draw which of several that are drawn for the same sample.
   */
  of(pair: Pair, draw: number): readonly Edit[] | Failure {
    const byDraw = this.#made.get(pair) ?? new Map<number, readonly Edit[] | Failure>();
    this.#made.set(pair, byDraw);
    const made = byDraw.get(draw) ?? this.#make(pair, draw);
    byDraw.set(draw, made);
    return made;
  }

  #make({ sample, target, ownEdits = [] }: Pair, draw: number): readonly Edit[] | Failure {
    const { experiment } = this.#plan;
    const width = this.#engine.record.embeddingSize;
    const edits: Edit[] = [];
    for (const [which, { tokens, places, op, alpha, atGenerated, decay, vector }] of ownEdits.entries()) {
      for (const [placeIndex, place] of places.entries()) {
        for (const [i, tokenIndex] of tokens.entries()) {
          const seed = () => seedOf(experiment.seed, sample, draw, which + 1, placeIndex, i);
          const values =
            vector && valuesOf(vector, { place: this.#one(place), width, seed }, this.#statesOf(vector));
          if (values !== undefined && !(values instanceof Float32Array)) return values;
          const failure = values && directionless(op, values);
          if (failure !== undefined) return failure;
          edits.push({
            ...pointOf({ ...target, tokenIndex }, place),
            ...{ op, alpha, atGenerated: atGenerated && i === tokens.length - 1 },
            ...(decay !== undefined && { decay }),
            ...(values && { vector: values }),
          });
        }
      }
    }
    return edits;
  }

  /** States are found by the object. */
  #one(place: Place): Place {
    const key = `${place.site} ${place.layer}`;
    const known = this.#places.get(key) ?? place;
    this.#places.set(key, known);
    return known;
  }

  #statesOf(vector: ResolvedVector): States {
    return this.#captured.get(vector) ?? new Map();
  }
}
