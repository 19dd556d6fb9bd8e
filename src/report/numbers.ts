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
      `WITH placed AS (
  SELECT *, row_number() OVER (
    PARTITION BY run_id, name, variant, mapping, control
    ORDER BY CASE WHEN name GLOB '*-rank' OR name GLOB 'surprisal*' THEN value ELSE -value END, source_layer, target_layer
  ) AS place
  FROM layer_grid WHERE run_id IN (${runIds})
)
SELECT name AS metric, run_id, variant, mapping, control, sum(n) AS cells, sum(value * n) / sum(n) AS mean,
  max(CASE place WHEN 1 THEN value END) AS best,
  max(CASE place WHEN 1 THEN ci_low END) AS best_ci_low,
  max(CASE place WHEN 1 THEN ci_high END) AS best_ci_high,
  max(CASE place WHEN 1 THEN source_layer END) AS best_source_layer,
  max(CASE place WHEN 1 THEN target_layer END) AS best_target_layer
FROM placed
GROUP BY name, run_id, variant, mapping, control
ORDER BY name, run_id, variant, mapping, control`,
    ),
  };
}
