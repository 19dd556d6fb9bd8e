/** Means of a metric at each source position and layer, a picture for each place that is swept over positions. */
import type { Database } from 'better-sqlite3';
import { numberText, onOneLine } from '../store/format.js';
import { ask, askData, sqlText } from './data.js';
import { type HeatValue, heatChartOf, layerAxis } from './heat-chart.js';
import { type Part, partName } from './part.js';
import type { Place, Subject } from './subject.js';

interface PositionPoint extends HeatValue {
  readonly source_position: number;
  /** Null where samples have different ones. */
  readonly source_token: string | null;
  readonly layer: number;
}

export function positionMaps(database: Database, subject: Subject, metric: string): Part[] {
  return subject.places.flatMap((place, i) => {
    const axis = axisOf(database, place);
    const sql = gridSql(place, metric, axis);
    const points = ask<PositionPoint>(database, sql);
    const values = points.flatMap(({ value }) => (value === null ? [] : [value]));
    if (values.length === 0) return [];
    const range = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))] as const;
    const name = subject.nameOf(place);
    const title = `${metric} by source position and ${axis.replace('_', ' ')}${name === '' ? '' : `: ${name}`}`;
    return [
      {
        ...{ name: partName('positions', metric, ...(subject.places.length > 1 ? [i + 1] : [])), title },
        caption: `Mean over samples and draws, captured states alone. A position is written with its token where all samples have the same there.${besideUnpatched(database, place, metric)}`,
        svg: heatChartOf(title, points, range, [
          { ...layerAxis('layer'), label: axis.replace('_', ' ') },
          {
            ...{ key: 'source_position', label: 'source position', margin: 170, ticks: 100 },
            format: (position) => labelOf(points, position),
          },
        ]),
        data: askData(database, sql),
      },
    ];
  });
}

/** The side that has several layers; of both the source's, over the others' mean. */
function axisOf(database: Database, { run_id, variant }: Place): 'source_layer' | 'target_layer' {
  const [found] = ask<{ sources: number }>(
    database,
    `SELECT count(DISTINCT source_layer) AS sources FROM observation
    WHERE run_id = ${run_id} AND variant = ${sqlText(variant)} AND control = 'none'`,
  );
  return found!.sources > 1 ? 'source_layer' : 'target_layer';
}

function gridSql(place: Place, metric: string, axis: string): string {
  const { run_id, variant, mapping, source_site, site } = place;
  return `SELECT move.source_position,
  CASE WHEN min(move.source_token) = max(move.source_token) THEN min(move.source_token) END AS source_token,
  ${axis} AS layer, avg(score.value) AS value, count(*) AS cells, sum(status = 'failed') AS failed,
  NULL AS ci_low, NULL AS ci_high
FROM observation
JOIN variant ON variant.run_id = observation.run_id AND variant.sample_idx = observation.sample_idx
  AND variant.name = observation.variant AND variant.swept
JOIN move ON move.run_id = observation.run_id AND move.sample_idx = observation.sample_idx
  AND move.variant = observation.variant AND move.idx = observation.move_idx
JOIN mapping ON mapping.id = observation.mapping_id AND mapping.name = ${sqlText(mapping)}
LEFT JOIN score ON score.observation_id = observation.id AND score.name = ${sqlText(metric)}
WHERE observation.run_id = ${run_id} AND control = 'none' AND observation.variant = ${sqlText(variant)}
  AND source_site IN ('embed', ${sqlText(source_site)}) AND site IN ('embed', ${sqlText(site)})
GROUP BY move.source_position, ${axis}
ORDER BY move.source_position, ${axis}`;
}

function besideUnpatched(database: Database, { run_id, variant }: Place, metric: string): string {
  const [unpatched] = ask<{ value: number | null }>(
    database,
    `SELECT avg(score.value) AS value FROM observation JOIN score ON score.observation_id = observation.id
    WHERE run_id = ${run_id} AND variant = ${sqlText(variant)} AND control = 'unpatched' AND score.name = ${sqlText(metric)}`,
  );
  return unpatched!.value === null ? '' : ` Unpatched it is ${numberText(unpatched!.value)}.`;
}

function labelOf(points: readonly PositionPoint[], position: number): string {
  const token = points.find((point) => point.source_position === position)?.source_token;
  return token == null ? `${position}` : `${position} ${onOneLine(JSON.stringify(token))}`;
}
