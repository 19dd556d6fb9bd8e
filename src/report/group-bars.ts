/** Means of a metric by group of samples, such as their relation. */
import type { Database } from 'better-sqlite3';
import { numberText, onOneLine } from '../store/format.js';
import { type Bar, barChart } from './bar-chart.js';
import { isOnePlace, lineColumns, lineLabel, sumsNote } from './curves.js';
import { ask, sqlText } from './data.js';
import { lineStyle } from './drawing.js';
import { meanColumns, meansOf, meanValues, type SampleSum } from './means.js';
import { type Part, partName } from './part.js';
import { type Place, placeColumns, placeJoins, type Subject } from './subject.js';

type Row = Place & SampleSum & { readonly control: string; readonly group: string };

/** None where there are no values. */
export function groupBars(database: Database, subject: Subject, metric: string): Part[] {
  const sql = `SELECT ${placeColumns},
  observation.control, sample."group" AS "group", observation.sample_idx, sum(score.value) AS sum, count(*) AS cells
FROM observation
JOIN score ON score.observation_id = observation.id AND score.name = ${sqlText(metric)}
JOIN sample ON sample.run_id = observation.run_id AND sample.idx = observation.sample_idx
${placeJoins}
WHERE observation.run_id IN (${subject.runIds}) AND sample."group" IS NOT NULL
GROUP BY observation.run_id, observation.variant, observation.mapping_id, 5, 6, observation.control, observation.sample_idx
ORDER BY sample."group", observation.run_id, observation.variant, observation.control, observation.sample_idx`;
  const means = meansOf(
    ask<Row>(database, sql),
    (row) => JSON.stringify([row.variant, row.mapping, row.source_site, row.site, row.control, row.group]),
    subject.seeds,
  );
  if (means.length === 0) return [];
  const isSingle = isOnePlace(subject, means);
  const bars: Bar[] = means.map(({ first, mean }) => ({
    ...{ group: onOneLine(first.group), label: lineLabel(subject.nameOf(first), first.control) },
    style: lineStyle(subject.indexOf(first), first.control, isSingle),
    isControl: first.control !== 'none',
    ...mean,
  }));
  const labels = [...new Set(bars.map(({ label }) => label))];
  const title = `${metric} by group`;
  const spoken = bars.map(({ group, label, mean }) => `${group}, ${label}: ${numberText(mean)}`).join('. ');
  return [
    {
      ...{ name: partName('groups', metric), title },
      caption:
        'Mean over the samples of a group and all layers; lines: 95 % intervals, percentile bootstrap over samples. The interval of a single sample has no width.',
      svg: barChart(`${title}. ${spoken}`, metric, bars, labels),
      data: {
        sql: `${sumsNote}\n${sql}`,
        columns: ['group', ...lineColumns, ...meanColumns],
        rows: means.map(({ first: row, mean }) => [
          ...[row.group, row.run_id, row.variant, row.mapping, row.source_site, row.site, row.control],
          ...meanValues(mean),
        ]),
      },
    },
  ];
}
