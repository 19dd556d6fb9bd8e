/** Tokens of several sequences with what is to be captured, patched and read at each, and its way through a context. */
import type { AttentionCut, ScoredToken } from '../engine.js';
import type { NativeContext, NativeContrast, NativeReadingResults, NativeReadings } from '../native.js';
import { type BatchLimits, cutsOf } from './cuts.js';
import {
  nativePlace,
  type RowEdit,
  type RowPoint,
  rowEdit,
  type SitePoint,
  StateRows,
  type TurnedEdit,
} from './state-rows.js';

/** States whose logits are computed at once for contrasts: enough for the output matrix to be read seldom. */
const LENS_ROWS = 32;

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

/** How a row is read in its own way. */
export interface OwnReading {
  /** The token that follows; without it one is drawn with the seed, where tokens are drawn. */
  readonly given?: number | undefined;
  /** Below 2^31. */
  readonly seed?: number;
  /** Tracked after the tokens that are tracked in all rows. */
  readonly tracked?: readonly number[] | undefined;
  readonly contrast?: RowContrast | undefined;
}

/** own z + difference (z - z'), where z' are the logits of another row, or those of one of some states of the same row. */
export type RowContrast = Pick<NativeContrast, 'own' | 'difference' | 'cutoff'> &
  ({ readonly row: number } | { readonly states: readonly SitePoint[] });

/** Edges of attention cut from one row. */
interface RowCut extends Pick<AttentionCut, 'to' | 'layers'> {
  readonly row: number;
}

interface Read extends OwnReading {
  readonly row: number;
}

/** A list of tokens; rows are numbered in the order they were added. */
export class Batch {
  readonly #tokens: number[] = [];
  readonly #positions: number[] = [];
  readonly #sequences: number[] = [];
  readonly #outputs: boolean[] = [];
  readonly #joined: boolean[] = [];
  readonly #captures: RowPoint[] = [];
  readonly #edits: RowEdit[] = [];
  readonly #cuts: RowCut[] = [];
  readonly #reads: Read[] = [];
  readonly #allOutputs: boolean;

  /** `allOutputs`: compute the logits of every token, so that what is read does not change the shape of the work. */
  constructor({ allOutputs = false }: { readonly allOutputs?: boolean } = {}) {
    this.#allOutputs = allOutputs;
  }

  get size(): number {
    return this.#tokens.length;
  }

  /**
   * @param isJoined goes through one decode with the row before it.
   * @returns the row of the token.
   */
  add(tokenId: number, position: number, sequence: number, isJoined = false): number {
    this.#joined.push(isJoined);
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

  edit(row: number, edit: TurnedEdit, needsOutput: boolean): void {
    this.#edits.push(rowEdit(row, edit));
    if (needsOutput) this.#outputs[row] = true;
  }

  /** Cuts the row off from earlier positions of its sequence. */
  cut(row: number, { to, layers }: Pick<AttentionCut, 'to' | 'layers'>): void {
    this.#cuts.push({ row, to, layers });
  }

  /** Reads the distribution of the token after this row. */
  read(row: number, own: OwnReading = {}): void {
    this.#reads.push({ ...own, row });
    this.#outputs[row] = true;
    if (own.contrast && 'row' in own.contrast) this.#outputs[own.contrast.row] = true;
  }

  /** Decodes all tokens, in as many steps as the limits ask for. */
  async decode(context: NativeContext, readings: NativeReadings, limits: BatchLimits): Promise<BatchResults> {
    const read = new Map<Read, RawReading>();
    const states = new Map<RowPoint, Float32Array | null>();
    const tokens = { sequences: this.#sequences, outputs: this.#outputs, joined: this.#joined };
    const cuts = cutsOf(tokens, limits);
    for (const [begin, end] of cuts) {
      const within = ({ row }: { row: number }) => row >= begin && row < end;
      const work = new StateRows(this.#captures.filter(within), this.#edits.filter(within), begin);
      const reads = this.#reads.filter(within);
      const result = await context.decode({
        tokens: Int32Array.from(this.#tokens.slice(begin, end)),
        positions: Int32Array.from(this.#positions.slice(begin, end)),
        sequences: Int32Array.from(this.#sequences.slice(begin, end)),
        outputs: Uint8Array.from(this.#outputs.slice(begin, end), Number),
        ...work.native,
        cuts: this.#cuts.filter(within).map(({ row, to, layers }) => ({
          layers: Int32Array.from(layers),
          rows: Int32Array.of(row - begin),
          keys: Int32Array.from(to),
        })),
        readings: {
          ...readings,
          rows: Int32Array.from(reads, ({ row }) => row - begin),
          given: Int32Array.from(reads, ({ given }) => given ?? -1),
          seeds: Int32Array.from(reads, ({ seed }) => seed ?? 0),
          ownTracked: Int32Array.from(reads.flatMap(({ tracked = [] }) => tracked)),
          ownTrackedCounts: Int32Array.from(reads, ({ tracked = [] }) => tracked.length),
          ...this.#contrasts(reads, begin),
        },
      });
      const tracked = reads.map((read) => readings.tracked.length + (read.tracked?.length ?? 0));
      for (const [capture, state] of work.states(result.captures)) states.set(capture, state);
      splitReadings(result.readings, tracked).forEach((reading, k) => {
        read.set(reads[k]!, reading);
      });
    }
    return {
      readings: this.#reads.map((one) => read.get(one)!),
      states: this.#captures.map((capture) => states.get(capture)!),
    };
  }

  /** `begin`: the first row that is computed. */
  #contrasts(reads: readonly Read[], begin: number) {
    const contrasts = reads.flatMap(({ contrast }, read): NativeContrast[] => {
      if (contrast === undefined) return [];
      const { own, difference, cutoff } = contrast;
      const other =
        'row' in contrast
          ? { row: contrast.row - begin, states: [] }
          : { row: -1, states: contrast.states.map(nativePlace) };
      return [{ read, own, difference, cutoff, ...other }];
    });
    if (contrasts.length === 0) return {};
    const states = contrasts.reduce((sum, contrast) => sum + contrast.states.length, 0);
    const lensRows = this.#allOutputs ? LENS_ROWS : Math.max(1, Math.min(LENS_ROWS, states));
    return { contrasts, lensRows };
  }
}

/**
 * The flat lists of the addon, cut into one reading for each row.
 *
 * @param tracked how many tokens are tracked in each row.
 */
export function splitReadings(results: NativeReadingResults, tracked: readonly number[]): RawReading[] {
  const finiteRows = results.finite.reduce((sum, flag) => sum + flag, 0);
  const topCount = finiteRows === 0 ? 0 : results.topIds.length / finiteRows;
  const vocabulary = results.logits === undefined ? 0 : results.logits.length / tracked.length;
  const taken = { rows: 0, tracked: 0 };
  return tracked.map((trackedCount, row) => {
    const finite = results.finite[row] === 1;
    const { rows: at, tracked: trackedAt } = taken;
    if (finite) {
      taken.rows++;
      taken.tracked += trackedCount;
    }
    const part = <T extends Int32Array | Float32Array>(list: T, begin: number, count: number) =>
      list.slice(begin, finite ? begin + count : begin) as T;
    return {
      finite,
      topIds: part(results.topIds, at * topCount, topCount),
      topLogprobs: part(results.topLogprobs, at * topCount, topCount),
      trackedRanks: part(results.trackedRanks, trackedAt, trackedCount),
      trackedLogprobs: part(results.trackedLogprobs, trackedAt, trackedCount),
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
