/** How sure a mean over samples is, and a difference of two. */
import { bad, checkNumbers } from './checks.js';
import { draw, type Interval, percentiles, RESAMPLES, TAIL } from './resampling.js';

/** Sum and number of the cells of each sample. */
export interface SampleSums {
  readonly sums: readonly number[];
  readonly counts: readonly number[];
}

/** Draws that are kept at once, for means over equally many samples, of which there are many. */
const KEPT_DRAWS = 2 ** 23;

export class Bootstrap {
  readonly #seed: number;
  /** By the number of samples: which are drawn, resample after resample. */
  readonly #kept = new Map<number, Uint32Array>();
  #keptDraws = 0;

  constructor(seed: number) {
    this.#seed = seed;
  }

  /** The same for the same seed and the same values in the same order. */
  interval(values: SampleSums): Interval {
    const { sums, counts } = values;
    if (sums.length === 1) {
      const mean = sums[0]! / counts[0]!;
      return { low: mean, high: mean };
    }
    const single = counts.every((count) => count === 1);
    return single && sums.every((sum) => sum === 0 || sum === 1)
      ? binomialInterval(sums.filter((sum) => sum === 1).length, sums.length)
      : this.resampled(values);
  }

  /** Means of samples drawn with replacement, again and again: between which two most of them lie. */
  resampled(values: SampleSums): Interval {
    return percentiles(this.#means(values));
  }

  /**
   * Of the first mean minus the second, over the same samples in the same order, which are drawn together.
   *
   * @throws PatchscopeError `bad_input` where the samples are not the same number, there are none or one has no cell.
   */
  difference(first: SampleSums, second: SampleSums): Interval {
    const [n, other] = [first.counts.length, second.counts.length];
    if (n !== other) throw bad(`A difference over ${n} samples and ${other} is none: they must be the same.`);
    for (const { sums, counts } of [first, second]) {
      checkNumbers(sums, 'samples');
      const empty = counts.indexOf(0);
      if (empty >= 0) throw bad(`Sample ${empty + 1} has no cell: leave it out of both means.`);
    }
    const differences = this.#means(first);
    const subtracted = this.#means(second);
    for (let k = 0; k < RESAMPLES; k++) differences[k]! -= subtracted[k]!;
    return percentiles(differences);
  }

  /** The mean over the cells of each resample. */
  #means({ sums, counts }: SampleSums): Float64Array {
    const [first] = counts;
    const equal = counts.every((count) => count === first);
    const means = this.#totals(sums);
    const cells = equal ? new Float64Array(RESAMPLES).fill(first! * counts.length) : this.#totals(counts);
    for (let k = 0; k < RESAMPLES; k++) means[k]! /= cells[k]!;
    return means;
  }

  /** The sum of each resample. */
  #totals(given: readonly number[]): Float64Array {
    const n = given.length;
    const values = Float64Array.from(given);
    const totals = new Float64Array(RESAMPLES);
    const kept = this.#draws(n);
    const drawn = kept ?? new Uint32Array(n);
    for (let k = 0; k < RESAMPLES; k++) {
      if (kept === undefined) draw(drawn, k * n, n, this.#seed);
      const begin = kept === undefined ? 0 : k * n;
      let sum = 0;
      for (let i = begin; i < begin + n; i++) sum += values[drawn[i]!]!;
      totals[k] = sum;
    }
    return totals;
  }

  #draws(n: number): Uint32Array | undefined {
    const length = n * RESAMPLES;
    if (length > KEPT_DRAWS) return undefined;
    let draws = this.#kept.get(n);
    if (draws === undefined) {
      if (this.#keptDraws + length > KEPT_DRAWS) {
        this.#kept.clear();
        this.#keptDraws = 0;
      }
      draws = new Uint32Array(length);
      draw(draws, 0, n, this.#seed);
      this.#kept.set(n, draws);
      this.#keptDraws += length;
    }
    return draws;
  }
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
