/** Parts of the samples, each held out once. */
import { uniforms } from '../random.js';
import { bad } from './checks.js';

/**
 * The fold of each sample, from 0. Samples of one subject are in one fold; subjects come in an order drawn with the
 * seed, each into the fold that has fewest samples, of equal ones the first.
 *
 * @throws PatchscopeError `bad_input` where there are fewer subjects than folds, or fewer than two folds.
 */
export function groupedFolds(subjects: readonly string[], foldCount: number, seed: number): number[] {
  if (!Number.isInteger(foldCount) || foldCount < 2)
    throw bad(`There can't be ${foldCount} folds: give a whole number from 2.`);
  const names = [...new Set(subjects)];
  if (names.length < foldCount) {
    throw bad(
      `There ${names.length === 1 ? 'is 1 subject' : `are ${names.length} subjects`} for ${foldCount} folds, each of which needs one: give more or ask for fewer folds.`,
    );
  }
  const sizes = new Map<string, number>();
  for (const subject of subjects) sizes.set(subject, (sizes.get(subject) ?? 0) + 1);
  const filled = new Array<number>(foldCount).fill(0);
  const folds = new Map<string, number>();
  for (const subject of shuffled(names, seed)) {
    const fold = filled.indexOf(Math.min(...filled));
    filled[fold]! += sizes.get(subject)!;
    folds.set(subject, fold);
  }
  return subjects.map((subject) => folds.get(subject)!);
}

/** Fisher and Yates's shuffle. */
function shuffled<T>(items: readonly T[], seed: number): T[] {
  const uniform = uniforms(seed);
  const order = [...items];
  for (let i = order.length - 1; i > 0; i--) {
    const k = Math.floor(uniform() * (i + 1));
    [order[i], order[k]] = [order[k]!, order[i]!];
  }
  return order;
}
