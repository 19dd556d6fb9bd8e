/** Each metric in one line: over all layers, and where it is best. */
import type { Database } from 'better-sqlite3';
import { askData } from './data.js';
import type { Part } from './part.js';
import type { Subject } from './subject.js';

export function numbers(database: Database, { runIds }: Subject): Part {
  return {
    ...{ name: 'numbers', title: 'Each metric over all layers, and where it is best' },
    caption:
      'The best pair of layers is chosen on these very samples, so that its value is too good: compare it with the best of the controls. Intervals: 95 %, percentile bootstrap over samples. Layer -1 is the embedding. A run has no rows before it is done.',
    data: askData(
      database,
      `SELECT grid.name AS metric, grid.run_id, grid.variant, grid.mapping, grid.control, sum(grid.n) AS cells,
  sum(grid.value * grid.n) / sum(grid.n) AS mean, best.value AS best, best.ci_low AS best_ci_low,
  best.ci_high AS best_ci_high, best.source_layer AS best_source_layer, best.target_layer AS best_target_layer
FROM layer_grid AS grid
JOIN best_layers AS best ON best.run_id = grid.run_id AND best.name = grid.name AND best.variant = grid.variant
  AND best.mapping = grid.mapping AND best.control = grid.control
WHERE grid.run_id IN (${runIds}) AND best.run_id IN (${runIds})
GROUP BY grid.name, grid.run_id, grid.variant, grid.mapping, grid.control
ORDER BY grid.name, grid.run_id, grid.variant, grid.mapping, grid.control`,
    ),
  };
}
