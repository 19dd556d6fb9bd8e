/** What variants made of factors come to: chosen on one half and tried on the other, ranked, told in words, written out. */
import assert from 'node:assert/strict';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';
import { bestVariant } from '../src/best-variant.js';
import { readExperiment } from '../src/experiment-file/read-experiment.js';
import type { Observation } from '../src/observation.js';
import { makePlan } from '../src/plan/plan.js';
import { recordRun, runHeader } from '../src/record-run.js';
import { type ChoiceRow, guidelines, type Measured } from '../src/report/guidelines.js';
import { renderReport } from '../src/report/report.js';
import { ChunkRunner, run } from '../src/run.js';
import { cellChoice, HalfMeans } from '../src/statistics/cell-choice.js';
import { query } from '../src/store/query.js';
import { openStore } from '../src/store/store.js';
import { addControlled } from './report-records.js';
import { assertBadInput, folder, sharedEngine } from './support.js';

const home = mkdtempSync(join(folder(), 'choices-'));

const made = ([f, g]: readonly [string, string]) => ({
  name: [f === 'a' ? [] : [`f=${f}`], g === 'a' ? [] : [`g=${g}`]].flat().join(', ') || 'base',
  factors: { f, g },
});
const variants = (
  [
    ['a', 'a'],
    ['b', 'a'],
    ['a', 'b'],
    ['b', 'b'],
  ] as const
).map(made);

/** By variant and target layer, sample by sample, from source layer 0; nothing comes of source layer 1. */
const scores: Readonly<Record<string, readonly (readonly number[])[]>> = {
  base: [
    [1, 1, 0, 0],
    [0, 1, 0, 1],
  ],
  'f=b': [
    [0, 0, 0, 0],
    [1, 1, 1, 1],
  ],
  'g=b': [
    [1, 1, 0, 0],
    [0, 1, 0, 1],
  ],
  'f=b, g=b': [
    [0, 0, 0, 0],
    [0, 0, 0, 0],
  ],
  asked: [
    [1, 1, 1, 1],
    [1, 1, 1, 1],
  ],
};

function addMade(path: string, metric: string, changes: object = {}, from = scores): number {
  return addControlled(
    path,
    {
      ...{ names: ['p', 'q', 'r', 's'], variants: Object.keys(from), layers: [0, 1], grid: true },
      changes: {
        name: 'made',
        experimentFile: undefined,
        experiment: { name: 'made', variants: [...variants, { name: 'asked' }], metrics: [metric] },
        ...changes,
      },
    },
    ({ variant, sample, sourceLayer, targetLayer, control }) => ({
      // controls are all right, and count for nothing
      scores: {
        [metric]:
          control === 'none'
            ? from[variant]![targetLayer as number]![sample]! * Number(sourceLayer === 0)
            : 1,
      },
    }),
  );
}

const rowsOf = (path: string, sql: string) => query(path, sql).rows.map((row) => row.map((value) => value));

