/** Every way of reading the same states, Patchscope, logit lens, probe and controls, beside the truth, layer by layer. */
import type { Database } from 'better-sqlite3';
import { ask, askData, sqlText } from './data.js';
import { type MethodRow, methodTable } from './known-tables.js';
import type { Part } from './part.js';

/** @param metric the rule of success. */
export function methodsByLayer(database: Database, runIds: string, metric: string): Part {
  const sql = `WITH truth AS (
  SELECT run.id AS run_id, expected.value ->> 'variant' AS variant, expected.value ->> 'metric' AS name,
    expected.value ->> 'control' AS control, expected.value ->> 'truth' AS truth,
    replace(expected.value ->> 'sourceLayers', '"embed"', '-1') AS layers
  FROM run, json_each(run.experiment, '$.expected') AS expected
  WHERE run.id IN (${runIds})
), found AS (
  SELECT run_id, variant, name, control, source_layer, max(value) AS found, n AS samples
  FROM layer_grid
  WHERE run_id IN (${runIds}) AND name = ${sqlText(metric)} AND source_layer IS NOT NULL
  GROUP BY run_id, variant, name, control, source_layer
  UNION ALL
  SELECT run_id, variant, 'probe', 'none', source_layer, avg(correct), count(*)
  FROM probe_prediction
  WHERE run_id IN (${runIds}) AND known = 0
  GROUP BY run_id, variant, source_layer
)
SELECT run_id, variant, CASE name WHEN 'probe' THEN name ELSE control END AS states, source_layer, samples, found,
  (
    SELECT max(truth) FROM truth
    WHERE truth.run_id = found.run_id AND truth.name = found.name AND truth.control = found.control
      AND coalesce(truth.variant, found.variant) = found.variant
      AND (layers IS NULL OR found.source_layer IN (SELECT value FROM json_each(layers)))
  ) AS truth
FROM found
ORDER BY run_id, variant, name = 'probe', control, source_layer`;
  const title = 'Every way of reading, beside the truth';
  return {
    ...{ name: 'known-methods', title },
    caption: `Part of the samples that are right (${metric}) at the target layer that is best for all of them together, or whose class the probe finds, by source layer; in brackets what a reading that says what is so would give, where that is known. A variant that reads with the last layer alone is a logit lens.`,
    html: methodTable(title, ask<MethodRow>(database, sql)),
    data: askData(database, sql),
  };
}
