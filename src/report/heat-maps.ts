/** Means of a metric at each pair of layers, a picture for each place. */

import type { Database } from 'better-sqlite3';
import { layerText, numberText } from '../store/format.js';
import { ask, askData, sqlText } from './data.js';
import { type HeatPoint, heatChart } from './heat-chart.js';
import { type Part, partName } from './part.js';
import type { Place, Subject } from './subject.js';

export function heatMaps(database: Database, subject: Subject, metric: string): Part[] {
  const asked = subject.places.map((place) => {
    const sql = gridSql(place, metric);
    return { place, sql, points: ask<HeatPoint>(database, sql) };
  });
  const values = asked
    .flatMap(({ points }) => points.map(({ value }) => value))
    .filter((value) => value !== null);
  if (values.length === 0) return [];
  const range = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))] as const;
  return asked
    .filter(({ points }) => isMap(points))
    .map(({ place, sql, points }, i) => {
      const name = subject.nameOf(place);
      const title = `${metric} by source and target layer${name === '' ? '' : `: ${name}`}`;
      return {
        ...{ name: partName('layers', metric, ...(subject.places.length > 1 ? [i + 1] : [])), title },
        caption:
          'Mean over samples, captured states alone; a cell tells its numbers where the pointer rests on it, and the table holds all. ×: some cells failed; × on an empty square: all did.',
        svg: heatChart(`${title}. ${spoken(points)}`, points, range),
        data: askData(database, sql),
      };
    });
}

/** Not a line of equal layers, and not of a run without the metric. */
function isMap(points: readonly HeatPoint[]): boolean {
  return (
    points.some(({ source_layer, target_layer }) => source_layer !== target_layer) &&
    points.some(({ value }) => value !== null)
  );
}

function gridSql({ run_id, variant, mapping, source_site, site }: Place, metric: string): string {
  return `SELECT observation.source_layer, observation.target_layer, avg(score.value) AS value,
  count(*) AS cells, sum(observation.status = 'failed') AS failed, max(metric.ci_low) AS ci_low, max(metric.ci_high) AS ci_high
FROM observation
JOIN mapping ON mapping.id = observation.mapping_id
LEFT JOIN score ON score.observation_id = observation.id AND score.name = ${sqlText(metric)}
LEFT JOIN metric ON metric.run_id = observation.run_id AND metric.name = score.name AND metric."group" = ''
  AND metric.control = 'none' AND metric.variant = observation.variant AND metric.mapping_id = observation.mapping_id
  AND metric.source_site = observation.source_site AND metric.site = observation.site
  AND coalesce(metric.source_layer, -2) = observation.source_layer
  AND coalesce(metric.target_layer, -2) = observation.target_layer
WHERE observation.run_id = ${run_id} AND observation.control = 'none' AND observation.variant = ${sqlText(variant)}
  AND mapping.name = ${sqlText(mapping)}
  AND observation.source_site IN ('embed', ${sqlText(source_site)}) AND observation.site IN ('embed', ${sqlText(site)})
GROUP BY observation.source_layer, observation.target_layer
ORDER BY observation.source_layer, observation.target_layer`;
}

function spoken(points: readonly HeatPoint[]): string {
  const seen = points.filter((point): point is HeatPoint & { value: number } => point.value !== null);
  if (seen.length === 0) return 'All cells failed';
  const least = seen.reduce((best, point) => (point.value < best.value ? point : best));
  const most = seen.reduce((best, point) => (point.value > best.value ? point : best));
  return [['Least', least] as const, ['most', most] as const]
    .map(
      ([word, { value, source_layer, target_layer }]) =>
        `${word} ${numberText(value)} from layer ${layerText(source_layer)} into ${layerText(target_layer)}`,
    )
    .join(', ');
}
