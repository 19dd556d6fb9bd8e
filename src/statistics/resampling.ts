/** What all bootstraps share: seeded draws with replacement, and the percentile interval (Efron, 1979), 95 %. */

export interface Interval {
  readonly low: number;
  readonly high: number;
}

export const RESAMPLES = 1000;
export const TAIL = 0.025;

/** Fills with indices of n samples: those from place `begin` in the order of draws. */
export function draw(indices: Uint32Array, begin: number, n: number, seed: number): void {
  for (let i = 0; i < indices.length; i++) indices[i] = numberAt(begin + i, seed) * (n / 2 ** 32);
}

/** Between which two most of the values lie, one of each resample; they are sorted. */
export function percentiles(resampled: Float64Array): Interval {
  resampled.sort();
  return { low: resampled[rankOf(TAIL)]!, high: resampled[rankOf(1 - TAIL)]! };
}

/** Of the smallest value that at least this part of all values does not exceed. */
function rankOf(part: number): number {
  return Math.ceil(part * RESAMPLES) - 1;
}

/** From 0 to below 2^32, unlike those of neighbouring places and seeds (murmur3's finalizer). */
function numberAt(i: number, seed: number): number {
  let hash = Math.imul(i + 1, 0x9e3779b9) ^ Math.imul(seed | 0, 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
