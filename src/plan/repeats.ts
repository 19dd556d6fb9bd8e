/** Which chunks are run twice, to see whether the same comes out. */
import { uniforms } from '../random.js';
import type { Arrangement } from './arrange.js';

/** The part of all cells that repeats may take together. */
const MOST_PART = 0.1;

export interface Repeats {
  readonly count: number;
  readonly seed: number;
}

export type CutArrangement = Arrangement & {
  /** Chunks that are run twice, in ascending order. */
  readonly repeats: readonly number[];
};

/**
 * Draws chunks to repeat. Batches are bound to chunks, so that a chunk is repeated whole; one that is more than its
 * share is cut in two, of which the first is repeated.
 */
export function cutRepeats(arrangement: Arrangement, { count, seed }: Repeats): CutArrangement {
  const { chunkStarts, blockStarts } = arrangement;
  const chunks = chunkStarts.length - 1;
  const chosen = new Set(drawn(Math.min(count, chunks), chunks, seed));
  const total = chunkStarts[chunks]!;
  const most = Math.max(1, Math.floor((MOST_PART * total) / chosen.size));
  const starts: number[] = [];
  const repeats: number[] = [];
  const places = [...chunkStarts].map((start, chunk) => {
    const place = starts.length;
    starts.push(start);
    if (chosen.has(chunk)) {
      repeats.push(place);
      if (chunkStarts[chunk + 1]! - start > most) starts.push(start + most);
    }
    return place;
  });
  return {
    ...arrangement,
    chunkStarts: Uint32Array.from(starts),
    blockStarts: blockStarts.map((chunk) => places[chunk]!),
    repeats,
  };
}

/** So many different numbers below `n`. */
function drawn(count: number, n: number, seed: number): number[] {
  const uniform = uniforms(seed);
  const numbers = Array.from({ length: n }, (_, i) => i);
  for (let i = 0; i < count; i++) {
    const other = i + Math.floor(uniform() * (n - i));
    [numbers[i], numbers[other]] = [numbers[other]!, numbers[i]!];
  }
  return numbers.slice(0, count);
}
