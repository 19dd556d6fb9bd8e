/** What patching the captured state adds to a control, as the table `effect` has it. */
import type { Database } from 'better-sqlite3';
import { curveParts, type LinePlace, lineLabel } from './curves.js';
import { ask, sqlText } from './data.js';
import type { Mean } from './means.js';
import { type Part, partName } from './part.js';
import type { Subject } from './subject.js';

type Row = Omit<LinePlace, 'run_name' | 'layer'> & {
  readonly [axis in Subject['axis']]: number;
} & Omit<Mean, 'low' | 'high'> & { readonly ci_low: number; readonly ci_high: number };

export function differences(database: Database, subject: Subject, metric: string): Part[] {
  const { axis, runIds, runs } = subject;
  const other = axis === 'source_layer' ? 'target_layer' : 'source_layer';
  const sql = `-- a row is a point of a line
SELECT run_id, variant, mapping.name AS mapping, source_site, site, control, ${axis},
  value AS mean, ci_low, ci_high, samples, n AS cells
FROM effect
JOIN mapping ON mapping.id = mapping_id
WHERE run_id IN (${runIds}) AND effect.name = ${sqlText(metric)} AND "group" = ''
  AND ${axis} IS NOT NULL AND ${other} IS NULL
ORDER BY run_id, variant, control, ${axis}`;
  const names = new Map(runs.map(({ runId, name }) => [runId, name]));
  const means = ask<Row>(database, sql).map((row) => ({
    first: { ...row, run_name: names.get(row.run_id)!, layer: row[axis] },
    mean: { mean: row.mean, low: row.ci_low, high: row.ci_high, samples: row.samples, cells: row.cells },
  }));
  return curveParts(subject, means, {
    ...{ sql, zero: true, axis, value: `difference of ${metric}` },
    name: partName('difference', metric),
    title: `${metric}: captured state less control`,
    caption: `Mean difference to each control at the same sample and layers; bands: 95 % intervals, paired bootstrap over samples. ${subject.isSmallerBetter(metric) ? 'Below' : 'Above'} zero the captured state does better than the control; where the band holds zero they are not told apart. A run has no differences before it is done.`,
    labelOf: (place, control) => lineLabel(subject.nameOf(place), `less ${control}`),
  });
}
