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
  const halves = [0, 1].map((parity) => right.filter((_, i) => i % 2 === parity));
  const [even, odd] = halves.map((half) => bestCell(half, cells)) as [number, number];
  const tried = right.reduce((sum, row, i) => sum + row[i % 2 === 0 ? odd : even]!, 0);
  return {
    someCell: right.filter((row) => row.some((value) => value > 0)).length / right.length,
    heldOut: tried / right.length,
    chosen: [even, odd],
  };
}

function bestCell(rows: readonly (readonly number[])[], cells: number): number {
  const sums = Array.from({ length: cells }, (_, cell) => rows.reduce((sum, row) => sum + row[cell]!, 0));
  return sums.indexOf(Math.max(...sums));
}
