/**
 * The experiments over the known-answers world: what they hold to be true is what its generator says, what comes out
 * of the whole way from file to report keeps to it, and the tool's own signs tell right readings from wrong ones.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { parse } from 'csv-parse/sync';
import { readExperiment } from '../src/experiment-file/read-experiment.js';
import type { Layer } from '../src/patchscope.js';
import { makePlan } from '../src/plan/plan.js';
import { GroupProber } from '../src/probing/group-prober.js';
import { Probing } from '../src/record-probes.js';
import { recordRun, runHeader } from '../src/record-run.js';
import { renderReport } from '../src/report/report.js';
import { ChunkRunner, run } from '../src/run.js';
import { groupedFolds } from '../src/statistics/folds.js';
import { probe } from '../src/statistics/probe.js';
import { expectationSql } from '../src/store/expectations.js';
import { query, type SqlValue } from '../src/store/query.js';
import { openStore } from '../src/store/store.js';
import { addControlled } from './report-records.js';
import { folder, sharedEngine, siteOf, tokens } from './support.js';

const model = fileURLToPath(new URL('world/world.gguf', import.meta.url));
const world = JSON.parse(readFileSync(new URL('world/world.json', import.meta.url), 'utf8'));
const relations = ['city', 'job', 'colour', 'pet'] as const;
type Person = Readonly<Record<(typeof relations)[number] | 'first' | 'last' | 'word', string>> & {
  readonly friend: number;
  readonly friendTrained: boolean;
  readonly rival: number;
};
const people = world.entities as Person[];
const nameOf = ({ first, last }: Person) => `${first} ${last}`;
const worldEngine = () => sharedEngine({ name: 'world', isTiny: true, path: () => model, skip: false });

const db = join(folder(), 'known.db');
/** Of `seen` three target layers at which all is known and one between them; of every variant some source layers. */
const lessLayers = {
  'known-answers': [
    ...['source.layers=[embed,2]', 'target.layers=[embed,0,3,5]'],
    ...[1, 2, 3, 4].map((variant) => `variants.${variant}.source.layers=2`),
  ],
  'known-answers-hops': ['source.layers=2'],
};

interface Found {
  readonly about: string;
  readonly holds: number | null;
  readonly cells: number;
  readonly truth: number;
  readonly lowest: number;
  readonly highest: number;
}

function rowsOf({ columns, rows }: { columns: readonly string[]; rows: readonly (readonly SqlValue[])[] }) {
  return rows.map((row) => Object.fromEntries(columns.map((column, i) => [column, row[i]])));
}

const found = (file: string, runId: number) =>
  rowsOf(query(file, expectationSql(`${runId}`))) as unknown as Found[];

before(async () => {
  const engine = await worldEngine();
  for (const [name, set] of Object.entries(lessLayers)) {
    const { experiment } = readExperiment(name, { set });
    const plan = makePlan(experiment, engine.tokenizer, engine.record);
    const header = runHeader(plan, { command: 'test' });
    const chunks = run(plan, new ChunkRunner(plan, engine));
    const probing = new Probing(plan, new GroupProber(plan, engine));
    for await (const _ of recordRun(chunks, header, engine, () => openStore(db), undefined, probing));
  }
});

test('the questions and their answers are those of the world', () => {
  const csv = parse(readFileSync(new URL('../src/data/world.csv', import.meta.url)), { columns: true });
  const rows = people.flatMap((person, i) => {
    const admirer = people.find(({ friend }) => friend === i)!;
    const challenger = people.find(({ rival }) => rival === i)!;
    return relations.map((relation) => ({
      ...{
        relation,
        person: nameOf(person),
        answer: person[relation],
        first: person.first,
        word: person.word,
      },
      ...{ rival: nameOf(people[person.rival]!), challenger: nameOf(challenger), admirer: nameOf(admirer) },
      admirer_state: admirer.friendTrained ? 'trained' : 'never trained',
    }));
  });
  assert.deepEqual(csv, rows);
});

