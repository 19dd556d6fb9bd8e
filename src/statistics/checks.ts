import { PatchscopeError } from '../errors.js';

export function bad(message: string): PatchscopeError {
  return new PatchscopeError('bad_input', message);
}

/** @throws PatchscopeError `bad_input` where fewer than `least` values are there or one is no number. */
export function checkNumbers(values: ArrayLike<number>, what: string, least = 1): void {
  if (values.length < least) {
    const found = values.length === 0 ? 'are none' : values.length === 1 ? 'is one' : `are ${values.length}`;
    throw bad(`Of the ${what} there ${found}: at least ${least} must be given.`);
  }
  for (let i = 0; i < values.length; i++) {
    if (!Number.isFinite(values[i]))
      throw bad(`Number ${i + 1} of the ${what} is ${values[i]}: each must be finite.`);
  }
}

/** As `checkNumbers`, of two lists whose values belong together one by one. */
export function checkPairs(a: ArrayLike<number>, b: ArrayLike<number>, least: number): void {
  if (a.length !== b.length)
    throw bad(`There are ${a.length} first values and ${b.length} second ones: they must be pairs.`);
  checkNumbers(a, 'first values', least);
  checkNumbers(b, 'second values', least);
}