test('a variant is tried in the cell that is best for the other half, and compared sample by sample', () => {
  const db = join(home, 'hand.db');
  addMade(db, 'right');
  // by hand: the even samples choose layer 0 of the base, the odd ones layer 1, and so on
  assert.deepEqual(
    rowsOf(
      db,
      `SELECT variant, chosen, value, difference, beyond, samples FROM choice WHERE tried_on = 'all' ORDER BY variant`,
    ),
    [
      ['', null, 0.25, 0.125, null, 4],
      ['base', 'base', 0.125, null, null, 4],
      ['f=b', 'f=b', 0.5, 0.375, null, 4],
      ['f=b, g=b', 'f=b, g=b', 0, -0.125, -0.5, 4],
      ['g=b', 'g=b', 0.125, 0, null, 4],
    ],
  );
  assert.deepEqual(
    rowsOf(
      db,
      `SELECT variant, tried_on, chosen, layers, value FROM choice
      WHERE tried_on <> 'all' AND variant IN ('', 'base') ORDER BY variant, tried_on`,
    ),
    [
      ['', 'even', 'base', '[[0,1],[1,0]]', 0],
      ['', 'odd', 'f=b', '[[0,1],[1,0]]', 0.5],
      ['base', 'even', 'base', '[[0,1],[1,0]]', 0],
      ['base', 'odd', 'base', '[[0,0],[1,0]]', 0.25],
    ],
  );
  assert.deepEqual(rowsOf(db, 'SELECT place, variant FROM ranking ORDER BY place, variant'), [
    [1, 'f=b'],
    [2, 'base'],
    [2, 'g=b'],
    [4, 'f=b, g=b'],
  ]);
  assert.deepEqual(
    rowsOf(db, "SELECT factor, level, is_first FROM variant_level WHERE variant = 'f=b' ORDER BY factor"),
    [
      ['f', 'b', 0],
      ['g', 'a', 0],
    ],
  );
  const [whole] = rowsOf(db, "SELECT ci_low, ci_high FROM choice WHERE variant = 'f=b' AND tried_on = 'all'");
  assert.deepEqual(whole, [0.5, 0.5]);
  const [part] = rowsOf(
    db,
    "SELECT difference_low, difference_high FROM choice WHERE variant = 'f=b' AND tried_on = 'all'",
  );
  // three of four samples are better
  assert.ok(Number(part![0]) >= 0.125 && Number(part![0]) < 0.375 && part![1] === 0.5, `${part}`);
});

test('where small values are good, the smallest is the best', () => {
  const db = join(home, 'small.db');
  addMade(db, 'surprisal');
  const flipped = join(home, 'flipped.db');
  addMade(
    flipped,
    'right',
    {},
    Object.fromEntries(
      Object.entries(scores).map(([name, layers]) => [name, layers.map((row) => row.map((one) => -one))]),
    ),
  );
  const sql = 'SELECT variant, tried_on, chosen, layers, abs(value) FROM choice ORDER BY variant, tried_on';
  assert.deepEqual(rowsOf(db, sql), rowsOf(flipped, sql));
  assert.deepEqual(rowsOf(db, 'SELECT variant FROM ranking WHERE place = 1 ORDER BY variant'), [
    ['f=b'],
    ['f=b, g=b'],
  ]);
});

test('variants are compared over the source layers that all of them have', () => {
  const db = join(home, 'shared.db');
  const shape = {
    ...{ names: ['p', 'q', 'r', 's'], variants: Object.keys(scores), layers: [0, 1], grid: true },
    changes: { experiment: { name: 'made', variants, metrics: ['right'] } },
  };
  addControlled(db, shape, ({ variant, sample, sourceLayer, targetLayer }) =>
    variant === 'f=b' && sourceLayer === 1
      ? 'failed'
      : { scores: { right: sourceLayer === 1 ? 1 : scores[variant]![Number(targetLayer)]![sample]! } },
  );
  assert.deepEqual(
    rowsOf(
      db,
      `SELECT variant, value, difference, beyond FROM choice WHERE tried_on = 'all' AND variant <> '' ORDER BY variant`,
    ),
    [
      ['base', 0.25, null, null],
      ['f=b', 1, 0.75, null],
      ['f=b, g=b', 0, -0.25, -1],
      ['g=b', 0.25, 0, null],
    ],
  );
});

test('the best of half is that of cellChoice, and a cell of few samples is not chosen for its luck', () => {
  const right = Array.from({ length: 9 }, (_, i) =>
    [0, 1, 2, 3].map((cell) => Number((i * 7 + cell * 5) % 3 === 0)),
  );
  const means = new HalfMeans<number>();
  right.forEach((row, i) => {
    for (const [cell, value] of row.entries()) means.add(i, cell, value);
  });
  assert.deepEqual([means.best(0)!.cell, means.best(1)!.cell], cellChoice(right).chosen);
  means.add(0, 9, 100);
  means.add(2, 9, 100);
  assert.notEqual(means.best(0)!.cell, 9);
  means.add(4, 9, 100);
  assert.deepEqual(means.best(0), { cell: 9, count: 3, mean: 100 });
  assert.notEqual(means.best(0, true)!.cell, 9);
  assert.equal(new HalfMeans().best(0), undefined);
});

