/** What the factors of a run come to: variants in their order, effects of each change, guidelines. */
import type { Database } from 'better-sqlite3';
import { numberText, onOneLine } from '../store/format.js';
import { barChart } from './bar-chart.js';
import { ask, type Data, sqlText } from './data.js';
import { lineStyle } from './drawing.js';
import { type ChoiceRow, guidelines, isTold, type LevelRow, type Measured, singlesOf } from './guidelines.js';
import { escapeHtml } from './html.js';
import { dataTable, type Part, partName } from './part.js';
import type { Subject } from './subject.js';

/** For each run by itself, since other samples and metrics are other tasks. None where none has factors. */
export function whatMatters(database: Database, subject: Subject): Part[] {
  return subject.runs.flatMap(({ runId, name, model, quantization }) => {
    const metrics = metricsOf(database, runId);
    const of = metrics.map((metric) => measured(database, subject, runId, metric));
    const there = of.filter(({ rows }) => rows.length > 0);
    const title = `run ${runId} ${name}`;
    return [
      ...there.flatMap((one) => [ranking(one, runId, title), ...effects(one, runId, title)]),
      ...there.slice(0, 1).map((one) => guidelinePart(one, runId, `${title} on ${model} ${quantization}`)),
    ];
  });
}

/** In the experiment's order. */
function metricsOf(database: Database, runId: number): string[] {
  return ask<{ name: string }>(
    database,
    `SELECT metric.value AS name FROM run, json_each(run.experiment, '$.metrics') AS metric
WHERE run.id = ${runId} AND EXISTS (SELECT 1 FROM choice WHERE run_id = ${runId}) ORDER BY metric.key`,
  ).map(({ name }) => name);
}

type MeasuredHere = Measured & { readonly sql: string };

function measured(database: Database, subject: Subject, runId: number, metric: string): MeasuredHere {
  const isSmallerBetter = subject.isSmallerBetter(metric);
  const sql = `SELECT * FROM choice WHERE run_id = ${runId} AND name = ${sqlText(metric)}
ORDER BY tried_on, value${isSmallerBetter ? '' : ' DESC'}, variant`;
  const levels = ask<LevelRow>(
    database,
    `SELECT variant, factor, level, is_first FROM variant_level WHERE run_id = ${runId}`,
  );
  return { metric, isSmallerBetter, sql, levels, rows: ask<ChoiceRow>(database, sql) };
}

function guidelinePart(of: MeasuredHere, runId: number, title: string): Part {
  const sentences = guidelines(of).map((one) => onOneLine(one));
  return {
    ...{ name: partName('guidelines', runId), title: `Guidelines: ${title}` },
    caption: `Made from the numbers above, by ${of.metric}, the experiment's first metric. In brackets: 95 % intervals, (paired) percentile bootstrap over samples. patchscopes best ${runId} prints the best variant as an experiment file.`,
    html: `<ul>${sentences.map((one) => `<li>${escapeHtml(one)}</li>`).join('\n')}</ul>`,
    data: dataOf(of, of.rows),
  };
}

function ranking(of: MeasuredHere, runId: number, title: string): Part {
  const ranked = of.rows.filter(({ tried_on, variant }) => tried_on === 'all' && variant !== '');
  const bars = ranked.map(({ variant, value, ci_low, ci_high, samples }) => ({
    ...{ group: onOneLine(variant), label: '' },
    shown: `${numberText(value)} (${numberText(ci_low)} to ${numberText(ci_high)})`,
    ...{ mean: value, low: ci_low, high: ci_high, samples, cells: samples },
    ...{ style: lineStyle(0, 'none', false), isControl: false },
  }));
  const spoken = ranked.map(({ variant, value }) => `${variant}: ${numberText(value)}`).join('. ');
  return {
    ...{
      name: partName('ranking', runId, of.metric),
      title: `${of.metric} of each variant, ranked: ${title}`,
    },
    caption:
      'Means over the source layers that all variants have, each into the target layer that is best for the other half of the samples. Lines: 95 % intervals, percentile bootstrap over samples. The first of many is flattered by its place: the guidelines tell what the best one, chosen on one half, comes to on the other.',
    svg: barChart(onOneLine(`${title}, ranked. ${spoken}`), of.metric, bars, [''], 330),
    data: dataOf(of, ranked),
  };
}

/** Of the changes alone, and of pairs beyond their sum. */
function effects(of: MeasuredHere, runId: number, title: string): Part[] {
  const all = of.rows.filter(({ tried_on }) => tried_on === 'all');
  const pairs = all.filter(({ beyond }) => beyond !== null);
  if (pairs.length === 0) return [];
  const rows = [
    ...singlesOf(of).map(({ factor, level, base, row }) => [
      ...[`${factor}: ${level} instead of ${base}`, 'difference'],
      ...told(row.difference, row.difference_low, row.difference_high),
    ]),
    ...pairs.map((row) => [
      ...[row.variant, 'beyond the sum'],
      ...told(row.beyond, row.beyond_low, row.beyond_high),
    ]),
  ];
  const label = `${of.metric}: effects of changes`;
  return [
    {
      ...{ name: partName('effects', runId, of.metric), title: `${label}, ${title}` },
      caption: `Differences from the variant that has the first level of each factor, over the same samples; of two changes at once what they make beyond the sum of both alone. ${of.isSmallerBetter ? 'Below' : 'Above'} zero is better. Told apart: the 95 % interval (paired bootstrap over samples) lies on one side of zero, which about one in twenty does by chance.`,
      html: dataTable({ columns: ['change', 'what', 'mean', 'low', 'high', 'told apart'], rows }, label),
      data: dataOf(of, all),
    },
  ];
}

function told(mean: number | null, low: number | null, high: number | null) {
  if (mean === null || low === null || high === null) return [null, null, null, null];
  return [mean, low, high, isTold({ mean, low, high }) ? 'yes' : 'no'];
}

const columns = [
  ...['variant', 'tried_on', 'chosen', 'layers', 'samples', 'value', 'ci_low', 'ci_high'],
  ...['difference', 'difference_low', 'difference_high', 'beyond', 'beyond_low', 'beyond_high'],
] as const satisfies readonly (keyof ChoiceRow)[];

function dataOf({ sql }: MeasuredHere, rows: readonly ChoiceRow[]): Data {
  return { sql, columns, rows: rows.map((row) => columns.map((column) => row[column])) };
}
