/** Means of a metric by mapping, from the one of fewest parameters to the one of most. */
import type { Database } from 'better-sqlite3';
import { grouped } from '../group.js';
import { numberText, onOneLine } from '../store/format.js';
import { type Bar, barChart } from './bar-chart.js';
import { lineColumns, lineLabel, sumsNote } from './curves.js';
import { ask, sqlText } from './data.js';
import { lineStyle } from './drawing.js';
import { meanColumns, meansOf, meanValues, type SampleSum } from './means.js';
import { type Part, partName } from './part.js';
import { type Place, placeColumns, placeJoins, type Subject } from './subject.js';

interface Row extends Place, SampleSum {
  readonly control: string;
  readonly kind: string;
  readonly parameters: number | null;
  readonly pairs: number | null;
  readonly r2: number | null;
}

/** None where all cells have one mapping, or no values. Cells where nothing was patched went through none. */
export function mappingBars(database: Database, subject: Subject, metric: string): Part[] {
  if (new Set(subject.places.map(({ mapping }) => mapping)).size < 2) return [];
  const sql = `SELECT ${placeColumns}, mapping_fit.kind, mapping_fit.parameters, mapping_fit.pairs, mapping_fit.r2,
  observation.control, observation.sample_idx, sum(score.value) AS sum, count(*) AS cells
FROM observation
JOIN score ON score.observation_id = observation.id AND score.name = ${sqlText(metric)}
${placeJoins}
JOIN mapping_fit ON mapping_fit.mapping_id = mapping.id
WHERE observation.run_id IN (${subject.runIds}) AND observation.control <> 'unpatched'
GROUP BY observation.run_id, observation.variant, observation.mapping_id, 5, 6, observation.control, observation.sample_idx
ORDER BY mapping_fit.parameters, observation.run_id, observation.variant, mapping, observation.control, observation.sample_idx`;
  const means = meansOf(
    ask<Row>(database, sql),
    (row) => JSON.stringify([row.variant, row.mapping, row.source_site, row.site, row.control]),
    subject.seeds,
  );
  if (means.length === 0) return [];
  const groupOf = grouper(
    means.map(({ first }) => first),
    subject,
  );
  const bars: Bar[] = means.map(({ first, mean }) => ({
    ...{ group: groupOf(first), label: lineLabel('', first.control) },
    style: lineStyle(0, first.control, true),
    isControl: first.control !== 'none',
    ...mean,
  }));
  const title = `${metric} by mapping`;
  const spoken = bars.map(({ group, label, mean }) => `${group}, ${label}: ${numberText(mean)}`).join('. ');
  return [
    {
      ...{ name: partName('mappings', metric), title },
      caption:
        'Mean over samples and layers, from the mapping of fewest fitted numbers, of which each line tells the count, to that of most: a larger one that is no better than a smaller one is not needed. Its control goes through the same mapping. Lines: 95 % intervals, percentile bootstrap over samples.',
      svg: barChart(`${title}. ${spoken}`, metric, bars, [...new Set(bars.map(({ label }) => label))]),
      data: {
        sql: `${sumsNote}\n${sql}`,
        columns: ['kind', 'parameters', 'pairs', 'r2', ...lineColumns, ...meanColumns],
        rows: means.map(({ first: row, mean }) => [
          ...[row.kind, row.parameters, row.pairs, row.r2],
          ...[row.run_id, row.variant, row.mapping, row.source_site, row.site, row.control],
          ...meanValues(mean),
        ]),
      },
    },
  ];
}

/** Kind and size, and what else tells a place from those of the same. */
function grouper(rows: readonly Row[], { nameOf }: Subject): (row: Row) => string {
  const sizeOf = ({ kind, parameters }: Row) =>
    parameters === null ? kind : `${kind}, ${short(parameters)}`;
  const names = grouped(rows, sizeOf);
  return (row) => {
    const size = sizeOf(row);
    const isAlone = new Set(names.get(size)!.map(nameOf)).size === 1;
    return onOneLine(isAlone ? size : `${size}, ${nameOf(row)}`);
  };
}

function short(count: number): string {
  return new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 }).format(count);
}