test('a run without factors has nothing of this', () => {
  const db = join(home, 'none.db');
  addMade(db, 'right', { experiment: { name: 'made', variants: [{ name: 'base' }], metrics: ['right'] } });
  assert.deepEqual(rowsOf(db, 'SELECT * FROM choice'), []);
  assert.ok(renderReport(db, ['1']).parts.every(({ name }) => !/^(guidelines|ranking|effects)/.test(name)));
});

test('a report shows guidelines, ranks and effects of each run by itself', () => {
  const db = join(home, 'hand.db');
  addMade(db, 'surprisal', { name: 'other' });
  const { html, parts } = renderReport(db, ['1', '2']);
  const names = parts.map(({ name }) => name).filter((name) => /^(guidelines|ranking|effects)/.test(name));
  assert.deepEqual(names, [
    ...['ranking-1-right', 'effects-1-right', 'guidelines-1'],
    ...['ranking-2-surprisal', 'effects-2-surprisal', 'guidelines-2'],
  ]);
  assert.match(
    html,
    /The simplest configuration \(f: a, g: a\) comes to 0\.125 \(0 to 0\.375\) of right over 4 samples and all source layers/,
  );
  assert.match(
    html,
    /Effect of the f: compared with &#39;a&#39; &#39;b&#39; is better by 0\.375 \(0\.125 to 0\.5\)\./,
  );
  assert.match(
    html,
    /No effect of the g is told apart: &#39;b&#39; differs by 0 \(0 to 0\) from &#39;a&#39;\./,
  );
  assert.match(html, /f=b, g=b is worse than the sum by 0\.5 \(0\.5 to 0\.5\)/);
  const { data } = parts.find(({ name }) => name === 'ranking-1-right')!;
  assert.deepEqual(
    data.rows.map(([variant]) => variant),
    ['f=b', 'base', 'g=b', 'f=b, g=b'],
  );
  assert.ok(query(db, data.sql).rows.length > 0);
});

const row = (
  variant: string,
  of: readonly [number, number, number],
  more: Partial<ChoiceRow> = {},
): ChoiceRow => ({
  ...{ variant, tried_on: 'all', chosen: variant, layers: null, samples: 40 },
  ...{ value: 0.5, ci_low: 0.4, ci_high: 0.6 },
  ...{ difference: of[0], difference_low: of[1], difference_high: of[2] },
  ...{ beyond: null, beyond_low: null, beyond_high: null },
  ...more,
});
const level = (variant: string, f: string, g: string) => [
  { variant, factor: 'f', level: f, is_first: Number(variant === 'base') },
  { variant, factor: 'g', level: g, is_first: Number(variant === 'base') },
];
const measured = (isSmallerBetter: boolean, best: readonly [number, number, number]): Measured => ({
  ...{ metric: 'm', isSmallerBetter },
  rows: [
    row('base', [0, 0, 0], { difference: null, difference_low: null, difference_high: null }),
    row('f=b', [0.1, 0.05, 0.2]),
    row('f=c', [-0.3, -0.4, -0.2]),
    row('g=b', [0.02, -0.01, 0.05]),
    row('f=b, g=b', [0.1, 0, 0.2], { beyond: 0.01, beyond_low: -0.1, beyond_high: 0.1 }),
    row('', best, { chosen: null }),
    row('', best, { chosen: 'f=b', tried_on: 'odd' }),
  ],
  levels: [
    ...level('base', 'a', 'a'),
    ...level('f=b', 'b', 'a'),
    ...level('f=c', 'c', 'a'),
    ...level('g=b', 'a', 'b'),
    ...level('f=b, g=b', 'b', 'b'),
  ],
});

