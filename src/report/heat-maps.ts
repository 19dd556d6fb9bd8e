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
  const sites = `source_site IN ('embed', ${sqlText(source_site)}) AND site IN ('embed', ${sqlText(site)})`;
  return `WITH grid AS (
  SELECT source_layer, target_layer, avg(score.value) AS value, count(*) AS cells, sum(status = 'failed') AS failed
  FROM observation
  JOIN mapping ON mapping.id = observation.mapping_id AND mapping.name = ${sqlText(mapping)}
  LEFT JOIN score ON score.observation_id = observation.id AND score.name = ${sqlText(metric)}
  WHERE run_id = ${run_id} AND control = 'none' AND variant = ${sqlText(variant)} AND ${sites}
  GROUP BY source_layer, target_layer
), stored AS MATERIALIZED (
  SELECT source_layer, target_layer, ci_low, ci_high
  FROM layer_grid
  WHERE run_id = ${run_id} AND control = 'none' AND variant = ${sqlText(variant)} AND ${sites}
    AND mapping = ${sqlText(mapping)} AND name = ${sqlText(metric)}
)
SELECT grid.*, stored.ci_low, stored.ci_high
FROM grid
LEFT JOIN stored ON stored.source_layer = grid.source_layer AND stored.target_layer = grid.target_layer
ORDER BY grid.source_layer, grid.target_layer`;
}

export function spoken(points: readonly HeatPoint[]): string {
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
