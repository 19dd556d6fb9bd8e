/** Pictures of what is found of each group's facts: bars, curves by layer, and a map of layers for each group. */
import type { Database } from 'better-sqlite3';
import { numberText, onOneLine } from '../store/format.js';
import { type Accuracies, type GroupAccuracy, groupName, momentsOf, samplesSql } from './accuracy.js';
import { wordOf } from './accuracy-table.js';
import { type Bar, barChart } from './bar-chart.js';
import { ask, askData, sqlText } from './data.js';
import { type LineStyle, palette } from './drawing.js';
import { type HeatPoint, heatChart } from './heat-chart.js';
import { spoken } from './heat-maps.js';
import { type Part, partName } from './part.js';
import { smallCharts } from './small-charts.js';

const lineNames = ['none', 'probe', 'random', 'shuffled', 'unpatched'];
const dashes: Readonly<Record<string, string>> = { random: '6 3', shuffled: '2 3', unpatched: '9 3 2 3' };

/** Those that a picture shows: the known facts alone where there are some, as in the paper. */
export function pictured({ all }: Accuracies, rule: string): readonly GroupAccuracy[] {
  const ofRule = all.filter((one) => one.rule === rule);
  const known = ofRule.filter((one) => one.known);
  return known.length > 0 ? known : ofRule;
}

function about(some: readonly GroupAccuracy[]): string {
  return some[0]?.known ? 'known facts' : 'all samples';
}

interface Line {
  readonly one: GroupAccuracy;
  readonly name: string;
  readonly label: string;
  readonly style: LineStyle;
}

/** Runs and variants are told by name where there are several. */
function linesOf(some: readonly GroupAccuracy[]): Line[] {
  const placeOf = ({ runId, variant }: GroupAccuracy) => `run ${runId}, ${variant}`;
  const places = [...new Set(some.map(placeOf))];
  return some.flatMap((one) =>
    lineNames
      .filter((name) => one.lines.has(name))
      .map((name) => {
        const place = places.indexOf(placeOf(one));
        const colour = place * lineNames.length + lineNames.indexOf(name);
        return {
          ...{ one, name },
          label: onOneLine(places.length > 1 ? `${placeOf(one)}: ${wordOf(name)}` : wordOf(name)),
          style: { stroke: palette[colour % palette.length]!, strokeDasharray: dashes[name] ?? 'none' },
        };
      }),
  );
}

export function accuracyBars(accuracies: Accuracies, rule: string): Part[] {
  const some = pictured(accuracies, rule);
  if (some.length === 0) return [];
  const lines = linesOf(some);
  const bars = lines.map(({ one, name, label, style }): Bar => {
    const { mean, sd } = momentsOf(one, name)!;
    return {
      ...{
        group: onOneLine(groupName(one.group)),
        label,
        style,
        isControl: !['none', 'probe'].includes(name),
      },
      ...{ mean, low: Math.max(0, mean - sd), high: Math.min(1, mean + sd) },
      ...{ samples: one.samples, cells: one.lines.get(name)!.length },
    };
  });
  const title = `Patchscope beside the probe by group: ${rule}, ${about(some)}`;
  const told = bars.map(({ group, label, mean }) => `${group}, ${label}: ${numberText(mean)}`).join('. ');
  return [
    {
      ...{ name: partName('accuracy-bars', rule), title },
      caption:
        'Part of the samples that some target layer succeeds with, mean over source layers; lines: one standard deviation over source layers to each side.',
      svg: barChart(`${title}. ${told}`, 'accuracy', bars, [...new Set(bars.map(({ label }) => label))]),
      data: {
        sql: accuracies.sql,
        columns: ['group', 'run_id', 'variant', 'line', 'mean', 'sd', 'layers'],
        rows: lines.map(({ one, name }) => {
          const { mean, sd } = momentsOf(one, name)!;
          const layers = one.lines.get(name)!.length;
          return [
            groupName(one.group),
            one.runId,
            one.variant,
            wordOf(name),
            mean,
            layers < 2 ? null : sd,
            layers,
          ];
        }),
      },
    },
  ];
}

export function accuracyCurves(accuracies: Accuracies, rule: string): Part[] {
  const some = pictured(accuracies, rule);
  if (some.length === 0) return [];
  const lines = linesOf(some);
  const title = `Patchscope against the probe by source layer: ${rule}, ${about(some)}`;
  return [
    {
      ...{ name: partName('accuracy-curves', rule), title },
      caption: 'Part of the samples that some target layer succeeds with, at each source layer.',
      svg: smallCharts(
        `${title}. A small plot for each of ${new Set(some.map(({ group }) => group)).size} groups; the numbers are in the table.`,
        'source layer',
        lines.map(({ one, name, label, style }) => ({
          ...{ label, style, group: onOneLine(groupName(one.group)), points: one.lines.get(name)! },
        })),
      ),
      data: {
        sql: accuracies.sql,
        columns: ['group', 'run_id', 'variant', 'line', 'source_site', 'source_layer', 'accuracy'],
        rows: lines.flatMap(({ one, name }) =>
          one.lines
            .get(name)!
            .map(({ site, layer, accuracy }) => [
              ...[groupName(one.group), one.runId, one.variant, wordOf(name), site, layer, accuracy],
            ]),
        ),
      },
    },
  ];
}

/** Pictures that are seen at once; more of them are folded. */
const MOST_OPEN = 4;

export function accuracyMaps(database: Database, accuracies: Accuracies, rule: string): Part[] {
  const asked = pictured(accuracies, rule).map((one) => {
    const sql = mapSql(one);
    return { one, sql, points: ask<HeatPoint>(database, sql) };
  });
  const maps = asked.filter(
    ({ points }) =>
      new Set(points.map(({ target_layer }) => target_layer)).size > 1 &&
      points.some(({ value }) => value !== null),
  );
  const most = Math.max(...maps.flatMap(({ points }) => points.map(({ value }) => value ?? 0)));
  const several = new Set(maps.map(({ one }) => JSON.stringify([one.runId, one.variant]))).size > 1;
  return maps.map(({ one, sql, points }, i) => {
    const place = several ? `, run ${one.runId}, ${one.variant}` : '';
    const title = onOneLine(
      `${groupName(one.group)}: ${rule} by source and target layer, ${about([one])}${place}`,
    );
    return {
      ...{ name: partName('accuracy-map', rule, i + 1), title },
      caption: `Mean over ${one.samples} samples, captured states alone; colours mean the same for every group.`,
      svg: heatChart(`${title}. ${spoken(points)}`, points, [0, most]),
      folded: maps.length > MOST_OPEN,
      data: askData(database, sql),
    };
  });
}

function mapSql(one: GroupAccuracy): string {
  return `SELECT source_layer, target_layer, avg(score.value) AS value, count(*) AS cells, sum(status = 'failed') AS failed,
  NULL AS ci_low, NULL AS ci_high
FROM sample
JOIN observation ON observation.run_id = sample.run_id AND observation.sample_idx = sample.idx
LEFT JOIN score ON score.observation_id = observation.id AND score.name = ${sqlText(one.rule)}
WHERE sample.run_id = ${one.runId} AND control = 'none' AND variant = ${sqlText(one.variant)}
  AND ${samplesSql(one)}
GROUP BY source_layer, target_layer
ORDER BY source_layer, target_layer`;
}
