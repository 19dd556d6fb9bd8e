/** What is right in some cell of a grid, and what is right in one cell that was chosen beforehand. */
import { bad, checkNumbers } from './checks.js';

export interface CellChoice {
  /** Part of the samples that are right in at least one cell: the more cells, the more of them by chance. */
  readonly someCell: number;
  /** Part of the samples that are right in the cell which is best for the other half of them. */
  readonly heldOut: number;
  /** The best cell for the samples at even places, and for those at odd ones; of equals the first. */
  readonly chosen: readonly [number, number];
}

/**
 * @param right of each sample (row) 1 where it is right in a cell (column), else 0; at least two samples.
 * @throws PatchscopeError `bad_input` where there are too few samples or rows of several lengths.
 */
export function cellChoice(right: readonly (readonly number[])[]): CellChoice {
  const cells = right[0]?.length ?? 0;
  if (right.length < 2 || cells === 0) {
    throw bad(
      `A cell is chosen on one half of the samples and tried on the other: ${right.length} are too few.`,
    );
  }
  for (const row of right) {
    checkNumbers(row, 'cells');
    if (row.length !== cells) throw bad('Samples have different cells: take those that all of them have.');
  }
  const means = new HalfMeans<number>();
  right.forEach((row, i) => {
    row.forEach((value, cell) => {
      means.add(i, cell, value);
    });
  });
  const [even, odd] = [means.best(0)!.cell, means.best(1)!.cell];
  const tried = right.reduce((sum, row, i) => sum + row[i % 2 === 0 ? odd : even]!, 0);
  return {
    someCell: right.filter((row) => row.some((value) => value > 0)).length / right.length,
    heldOut: tried / right.length,
    chosen: [even, odd],
  };
}

/** Means of cells over the samples at even places (half 0) and at odd ones (half 1). */
export class HalfMeans<Cell> {
  readonly #halves = [0, 1].map(() => new Map<Cell, { sum: number; count: number }>());

  /** @param place of the sample. */
  add(place: number, cell: Cell, value: number): void {
    const half = this.#halves[place % 2]!;
    const mean = half.get(cell);
    if (mean === undefined) half.set(cell, { sum: value, count: 1 });
    else {
      mean.sum += value;
      mean.count++;
    }
  }

  /**
   * The best cell of a half, of equals the first that was added; undefined where there is none. Cells that less than half
   * of the samples have, measured by the fullest one, are left out: few samples may be lucky.
   *
   * @param isSmallerBetter default: the largest mean is the best.
   */
  best(half: 0 | 1, isSmallerBetter = false): { readonly cell: Cell; readonly mean: number } | undefined {
    const all = [...this.#halves[half]!].map(([cell, { sum, count }]) => ({
      cell,
      count,
      mean: sum / count,
    }));
    const most = Math.max(...all.map(({ count }) => count));
    const [first, ...others] = all.filter(({ count }) => 2 * count >= most);
    return others.reduce(
      (best, one) => ((isSmallerBetter ? one.mean < best!.mean : one.mean > best!.mean) ? one : best),
      first,
    );
  }
}
