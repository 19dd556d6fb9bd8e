/** Tokens of several sequences with what is to be captured, patched and read at each, and its way through a context. */
import type { Edit, ScoredToken } from '../engine.js';
import type { NativeContext, NativeReadingResults, NativeReadings } from '../native.js';
import { type RowEdit, type RowPoint, rowEdit, type SitePoint, StateRows } from './state-rows.js';

export interface BatchLimits {
  readonly tokens: number;
  readonly outputs: number;
}

/** What one decoded batch gave: readings and states in the order they were asked for. */
export interface BatchResults {
  readonly readings: readonly RawReading[];
  /** Views into the states of a whole decode; null where one is not finite. */
  readonly states: readonly (Float32Array | null)[];
}

/** The lists are empty and no token is chosen where the logits were not finite. */
export interface RawReading {
  readonly finite: boolean;
  readonly topIds: Int32Array;
  readonly topLogprobs: Float32Array;
  readonly trackedRanks: Int32Array;
  readonly trackedLogprobs: Float32Array;
  readonly chosen: ScoredToken | null;
  readonly logits?: Float32Array;
}

/** The token that follows a row: the given one, else one drawn with the seed where tokens are drawn. */
export interface Choice {
  readonly given?: number | undefined;
  /** Below 2^31. */
  readonly seed?: number;
}

interface Read extends Choice {
  readonly row: number;
}

/** A list of tokens; rows are numbered in the order they were added. */
export class Batch {
  readonly #tokens: number[] = [];
  readonly #positions: number[] = [];
  readonly #sequences: number[] = [];
  readonly #outputs: boolean[] = [];
  readonly #captures: RowPoint[] = [];
  readonly #edits: RowEdit[] = [];
  readonly #reads: Read[] = [];
  readonly #allOutputs: boolean;

  /** `allOutputs`: compute the logits of every token, so that what is read does not change the shape of the work. */
  constructor({ allOutputs = false }: { readonly allOutputs?: boolean } = {}) {
    this.#allOutputs = allOutputs;
  }

  get size(): number {
    return this.#tokens.length;
  }

  /** @returns the row of the token. */
  add(tokenId: number, position: number, sequence: number): number {
    this.#positions.push(position);
    this.#sequences.push(sequence);
    this.#outputs.push(this.#allOutputs);
    return this.#tokens.push(tokenId) - 1;
  }

  /** The last block and what comes after it keep a row only where its output is computed. */
  capture(row: number, point: SitePoint, needsOutput: boolean): void {
    this.#captures.push({ row, site: point.site, layer: point.layer });
    if (needsOutput) this.#outputs[row] = true;
  }

  edit(row: number, edit: Edit, needsOutput: boolean): void {
    this.#edits.push(rowEdit(row, edit));
    if (needsOutput) this.#outputs[row] = true;
  }

  /** Reads the distribution of the token after this row. */
  read(row: number, choice: Choice = {}): void {
    this.#reads.push({ ...choice, row });
    this.#outputs[row] = true;
  }

  /** Decodes all tokens, in as many steps as the limits ask for. */
  async decode(context: NativeContext, readings: NativeReadings, limits: BatchLimits): Promise<BatchResults> {
    const read = new Map<Read, RawReading>();
    const states = new Map<RowPoint, Float32Array | null>();
    for (const [begin, end] of this.#cuts(limits)) {
      const within = ({ row }: { row: number }) => row >= begin && row < end;
      const work = new StateRows(this.#captures.filter(within), this.#edits.filter(within), begin);
      const reads = this.#reads.filter(within);
      const result = await context.decode({
        tokens: Int32Array.from(this.#tokens.slice(begin, end)),
        positions: Int32Array.from(this.#positions.slice(begin, end)),
        sequences: Int32Array.from(this.#sequences.slice(begin, end)),
        outputs: Uint8Array.from(this.#outputs.slice(begin, end), Number),
        ...work.native,
        readings: {
          ...readings,
          rows: Int32Array.from(reads, ({ row }) => row - begin),
          given: Int32Array.from(reads, ({ given }) => given ?? -1),
          seeds: Int32Array.from(reads, ({ seed }) => seed ?? 0),
        },
      });
      for (const [capture, state] of work.states(result.captures)) states.set(capture, state);
      splitReadings(result.readings, reads.length, readings).forEach((reading, k) => {
        read.set(reads[k]!, reading);
      });
    }
    return {
      readings: this.#reads.map((one) => read.get(one)!),
      states: this.#captures.map((capture) => states.get(capture)!),
    };
  }

  #cuts(limits: BatchLimits): [number, number][] {
    const cuts: [number, number][] = [];
    let begin = 0;
    let outputs = 0;
    for (let row = 0; row < this.size; row++) {
      const output = this.#outputs[row] ? 1 : 0;
      if (row - begin === limits.tokens || outputs + output > limits.outputs) {
        cuts.push([begin, row]);
        begin = row;
        outputs = 0;
      }
      outputs += output;
    }
    cuts.push([begin, this.size]);
    return cuts;
  }
}

/** The flat lists of the addon, cut into one reading for each row. */
export function splitReadings(
  results: NativeReadingResults,
  rows: number,
  asked: NativeReadings,
): RawReading[] {
  const finiteRows = results.finite.reduce((sum, flag) => sum + flag, 0);
  const topCount = finiteRows === 0 ? 0 : results.topIds.length / finiteRows;
  const trackedCount = asked.tracked.length;
  const vocabulary = results.logits === undefined ? 0 : results.logits.length / rows;
  let k = 0;
  return Array.from({ length: rows }, (_, row) => {
    const finite = results.finite[row] === 1;
    const at = finite ? k++ : 0;
    const part = <T extends Int32Array | Float32Array>(list: T, count: number) =>
      (finite ? list.slice(at * count, (at + 1) * count) : list.slice(0, 0)) as T;
    return {
      finite,
      topIds: part(results.topIds, topCount),
      topLogprobs: part(results.topLogprobs, topCount),
      trackedRanks: part(results.trackedRanks, trackedCount),
      trackedLogprobs: part(results.trackedLogprobs, trackedCount),
      chosen: finite
        ? {
            tokenId: results.chosenIds[at]!,
            logprob: results.chosenLogprobs[at]!,
            rank: results.chosenRanks[at]!,
          }
        : null,
      ...(results.logits && {
        logits: results.logits.slice(row * vocabulary, (row + 1) * vocabulary),
      }),
    };
  });
}
