/** Of each sample the best of the other side's layers: the paper counts a fact as found where one of them finds it. */
import type { Database } from 'better-sqlite3';
import { type CurveRow, curveParts, lineLabel, lineMeans, sumsNote } from './curves.js';
import { ask, sqlText } from './data.js';
import { type Part, partName } from './part.js';
import { placeColumns, placeJoins, type Subject } from './subject.js';

export function bestCurves(database: Database, subject: Subject, metric: string): Part[] {
  const { axis, runIds } = subject;
  const sql = `WITH best AS (
  SELECT ${placeColumns},
    observation.control, observation.${axis} AS layer, observation.sample_idx,
    ${subject.isSmallerBetter(metric) ? 'min' : 'max'}(score.value) AS value
  FROM observation
  JOIN score ON score.observation_id = observation.id AND score.name = ${sqlText(metric)}
  ${placeJoins}
  WHERE observation.run_id IN (${runIds})
  GROUP BY observation.run_id, observation.variant, observation.mapping_id, 5, 6, observation.control, layer,
    observation.sample_idx, observation.draw
)
SELECT run_id, run_name, variant, mapping, source_site, site, control, layer, sample_idx,
  sum(value) AS sum, count(*) AS cells
FROM best
GROUP BY run_id, variant, mapping, source_site, site, control, layer, sample_idx
ORDER BY run_id, variant, control, layer, sample_idx`;
  const other = axis === 'source_layer' ? 'target' : 'source';
  return curveParts(subject, lineMeans(subject, ask<CurveRow>(database, sql)), {
    ...{ sql: `${sumsNote}\n${sql}`, zero: false, axis, value: metric },
    name: partName('best', metric),
    title: `${metric} at the best ${other} layer of each sample`,
    caption: `Mean over samples of the best of all ${other} layers; a control has as many chances in each of its draws. Bands: 95 % intervals, percentile bootstrap over samples.`,
    labelOf: (place, control) => lineLabel(subject.nameOf(place), control),
  });
}