test('the bounds in the files are those of the world, and the model is its own', () => {
  const { lastName, firstName, chance } = world.bounds;
  const { known } = world.reference;
  assert.equal(chance, known.unpatched);
  const allowed = new Set([0, 1, lastName, firstName, chance]);
  // a word of the lens is one fact of four at most
  const oneOfFour = 1 / relations.length;
  for (const name of Object.keys(lessLayers)) {
    const { experiment, models } = readExperiment(name);
    assert.equal(models?.source, model);
    for (const { about, metric, truth, least, most } of experiment.expected!) {
      assert.ok(allowed.has(truth!), about);
      // a probe has to learn the names of facts from some people
      const leastOf = metric === 'probe' ? 0.75 : 0.9;
      assert.ok(least === undefined || (least >= leastOf && least <= truth!), about);
      assert.ok(most === undefined || most === oneOfFour || (most <= 0.35 && most >= truth!), about);
    }
  }
});

test('every expectation is measured, and holds', () => {
  for (const [i, count] of [14, 5].entries()) {
    const expectations = found(db, i + 1);
    assert.equal(expectations.length, count);
    for (const each of expectations) {
      assert.ok(each.cells >= 200, JSON.stringify(each));
      assert.equal(each.holds, 1, JSON.stringify(each));
    }
  }
});

test('the report shows them, with what was found beside the truth', () => {
  const { html, parts } = renderReport(db, ['1', '2']);
  const { columns, rows } = parts.find(({ name }) => name === 'expectations')!.data;
  assert.equal(rows.length, 19);
  assert.deepEqual(columns.slice(0, 9), [
    ...['run_id', 'about', 'truth', 'least', 'most', 'lowest', 'mean', 'highest', 'holds'],
  ]);
  for (const name of ['expectations', 'telling-signs'])
    assert.ok(html.includes(`<figure id="${name}">`), name);
});

test('Patchscope, logit lens and probe stand side by side, each beside its truth', () => {
  const { data } = renderReport(db, ['1']).parts.find(({ name }) => name === 'known-methods')!;
  const rows = rowsOf(data);
  const at = (variant: string, states: string, layer: number) => {
    const found = rows.filter(
      (row) => row.variant === variant && row.states === states && row.source_layer === layer,
    );
    assert.equal(found.length, 1, `${variant} ${states} ${layer}`);
    return found[0]!;
  };
  for (const [variant, states, layer, truth, least, most] of [
    ['seen', 'none', 2, 1, 0.99, 1],
    ['seen', 'probe', 2, 1, 0.75, 0.99],
    ['logit lens', 'none', 2, 0, 0, 0.25],
    ['seen', 'none', -1, 0.3333, 0, 0.3333],
    ['seen', 'probe', -1, 0.3333, 0, 0.3333],
  ] as const) {
    const row = at(variant, states, layer);
    assert.equal(row.truth, truth, JSON.stringify(row));
    assert.equal(row.samples, 480);
    assert.ok(Number(row.found) >= least && Number(row.found) <= most, JSON.stringify(row));
  }
});

test("controls tell right readings from wrong ones, the model's confidence does not everywhere", () => {
  const { data } = renderReport(db, ['1']).parts.find(({ name }) => name === 'telling-signs')!;
  const rows = rowsOf(data) as unknown as {
    variant: string;
    sign: string;
    area: number;
    right: number;
    wrong: number;
  }[];
  const area = (variant: string, sign: RegExp) =>
    rows.filter((row) => row.variant === variant && sign.test(row.sign)).map((row) => row.area);
  for (const { right, wrong, variant } of rows.filter((row) => /^(seen|patched person)$/.test(row.variant))) {
    assert.ok(right > 300 && wrong > 300, variant);
  }
  const byControls = [/unpatched prompt says/, /that of the unpatched/, /random/, /samples/, /all of these/];
  for (const sign of byControls) {
    const [[seen], [patched]] = [area('seen', sign), area('patched person', sign)];
    assert.ok(seen! > 0.6 && patched! > 0.85, `${sign}: ${seen}, ${patched}`);
  }
  for (const sign of [/most probable token/, /next one/]) {
    const [[seen], [patched]] = [area('seen', sign), area('patched person', sign)];
    // both people's facts are said with the same confidence
    assert.ok(seen! > 0.65 && patched! < 0.75, `${sign}: ${seen}, ${patched}`);
  }
});

