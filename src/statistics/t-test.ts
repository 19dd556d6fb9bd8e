/** Whether two methods differ over the same layers (paper, section 4.2 and appendix C). */
import { checkPairs } from './checks.js';
import { moments } from './moments.js';
import { twoSidedTail } from './t-distribution.js';

export interface TTest {
  /** Of first minus second. */
  readonly meanDifference: number;
  readonly t: number;
  readonly df: number;
  /** Two-sided. */
  readonly p: number;
}

/**
 * Student's t-test of paired values. Where all differences are equal, t is 0 and p is 1 if they are 0, else t is
 * infinite and p is 0.
 *
 * @throws PatchscopeError `bad_input` where there are fewer than two pairs or a value is no number.
 */
export function pairedTTest(first: readonly number[], second: readonly number[]): TTest {
  checkPairs(first, second, 2);
  const { mean, sd } = moments(first.map((value, i) => value - second[i]!));
  const df = first.length - 1;
  const t = mean === 0 ? 0 : mean / (sd / Math.sqrt(first.length));
  return { meanDifference: mean, t, df, p: twoSidedTail(t, df) };
}

/** What each p-value of several tests made together counts for: p times their number, at most 1 (Bonferroni). */
export function bonferroni(pValues: readonly number[]): number[] {
  return pValues.map((p) => Math.min(1, p * pValues.length));
}
