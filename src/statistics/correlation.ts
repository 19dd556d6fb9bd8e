/** How far two lists of values go together. */
import { bad, checkPairs } from './checks.js';
import { moments } from './moments.js';
import { ranks } from './ranks.js';
import { twoSidedTail } from './t-distribution.js';

export interface Correlation {
  /** From -1 to 1. */
  readonly r: number;
  /** Two-sided, by the t distribution with n - 2 degrees of freedom. */
  readonly p: number;
}

/**
 * Pearson's correlation.
 *
 * @throws PatchscopeError `bad_input` where there are fewer than three pairs, a value is no number or all values
 * of a list are equal.
 */
export function pearson(a: readonly number[], b: readonly number[]): Correlation {
  checkPairs(a, b, 3);
  const n = a.length;
  const [x, y] = [moments(a), moments(b)];
  if (x.sd === 0 || y.sd === 0) {
    throw bad(`All ${x.sd === 0 ? 'first' : 'second'} values are equal: they go together with nothing.`);
  }
  const product = a.reduce((sum, value, i) => sum + ((value - x.mean) / x.sd) * ((b[i]! - y.mean) / y.sd), 0);
  const r = Math.max(-1, Math.min(1, product / (n - 1)));
  return { r, p: twoSidedTail(r * Math.sqrt((n - 2) / ((1 - r) * (1 + r))), n - 2) };
}

/** Spearman's correlation: Pearson's of the ranks. It throws as `pearson` does. */
export function spearman(a: readonly number[], b: readonly number[]): Correlation {
  checkPairs(a, b, 3);
  return pearson(ranks(a), ranks(b));
}