test('a probe reads from a state what the Patchscope reads: nothing from the embedding, nearly all behind block 2', async () => {
  const engine = await worldEngine();
  const layers: Layer[] = ['embed', 2];
  const captured = await engine.capture(
    people.map((person) => {
      const tokenIds = tokens(engine, `i saw ${nameOf(person)}`);
      const points = layers.map((layer) => ({ site: siteOf(layer), layer, tokenIndex: tokenIds.length - 1 }));
      return { tokenIds, points };
    }),
  );
  const folds = groupedFolds(people.map(nameOf), 3, 0);
  for (const [at, layer] of layers.entries()) {
    const states = captured.map((result) =>
      result.status === 'ok' ? result.states[at]! : assert.fail(result.error),
    );
    const accuracies = relations.map(
      (relation) => probe({ states, labels: people.map((person) => person[relation]), folds }).accuracy,
    );
    const mean = accuracies.reduce((sum, one) => sum + one) / relations.length;
    assert.ok(layer === 'embed' ? mean <= world.bounds.lastName : mean >= 0.8, `layer ${layer}: ${mean}`);
  }
});

test('bounds are of means at pairs of layers, of the cells that are meant', () => {
  const path = join(folder(), 'made.db');
  const metric = 'answer-found';
  const expected = (keys: object) => ({ about: 'x', metric, control: 'none', ...keys });
  const cases: readonly (readonly [object, Partial<Found> & { readonly holds: number | null }])[] = [
    [
      { least: 0.25, most: 0.75 },
      { holds: 1, lowest: 0.25, highest: 0.75, cells: 16 },
    ],
    [{ least: 0.26 }, { holds: 0 }],
    [{ most: 0.74 }, { holds: 0 }],
    [
      { sourceLayers: ['embed'], most: 0.25 },
      { holds: 1, cells: 8 },
    ],
    [
      { sourceLayers: [0], least: 0.75 },
      { holds: 1, cells: 8 },
    ],
    [
      { sourceLayers: [0], targetLayers: ['embed'], least: 0.75 },
      { holds: 1, cells: 4 },
    ],
    [
      { group: 'a', sourceLayers: [0], least: 1 },
      { holds: 1, cells: 4 },
    ],
    [
      { group: 'b', sourceLayers: [0], least: 0.6 },
      { holds: 0, cells: 4, lowest: 0.5 },
    ],
    [
      { control: 'random', most: 0 },
      { holds: 1, cells: 32 },
    ],
    [
      { control: 'unpatched', least: 0.1 },
      { holds: 1, cells: 4, lowest: 0.125 },
    ],
    [
      { variant: 'none', least: 0 },
      { holds: null, cells: null as never },
    ],
    [{ metric: 'answer-word', least: 0 }, { holds: null }],
    [{ sourceLayers: [7], least: 0 }, { holds: null }],
  ];
  addControlled(
    path,
    {
      ...{ names: ['one', 'two', 'three', 'four'], groups: ['a', 'a', 'b', 'b'] },
      ...{ layers: ['embed', 0], grid: true },
      changes: { experiment: { expected: cases.map(([keys]) => expected(keys)) } },
    },
    ({ sample, control, sourceLayer }) => {
      const right = sourceLayer === 'embed' ? Number(sample === 0) : Number(sample !== 3);
      const value = control === 'none' ? right : control === 'unpatched' ? 0.125 : 0;
      return { scores: { [metric]: value } };
    },
  );
  for (const [i, row] of found(path, 1).entries()) {
    const [keys, wanted] = cases[i]!;
    for (const [name, value] of Object.entries(wanted)) {
      assert.equal(row[name as keyof Found], value, `${JSON.stringify(keys)}: ${name}`);
    }
  }
});

test('a run that expects nothing has no such part', () => {
  const path = join(folder(), 'plain.db');
  addControlled(path, { names: ['one', 'two'], layers: [0], grid: false }, ({ sample }) => ({
    scores: { 'answer-found': sample },
  }));
  assert.deepEqual(found(path, 1), []);
  const { parts } = renderReport(path, ['1']);
  assert.ok(!parts.some(({ name }) => name === 'expectations' || name === 'telling-signs'));
});
