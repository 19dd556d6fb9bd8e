/** States that are captured before any of them is patched, and lie in a file until then. */
import type { Tokenizer, WorkOptions } from './engine.js';
import type { Place } from './places.js';
import type { Plan } from './plan/plan.js';
import type { ResolvedPrompt } from './prompts.js';
import { type Failure, neededStates, type SourceReadings, type SourceStates } from './source-states.js';
import type { StateFile } from './state-file.js';

/** Where the model of the sources and that of the targets are not in memory together. */
export class StatesAhead implements SourceStates {
  readonly #plan: Plan;
  readonly #sources: SourceStates;
  readonly #file: StateFile;
  /** Blocks, by their first cells. */
  readonly #kept = new Set<number>();
  /** What the file has no room for: states that could not be captured. */
  readonly #failures = new Map<ResolvedPrompt, Map<Place, Failure>>();

  constructor(plan: Plan, sources: SourceStates, file: StateFile) {
    this.#plan = plan;
    this.#sources = sources;
    this.#file = file;
  }

  get tokenizer(): Tokenizer {
    return this.#sources.tokenizer;
  }

  get width(): number {
    return this.#sources.width;
  }

  /** A whole block is captured with all blocks that follow it, each with the batches that it has alone. */
  async capture(cells: readonly number[], options: WorkOptions = {}): Promise<SourceReadings> {
    const blocks = this.#blocks();
    const asked = blocks.filter(([begin, end]) => cells.some((cell) => cell >= begin && cell < end));
    if (asked.some(([begin]) => !this.#isKept(begin, blocks))) {
      const [first] = asked[0]!;
      const isWhole = asked.some(([begin, end]) => cells.length >= end - begin);
      const wanted = isWhole ? blocks.filter(([begin]) => begin >= first) : asked;
      for (const block of wanted)
        if (!this.#isKept(block[0], blocks)) await this.#captureBlock(block, options);
    }
    return this.#read(cells);
  }

  async #captureBlock([begin, end]: Block, options: WorkOptions): Promise<void> {
    const { states, next } = await this.#sources.capture(range(begin, end), options);
    for (const [source, byPlace] of states) {
      for (const [place, state] of byPlace) {
        if (place === this.#plan.ownPlace) continue;
        if (state instanceof Float32Array) this.#file.write(source, place, state);
        else this.#failures.set(source, (this.#failures.get(source) ?? new Map()).set(place, state));
      }
    }
    for (const [source, tokens] of next) this.#file.writeNext(source, tokens);
    this.#kept.add(begin);
  }

  /** Also where a process that has ended kept it; one that it kept in part is captured anew. */
  #isKept(begin: number, blocks: readonly Block[]): boolean {
    if (this.#kept.has(begin)) return true;
    const end = blocks.find(([first]) => first === begin)![1];
    const { ownPlace } = this.#plan;
    const isThere = [...neededStates(this.#plan, range(begin, end))].every(
      ([source, places]) =>
        [...places].every((place) => this.#file.read(source, place) !== undefined) &&
        (ownPlace === undefined || this.#file.readNext(source) !== undefined),
    );
    if (isThere) this.#kept.add(begin);
    return isThere;
  }

  #read(cells: readonly number[]): SourceReadings {
    const needed = [...neededStates(this.#plan, cells)];
    const states = needed.map(([source, places]) => {
      const state = (place: Place) =>
        this.#failures.get(source)?.get(place) ?? this.#file.read(source, place) ?? zeros;
      return [source, new Map([...places].map((place) => [place, state(place)]))] as const;
    });
    const next = needed.flatMap(([source]) => {
      const tokens = this.#plan.ownPlace && this.#file.readNext(source);
      return tokens === undefined ? [] : [[source, tokens] as const];
    });
    return { states: new Map(states), next: new Map(next) };
  }

  #blocks(): Block[] {
    const { blockStarts, chunkStarts } = this.#plan;
    const begins = [...blockStarts].map((chunk) => chunkStarts[chunk]!);
    return begins.slice(0, -1).map((begin, i) => [begin, begins[i + 1]!]);
  }
}

type Block = readonly [begin: number, end: number];

/** What a file of captured states can't tell from a state that is missing. */
const zeros = { code: 'not_finite', error: 'The captured state is zero.' } as const;

function range(begin: number, end: number): number[] {
  return Array.from({ length: end - begin }, (_, i) => begin + i);
}
