/** Means of a metric by layer, over samples and the layers of the other side. */

import type { Database } from 'better-sqlite3';
import { grouped } from '../group.js';
import { layerText, numberText } from '../store/format.js';
import { ask, sqlText } from './data.js';
import { lineStyle, palette } from './drawing.js';
import { type ChartLine, layerChart } from './layer-chart.js';
import { type Mean, meanColumns, meansOf, meanValues, type SampleSum } from './means.js';
import type { Part } from './part.js';
import { partName } from './part.js';
import { type Place, placeColumns, placeJoins, type Subject } from './subject.js';

/** Where a point of a line lies. */
export type LinePlace = Place & { readonly control: string; readonly layer: number | null };

export type CurveRow = LinePlace & SampleSum;

/** A point of a line. */
export interface LineMean {
  readonly first: LinePlace;
  readonly mean: Mean;
}

export function curves(database: Database, subject: Subject, metric: string): Part[] {
  const { axis, runIds } = subject;
  const sql = `SELECT ${placeColumns},
  observation.control, observation.${axis} AS layer, observation.sample_idx, sum(score.value) AS sum, count(*) AS cells
FROM observation
JOIN score ON score.observation_id = observation.id AND score.name = ${sqlText(metric)}
${placeJoins}
WHERE observation.run_id IN (${runIds})
GROUP BY observation.run_id, observation.variant, observation.mapping_id, 5, 6, observation.control, layer, observation.sample_idx
ORDER BY observation.run_id, observation.variant, observation.control, layer, observation.sample_idx`;
  return curveParts(subject, lineMeans(subject, ask<CurveRow>(database, sql)), {
    ...{ sql: `${sumsNote}\n${sql}`, zero: false, axis, value: metric },
    name: partName('curve', metric),
    title: `${metric} by layer`,
    caption: `Mean over samples${subject.isGrid ? ` and ${subject.axis === 'source_layer' ? 'target' : 'source'} layers` : ''}; bands: 95 % intervals, percentile bootstrap over samples. ${subject.isSmallerBetter(metric) ? 'Smaller is better.' : 'Larger is better.'}`,
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
  readonly axis: Subject['axis'];
  readonly labelOf: (place: Place, control: string) => string;
}

/** Points from the sums of samples. */
export function lineMeans(subject: Subject, rows: readonly CurveRow[]): LineMean[] {
  return meansOf(
    rows,
    (row) => JSON.stringify([row.variant, row.mapping, row.source_site, row.site, row.control, row.layer]),
    subject.seeds,
  );
}

/** A part for as many places as there are colours; none where there are no values. */
export function curveParts(subject: Subject, means: readonly LineMean[], text: CurveText): Part[] {
  const pictures = grouped(means, ({ first }) => Math.floor(subject.indexOf(first) / palette.length));
  return [...pictures].map(([picture, some]) => curvePart(subject, some, numbered(text, picture)));
}

function numbered(text: CurveText, picture: number): CurveText {
  if (picture === 0) return text;
  const { name, title } = text;
  return { ...text, name: `${name}-${picture + 1}`, title: `${title}, picture ${picture + 1}` };
}

function curvePart(
  subject: Subject,
  means: readonly LineMean[],
  { sql, name, title, caption, value, zero, axis, labelOf }: CurveText,
): Part {
  const lines = linesOf(subject, means, labelOf);
  return {
    ...{ name, title, caption },
    svg: layerChart({
      label: `${title}. ${lines.map(spoken).join('. ')}`,
      axis: subject.isGrid ? axis.replace('_', ' ') : 'layer',
      ...{ value, zero, lines },
    }),
    data: {
      sql,
      columns: [...lineColumns, axis, ...meanColumns],
      rows: means.map(({ first: row, mean }) => [
        ...[row.run_id, row.variant, row.mapping, row.source_site, row.site, row.control, row.layer],
        ...meanValues(mean),
      ]),
    },
  };
}

export const sumsNote =
  '-- a row is the sum over the cells of one sample; means and intervals are made from these rows';

export const lineColumns = ['run_id', 'variant', 'mapping', 'source_site', 'site', 'control'];

/** Controls come last. */
function linesOf(subject: Subject, means: readonly LineMean[], labelOf: CurveText['labelOf']): ChartLine[] {
  const lines = [...grouped(means, ({ first }) => labelOf(first, first.control))];
  const isSingle = isOnePlace(subject, means);
  const isControl = ([, [one]]: (typeof lines)[number]) => Number(one!.first.control !== 'none');
  return lines
    .sort((a, b) => isControl(a) - isControl(b))
    .map(([label, line]) => ({
      label,
      style: lineStyle(subject.indexOf(line[0]!.first), line[0]!.first.control, isSingle),
      points: line.map(({ first, mean }) => ({ layer: first.layer, ...mean })),
    }));
}

export function isOnePlace(subject: Subject, means: readonly { readonly first: Place }[]): boolean {
  return new Set(means.map(({ first }) => subject.indexOf(first))).size === 1;
}

export function lineLabel(name: string, control: string): string {
  if (control === 'none') return name || 'patched';
  return name === '' ? control : `${name}, ${control}`;
}

export function spoken({ label, points }: ChartLine): string {
  const [first] = points;
  if (points.length === 1) return `${label}: ${numberText(first!.mean)}`;
  const by = (better: (a: number, b: number) => boolean) =>
    points.reduce((best, point) => (better(point.mean, best.mean) ? point : best));
  const told = [by((a, b) => a < b), by((a, b) => a > b)].map(
    ({ mean, layer }) => `${numberText(mean)} at layer ${layerText(layer)}`,
  );
  return `${label}: least ${told[0]}, most ${told[1]}`;
}