test('guidelines are what the numbers say, in either direction', () => {
  const told = (isSmallerBetter: boolean, best: readonly [number, number, number]) =>
    guidelines(measured(isSmallerBetter, best)).join('\n');
  const larger = told(false, [0.1, 0.02, 0.2]);
  assert.match(
    larger,
    /Effect of the f: compared with 'a' 'c' is worse by 0\.3 \(0\.2 to 0\.4\), 'b' is better by 0\.1 \(0\.05 to 0\.2\)\./,
  );
  assert.match(
    larger,
    /No effect of the g is told apart: 'b' differs by 0\.02 \(-0\.01 to 0\.05\) from 'a'\./,
  );
  assert.match(larger, /The one pair of changes does not differ from the sum of both/);
  assert.match(larger, /The best of 5 configurations.*\(f=b by the samples at even places\)/);
  assert.match(
    larger,
    /better by 0\.1 \(0\.02 to 0\.2\) than the simplest: the simplest configuration is not as good/,
  );
  assert.match(told(true, [0.1, 0.02, 0.2]), /worse by 0\.1 .* take the simplest\.$/);
  assert.match(told(true, [0.1, 0.02, 0.2]), /'c' is better by 0\.3 \(0\.2 to 0\.4\), 'b' is worse by 0\.1/);
  assert.match(
    told(false, [0.1, -0.02, 0.2]),
    /within the interval the simplest configuration is as good as/,
  );
  assert.match(told(false, [0, 0, 0]), /as the simplest one does: take the simplest/);
  assert.doesNotMatch(larger, /These are/);
});

const world = fileURLToPath(new URL('world/world.gguf', import.meta.url));

/** On people whose facts are known, questions that ask for them and one that asks for something else. */
function worldFile(): string {
  const path = join(home, 'world.yaml');
  writeFileSync(
    path,
    `name: world-prompts
samples: { data: world, from: 3 }
sample: "{relation} of {person}"
answer: "{answer}"
source: { prompt: "i saw {person}", position: -1, layers: [0, 2] }
target: { prompt: "the pet of x is", position: x, layers: [embed, 5] }
factors:
  prompt:
    a pet: {}
    what is asked: { target: { prompt: "the {relation} of x is" } }
    beside the name: { target: { prompt: "the {relation} of x is", position: -1 } }
  layers:
    two: {}
    late: { target: { layers: 5 } }
reading: { top: 2, tokens: 1 }
metrics: [answer-first-token, answer-rank]
controls: { unpatched: true }
`,
  );
  return path;
}

