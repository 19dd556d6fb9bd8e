/** What patching the captured state adds to a control, pair of cells by pair of cells. */
import type { Database } from 'better-sqlite3';
import { type CurveRow, curveParts, lineLabel } from './curves.js';
import { ask, sqlText } from './data.js';
import { type Part, partName } from './part.js';
import { isLowerBetter, placeColumns, placeJoins, type Subject } from './subject.js';

export function differences(database: Database, subject: Subject, metric: string): Part[] {
  const sql = `WITH cell AS (
  SELECT ${placeColumns},
    observation.control, observation.sample_idx, observation.source_layer, observation.target_layer,
    avg(score.value) AS value -- over draws
  FROM observation
  JOIN score ON score.observation_id = observation.id AND score.name = ${sqlText(metric)}
  ${placeJoins}
  WHERE observation.run_id IN (${subject.runIds})
  GROUP BY observation.run_id, observation.variant, observation.mapping_id, 5, 6, observation.control,
    observation.sample_idx, observation.source_layer, observation.target_layer
)
SELECT patched.run_id, patched.run_name, patched.variant, patched.mapping, patched.source_site, patched.site,
  other.control, patched.${subject.axis} AS layer, patched.sample_idx,
  sum(patched.value - other.value) AS sum, count(*) AS cells
FROM cell AS patched
JOIN cell AS other ON other.run_id = patched.run_id AND other.sample_idx = patched.sample_idx
  AND other.variant = patched.variant AND other.control <> 'none'
  AND (other.source_layer IS NULL OR other.source_layer = patched.source_layer
    AND other.target_layer = patched.target_layer AND other.mapping = patched.mapping
    AND other.source_site = patched.source_site AND other.site = patched.site)
WHERE patched.control = 'none'
GROUP BY patched.run_id, patched.variant, patched.mapping, patched.source_site, patched.site, other.control, layer,
  patched.sample_idx
ORDER BY patched.run_id, patched.variant, other.control, layer, patched.sample_idx`;
  return curveParts(subject, ask<CurveRow>(database, sql), {
    ...{ sql, zero: true, value: `difference of ${metric}` },
    name: partName('difference', metric),
    title: `${metric}: captured state less control`,
    caption: `Mean difference to each control at the same sample and layers; bands: 95 % intervals, paired bootstrap over samples. ${isLowerBetter(metric) ? 'Below' : 'Above'} zero the captured state does better than the control; where the band holds zero they are not told apart.`,
    labelOf: (place, control) => lineLabel(subject.nameOf(place), `less ${control}`),
  });
}
