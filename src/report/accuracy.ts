/** Accuracy as the paper counts it: whether some target layer finds a sample's fact, beside a probe of the same states. */
import type { Database } from 'better-sqlite3';
import { grouped } from '../group.js';
import { moments } from '../statistics/moments.js';
import { bonferroni, pairedTTest, type TTest } from '../statistics/t-test.js';
import { ask, sqlText } from './data.js';
import type { Subject } from './subject.js';

/** Success at one source layer. */
export interface LayerRow {
  readonly run_id: number;
  readonly run_name: string;
  readonly variant: string;
  readonly group: string;
  /** Of a rule of success; `probe` is none. */
  readonly name: string;
  readonly control: string;
  readonly source_site: string;
  readonly source_layer: number | null;
  readonly accuracy: number | null;
  readonly samples: number;
  readonly known_accuracy: number | null;
  readonly known_samples: number;
}

export interface LayerPoint {
  readonly site: string;
  /** Null: nothing was patched. */
  readonly layer: number | null;
  readonly accuracy: number;
}

/** What a group's samples come to under one rule: all of them, or those alone whose fact is known. */
export interface GroupAccuracy {
  readonly runId: number;
  readonly variant: string;
  readonly group: string;
  readonly rule: string;
  readonly known: boolean;
  readonly samples: number;
  /** Of the probe; null where there was none. */
  readonly subjects: number | null;
  readonly classes: number | null;
  readonly note: string | null;
  /** `none` are the captured states, `probe` the probe; the others are controls. */
  readonly lines: ReadonlyMap<string, readonly LayerPoint[]>;
  /** Of the captured states against the probe, over the layers that both have. */
  readonly test: (TTest & { readonly corrected: number }) | undefined;
}

export interface Accuracies {
  readonly sql: string;
  readonly all: readonly GroupAccuracy[];
}

/** None where no run says what is known, and none has a probe. */
export function accuraciesOf(database: Database, { runIds }: Subject): Accuracies | undefined {
  const [asked] = ask(
    database,
    `SELECT 1 FROM run WHERE id IN (${runIds})
      AND (json_extract(experiment, '$.known') IS NOT NULL OR json_extract(experiment, '$.probe') IS NOT NULL) LIMIT 1`,
  );
  if (asked === undefined) return undefined;
  const sql = `SELECT run_id, run_name, variant, "group", name, control, source_site, source_layer,
  accuracy, samples, known_accuracy, known_samples
FROM accuracy_by_layer
WHERE run_id IN (${runIds})
  AND variant NOT IN (SELECT value FROM run, json_each(run.experiment, '$.known') WHERE run.id = run_id)
ORDER BY run_id, variant, "group", name, control, source_layer, source_site`;
  const rows = ask<LayerRow>(database, sql);
  const probes = ask<ProbeRow>(
    database,
    `SELECT run_id, variant, "group", known, subjects, classes, note FROM probe WHERE run_id IN (${runIds})`,
  );
  const all = [
    ...grouped(rows, ({ run_id, variant, group }) => JSON.stringify([run_id, variant, group])),
  ].flatMap(([, of]) => groupAccuracies(of, probes));
  return { sql: `${layersNote}\n${sql}`, all: corrected(all) };
}

const layersNote =
  '-- a row is one source layer; means, deviations and tests over layers are made from these rows';

interface ProbeRow {
  readonly run_id: number;
  readonly variant: string;
  readonly group: string;
  readonly known: number;
  readonly subjects: number;
  readonly classes: number;
  readonly note: string | null;
}

/** Of one group, under each rule. */
function groupAccuracies(rows: readonly LayerRow[], probes: readonly ProbeRow[]): GroupAccuracy[] {
  const { run_id: runId, variant, group } = rows[0]!;
  const rules = grouped(rows, ({ name }) => name);
  const probe = rules.get('probe') ?? [];
  rules.delete('probe');
  return [...rules].flatMap(([rule, of]) =>
    [false, true].flatMap((known): GroupAccuracy[] => {
      const lines = linesOf(of, probe, known);
      if (!lines.has('none')) return [];
      const row = probes.find(
        (one) =>
          one.run_id === runId &&
          one.variant === variant &&
          one.group === group &&
          one.known === Number(known),
      );
      const samples = Math.max(...of.map((one) => (known ? one.known_samples : one.samples)));
      const { subjects = null, classes = null, note = null } = row ?? {};
      return [
        { runId, variant, group, rule, known, samples, subjects, classes, note, lines, test: testOf(lines) },
      ];
    }),
  );
}

function linesOf(rows: readonly LayerRow[], probe: readonly LayerRow[], known: boolean) {
  const named = [
    ...rows.map((row) => [row.control, row] as const),
    ...probe.map((row) => ['probe', row] as const),
  ];
  const points = named.flatMap(([name, row]) => {
    const accuracy = known ? row.known_accuracy : row.accuracy;
    return accuracy === null
      ? []
      : [{ name, point: { site: row.source_site, layer: row.source_layer, accuracy } }];
  });
  return new Map(
    [...grouped(points, ({ name }) => name)].map(([name, of]) => [name, of.map(({ point }) => point)]),
  );
}

function testOf(lines: GroupAccuracy['lines']): GroupAccuracy['test'] {
  const keyOf = ({ site, layer }: LayerPoint) => `${site} ${layer}`;
  const probe = new Map((lines.get('probe') ?? []).map((point) => [keyOf(point), point.accuracy]));
  const both = lines.get('none')!.filter((point) => probe.has(keyOf(point)));
  if (both.length < 2) return undefined;
  const test = pairedTTest(
    both.map(({ accuracy }) => accuracy),
    both.map((point) => probe.get(keyOf(point))!),
  );
  return { ...test, corrected: test.p };
}

/** For the tests made together: those of all groups of one run and variant by one rule. */
function corrected(all: readonly GroupAccuracy[]): GroupAccuracy[] {
  const together = grouped(all, ({ runId, variant, rule, known }) =>
    JSON.stringify([runId, variant, rule, known]),
  );
  return [...together.values()].flatMap((some) => {
    const tested = some.filter(({ test }) => test !== undefined);
    const pValues = bonferroni(tested.map(({ test }) => test!.p));
    return some.map((one) => {
      const { test } = one;
      return test === undefined
        ? one
        : { ...one, test: { ...test, corrected: pValues[tested.indexOf(one)]! } };
    });
  });
}

/** Mean and deviation over layers of one line. */
export function momentsOf({ lines }: GroupAccuracy, name: string) {
  const points = lines.get(name);
  return points && moments(points.map(({ accuracy }) => accuracy));
}

export function groupName(group: string): string {
  return group === '' ? 'all samples' : group;
}

/** Means of some samples in the results file: the known ones, or all. */
export function samplesSql({ runId, group, known }: GroupAccuracy): string {
  const ofGroup = group === '' ? 'sample."group" IS NULL' : `sample."group" = ${sqlText(group)}`;
  return known
    ? `${ofGroup} AND sample.idx IN (SELECT sample_idx FROM known_sample WHERE run_id = ${runId})`
    : ofGroup;
}
