/** Mean and spread of values, such as one accuracy each layer. */
import { checkNumbers } from './checks.js';

export interface Moments {
  readonly mean: number;
  /** Of a sample: the squared deviations are divided by n - 1. 0 where there is one value. */
  readonly sd: number;
}

/** @throws PatchscopeError `bad_input` where there is no value or one is no number. */
export function moments(values: readonly number[]): Moments {
  checkNumbers(values, 'values');
  const n = values.length;
  const mean = values.reduce((sum, value) => sum + value, 0) / n;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, sd: n === 1 ? 0 : Math.sqrt(squares / (n - 1)) };
}
