/** Sums of single samples -> means with intervals over samples, as `metric` has them. */

import { grouped } from '../group.js';
import { Bootstrap } from '../statistics/bootstrap.js';
import type { Data } from './data.js';

/** A row of a statement: the sum of `value` over some cells of one sample. */
export interface SampleSum {
  readonly run_id: number;
  readonly sample_idx: number;
  readonly sum: number;
  readonly cells: number;
}

export interface Mean {
  readonly mean: number;
  /** Percentile bootstrap over samples, 95 %. */
  readonly low: number;
  readonly high: number;
  readonly samples: number;
  readonly cells: number;
}

/** Rows of one run that agree by `keyOf` are taken together; rows are in the order of samples. */
export function meansOf<Row extends SampleSum>(
  rows: readonly Row[],
  keyOf: (row: Row) => string,
  seeds: ReadonlyMap<number, number>,
): { readonly first: Row; readonly mean: Mean }[] {
  const bootstraps = new Map([...seeds].map(([runId, seed]) => [runId, new Bootstrap(seed)]));
  return [...grouped(rows, (row) => `${row.run_id} ${keyOf(row)}`).values()].map((part) => {
    const sums = part.map(({ sum }) => sum);
    const counts = part.map(({ cells }) => cells);
    const cells = total(counts);
    const first = part[0]!;
    const interval = bootstraps.get(first.run_id)!.interval({ sums, counts });
    return { first, mean: { mean: total(sums) / cells, ...interval, samples: part.length, cells } };
  });
}

export const meanColumns = ['mean', 'ci_low', 'ci_high', 'samples', 'cells'] as const;

export function meanValues({ mean, low, high, samples, cells }: Mean): Data['rows'][number] {
  return [mean, low, high, samples, cells];
}

function total(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}
