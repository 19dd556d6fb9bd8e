/** Means of a metric by layer, over samples and the layers of the other side. */
import type { Database } from 'better-sqlite3';
import { ask, layerText, numberText, sqlText } from './data.js';
import { type ChartLine, layerChart } from './layer-chart.js';
import { meanColumns, meansOf, meanValues, type SampleSum } from './means.js';
import type { Part } from './part.js';
import { partName } from './part.js';
import { isLowerBetter, type Place, placeColumns, placeJoins, type Subject } from './subject.js';

type Row = Place & SampleSum & { readonly control: string; readonly layer: number | null };

export function curve(database: Database, subject: Subject, metric: string): Part | undefined {
  const { axis, runIds } = subject;
  const sql = `SELECT ${placeColumns},
  observation.control, observation.${axis} AS layer, observation.sample_idx, sum(score.value) AS sum, count(*) AS cells
FROM observation
JOIN score ON score.observation_id = observation.id AND score.name = ${sqlText(metric)}
${placeJoins}
WHERE observation.run_id IN (${runIds})
GROUP BY observation.run_id, observation.variant, observation.mapping_id, 5, 6, observation.control, layer, observation.sample_idx
ORDER BY observation.run_id, observation.variant, observation.control, layer, observation.sample_idx`;
  return curvePart(subject, ask<Row>(database, sql), {
    ...{ sql, zero: false, value: metric },
    name: partName('curve', metric),
    title: `${metric} by layer`,
    caption: `Mean over samples${subject.isGrid ? ` and ${subject.axis === 'source_layer' ? 'target' : 'source'} layers` : ''}; bands: 95 % intervals, percentile bootstrap over samples. ${isLowerBetter(metric) ? 'Smaller is better.' : 'Larger is better.'}`,
    labelOf: (place, control) => lineLabel(subject.nameOf(place), control),
  });
}

export interface CurveText {
  readonly sql: string;
  readonly name: string;
  readonly title: string;
  readonly caption: string;
  readonly value: string;
  readonly zero: boolean;
  readonly labelOf: (place: Place, control: string) => string;
}

/** Undefined where there are no values. */
export function curvePart(subject: Subject, rows: readonly Row[], text: CurveText): Part | undefined {
  if (rows.length === 0) return undefined;
  const means = meansOf(
    rows,
    (row) => JSON.stringify([row.variant, row.mapping, row.source_site, row.site, row.control, row.layer]),
    subject.seeds,
  );
  const lines = new Map<string, { label: string; control: string; points: ChartLine['points'][number][] }>();
  for (const { first, mean } of means) {
    const label = text.labelOf(first, first.control);
    const line = lines.get(label) ?? { label, control: first.control, points: [] };
    lines.set(label, line);
    line.points.push({ layer: first.layer, ...mean });
  }
  const chart = {
    label: `${text.title}. ${[...lines.values()].map((line) => spoken(line)).join('. ')}`,
    axis: subject.isGrid ? subject.axis.replace('_', ' ') : 'layer',
    ...{ value: text.value, zero: text.zero, lines: ordered([...lines.values()]) },
  };
  return {
    ...{ name: text.name, title: text.title, caption: text.caption },
    svg: layerChart(chart),
    data: {
      sql: `-- a row is the sum over the cells of one sample; means and intervals are made from these rows\n${text.sql}`,
      columns: [
        'run_id',
        'variant',
        'mapping',
        'source_site',
        'site',
        'control',
        subject.axis,
        ...meanColumns,
      ],
      rows: means.map(({ first: row, mean }) => [
        ...[row.run_id, row.variant, row.mapping, row.source_site, row.site, row.control, row.layer],
        ...meanValues(mean),
      ]),
    },
  };
}

export function lineLabel(name: string, control: string): string {
  if (control === 'none') return name || 'patched';
  return name === '' ? control : `${name}, ${control}`;
}

/** Controls come last. */
function ordered(lines: readonly ChartLine[]): ChartLine[] {
  return [...lines].sort((a, b) => Number(a.control !== 'none') - Number(b.control !== 'none'));
}

function spoken({ label, points }: ChartLine): string {
  const [first] = points;
  if (points.length === 1) return `${label}: ${numberText(first!.mean)}`;
  const by = (better: (a: number, b: number) => boolean) =>
    points.reduce((best, point) => (better(point.mean, best.mean) ? point : best));
  const told = [by((a, b) => a < b), by((a, b) => a > b)].map(
    ({ mean, layer }) => `${numberText(mean)} at layer ${layerText(layer)}`,
  );
  return `${label}: least ${told[0]}, most ${told[1]}`;
}