test('on the known-answers model the best prompt asks for what is known; written out, it reads the same', async () => {
  const engine = await sharedEngine({ name: 'world', isTiny: true, path: () => world, skip: false });
  const db = join(home, 'world.db');
  const recorded = async (path: string, options: Parameters<typeof readExperiment>[1] = {}) => {
    const { experiment, text, file } = readExperiment(path, options);
    const plan = makePlan(experiment, engine.tokenizer, engine.record);
    const header = runHeader(plan, {
      command: 'patchscopes run',
      experimentSource: text,
      experimentFile: file,
    });
    const all: Observation[] = [];
    const chunks = recordRun(run(plan, new ChunkRunner(plan, engine)), header, engine, () => openStore(db));
    for await (const { observations } of chunks) all.push(...observations);
    return all;
  };
  const set = ['samples.from=5', 'source.layers=[0, 3]'];
  const all = await recorded(worldFile(), { set, limit: 16 });
  const text = bestVariant(db, {});
  assert.match(text, /^# The best variant of run 1 \(world-prompts\) on .*: prompt=what is asked\.$/m);
  assert.match(
    text,
    /answer-first-token is 1 in the mean over these layers \(95 %: 1 to 1\), which differs from the first variant's by /,
  );
  const [difference] = rowsOf(
    db,
    "SELECT difference, value FROM choice WHERE run_id = 1 AND name = 'answer-first-token' AND variant = 'prompt=what is asked' AND tried_on = 'all'",
  );
  assert.ok(Number(difference![1]) === 1 && Number(difference![0]) > 0.3, `${difference}`);
  const written = join(home, 'best.yaml');
  writeFileSync(written, text);
  const { variants, factors, ...rest } = parse(text);
  assert.deepEqual([variants, factors], [undefined, undefined]);
  assert.deepEqual(rest.samples, { data: 'world', from: 5, limit: 16 });
  const again = await recorded(written);
  const was = all.filter(({ variant }) => variant === 'prompt=what is asked');
  const key = ({ sample, sourceLayer, targetLayer, control }: Observation) =>
    `${sample} ${sourceLayer} ${targetLayer} ${control}`;
  const expected = new Map(was.map((one) => [key(one), one]));
  assert.equal(again.length, 16 * (2 * 2 + 1));
  assert.equal(expected.size, again.length);
  for (const one of again) {
    const { text: said, tokenIds, scores, steps } = expected.get(key(one))!;
    assert.deepEqual([one.text, one.tokenIds, one.scores], [said, tokenIds, scores]);
    assert.ok(Math.abs(one.steps[0]![0]!.logprob - steps[0]![0]!.logprob) < 0.01);
  }
  assertBadInput(
    () => bestVariant(db, { run: '1', metric: 'rouge-l' }),
    /no metric rouge-l, but answer-first/,
  );
  assertBadInput(
    () => bestVariant(db, { run: '2' }),
    /Run 2 has no best variant: its experiment has no factors/,
  );
  assertBadInput(() => bestVariant(join(home, 'hand.db'), { run: '1' }), /was read from no file/);
  assert.match(bestVariant(db, { run: '1', metric: 'answer-rank' }), /answer-rank is /);
});

test('a file of one variant keeps what it inherits, with whole paths and samples as they are written', () => {
  writeFileSync(join(home, 'people.csv'), 'who,what\nann,red\nbob,blue\ncy,red\n');
  const path = join(home, 'inherits.yaml');
  writeFileSync(
    path,
    `name: inherits
model: ./here.gguf
samples: { file: people.csv }
source: { prompt: { text: "the {who}", special: true }, position: "{who}", layers: 1, site: mlp_out }
target: { prompt: { text: "a {what}", bos: false }, position: -1, layers: same, cut: [{ from: -1, to: 0 }] }
edit: { op: add, alpha: 2 }
factors:
  how:
    first: {}
    second: { target: { prompt: "b {what}" }, edit: { alpha: 3 }, reading: { tokens: 2 } }
    third: { source: { prompt: { tokens: [1, 2] }, position: 0 }, target: { layers: 0 }, mapping: identity }
known: first
reading: { top: 3, tokens: 9, stop: newline }
`,
  );
  const { file, experiment } = readExperiment(path, { limit: 2, withoutMappings: true });
  const db = join(home, 'inherits.db');
  for (const name of ['how=second', 'how=third']) {
    const runId = addMade(
      db,
      'right',
      {
        experimentFile: file,
        experiment: { name: 'x', metrics: ['right'], variants: [{ name, factors: { how: 'second' } }] },
      },
      { [name]: scores['f=b']! },
    );
    const written = join(home, 'one.yaml');
    writeFileSync(written, bestVariant(db, { run: `${runId}` }));
    const one = readExperiment(written);
    assert.equal(one.models!.source, join(home, 'here.gguf'));
    assert.equal(one.experiment.samples.length, 2);
    const variant = experiment.variants!.find((other) => other.name === name)!;
    for (const [i, { source, target }] of one.experiment.samples.entries()) {
      const sample = experiment.samples[i]!;
      const own = sample.variants![name]!;
      assert.deepEqual([source, target], [own.source ?? sample.source, own.target ?? sample.target]);
    }
    assert.equal(one.experiment.targetLayers, variant.targetLayers ?? experiment.targetLayers);
    assert.equal(one.experiment.sourceSite, 'mlp_out');
    assert.deepEqual(one.experiment.patch, variant.patch ?? experiment.patch);
    assert.deepEqual(one.experiment.reading, { ...experiment.reading, maxTokens: variant.maxTokens ?? 9 });
  }
  const listed = join(home, 'listed.yaml');
  writeFileSync(
    listed,
    'name: l\nsamples: [{ year: 1.50, who: "7", is: [yes, 08] }, { year: 2, who: x, is: [a] }]\nanswer: "{is}"\nsource: { prompt: "{year} {who}" }\ntarget: { prompt: x }\n',
  );
  const first = readExperiment(listed, { limit: 1 });
  writeFileSync(join(home, 'again.json'), JSON.stringify(first.file));
  const again = readExperiment(join(home, 'again.json'));
  assert.deepEqual(again.experiment, first.experiment);
  assert.deepEqual(again.file, first.file);
});
