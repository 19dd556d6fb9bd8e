/** How sure a mean over samples is: the percentile bootstrap (Efron, 1979), 95 %. */

/** Sum and number of the cells of each sample. */
export interface SampleSums {
  readonly sums: ArrayLike<number>;
  readonly counts: ArrayLike<number>;
}

export interface Interval {
  readonly low: number;
  readonly high: number;
}

const RESAMPLES = 1000;
const TAIL = 0.025;

/** The same for the same values in the same order and the same seed. */
export function confidenceInterval(values: SampleSums, seed: number): Interval {
  const { sums, counts } = values;
  let hits = 0;
  for (let i = 0; i < sums.length; i++) {
    if (counts[i] !== 1 || (sums[i] !== 0 && sums[i] !== 1)) return resampledInterval(values, seed);
    hits += sums[i]!;
  }
  return binomialInterval(hits, sums.length);
}

/** The mean of samples drawn with replacement, again and again; between which two values most of these means lie. */
export function resampledInterval({ sums, counts }: SampleSums, seed: number): Interval {
  const n = sums.length;
  const means = new Float64Array(RESAMPLES);
  const perDraw = n / 2 ** 32;
  let state = seed | 0;
  for (let k = 0; k < RESAMPLES; k++) {
    let sum = 0;
    let count = 0;
    for (let i = 0; i < n; i++) {
      state = (state + 0x9e3779b9) | 0;
      const drawn = Math.floor(scattered(state) * perDraw);
      sum += sums[drawn]!;
      count += counts[drawn]!;
    }
    means[k] = sum / count;
  }
  means.sort();
  return { low: means[rankOf(TAIL)]!, high: means[rankOf(1 - TAIL)]! };
}

/** Of the smallest mean that at least this part of all means does not exceed. */
function rankOf(part: number): number {
  return Math.ceil(part * RESAMPLES) - 1;
}

/** From 0 to below 2^32, unlike those of neighbouring states (murmur3's finalizer). */
function scattered(state: number): number {
  let hash = state ^ (state >>> 16);
  hash = Math.imul(hash, 0x85ebca6b);
  hash ^= hash >>> 13;
  hash = Math.imul(hash, 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/**
 * What infinitely many resamples of values 0 and 1 give, with one cell a sample: the number of ones drawn is
 * binomial.
 */
export function binomialInterval(hits: number, n: number): Interval {
  if (hits === 0 || hits === n) return { low: hits / n, high: hits / n };
  const odds = hits / (n - hits);
  // outwards from the mode, which is `hits`, until a weight adds nothing
  const below: number[] = [];
  for (let k = hits, weight = 1; k > 0 && weight > Number.EPSILON ** 2; k--) {
    weight *= k / ((n - k + 1) * odds);
    below.push(weight);
  }
  const above: number[] = [];
  for (let k = hits, weight = 1; k < n && weight > Number.EPSILON ** 2; k++) {
    weight *= ((n - k) / (k + 1)) * odds;
    above.push(weight);
  }
  const weights = [...below.reverse(), 1, ...above];
  const first = hits - below.length;
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const quantile = (part: number) => {
    let k = 0;
    for (let reached = weights[0]!; reached < part * total; reached += weights[k]!) k++;
    return (first + k) / n;
  };
  return { low: quantile(TAIL), high: quantile(1 - TAIL) };
}
