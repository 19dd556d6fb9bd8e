/** Means of a metric by layer, a line for each group of samples, where these are few. */
import type { Database } from 'better-sqlite3';
import { grouped } from '../group.js';
import { onOneLine } from '../store/format.js';
import { isOnePlace, lineLabel, spoken } from './curves.js';
import { ask, sqlText } from './data.js';
import { lineStyle, palette } from './drawing.js';
import { type ChartLine, layerChart } from './layer-chart.js';
import type { Mean } from './means.js';
import { type Part, partName } from './part.js';
import { type Place, placeColumns, type Subject } from './subject.js';

type Row = Place &
  Pick<Mean, 'mean' | 'low' | 'high' | 'cells'> & {
    readonly control: string;
    readonly group: string;
    readonly layer: number | null;
  };

/** None where the layers cross, for several lines a group, or before a run has ended. */
export function groupCurves(database: Database, subject: Subject, metric: string): Part[] {
  if (subject.isGrid) return [];
  const sql = `SELECT ${placeColumns}, observation."group" AS "group",
  observation.control, observation.${subject.axis} AS layer, value AS mean, ci_low AS low, ci_high AS high, n AS cells
FROM metric AS observation
JOIN run ON run.id = observation.run_id
JOIN mapping ON mapping.id = observation.mapping_id
WHERE observation.run_id IN (${subject.runIds}) AND observation.name = ${sqlText(metric)} AND observation."group" <> ''
  AND observation.control IN ('none', 'shuffled')
ORDER BY observation.control, observation."group", layer`;
  const rows = ask<Row>(database, sql);
  const groups = [...new Set(rows.map(({ group }) => group))];
  if (
    groups.length < 2 ||
    groups.length > palette.length ||
    !isOnePlace(
      subject,
      rows.map((first) => ({ first })),
    )
  ) {
    return [];
  }
  const byLine = grouped(rows, ({ group, control }) => `${control} ${group}`);
  const lines = [...byLine.values()].map((points): ChartLine => {
    const [{ group, control }] = points as [Row];
    return {
      label: lineLabel(onOneLine(group), control),
      style: lineStyle(groups.indexOf(group), control, false),
      points,
    };
  });
  const title = `${metric} by group and layer`;
  return [
    {
      ...{ name: partName('group-curve', metric), title },
      caption:
        'Mean over the samples of a group; dashed: the state of another sample; bands: 95 % intervals, percentile bootstrap over samples.',
      svg: layerChart({
        label: `${title}. ${lines.map(spoken).join('. ')}`,
        ...{ axis: 'layer', value: metric, zero: false, lines },
      }),
      data: {
        sql,
        columns: ['run_id', 'group', 'control', 'layer', 'mean', 'low', 'high', 'cells'],
        rows: rows.map((row) => [
          row.run_id,
          row.group,
          row.control,
          row.layer,
          row.mean,
          row.low,
          row.high,
          row.cells,
        ]),
      },
    },
  ];
}
