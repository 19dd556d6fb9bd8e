/** Numbers that say whether to believe a reading: against a way of their own to tell them, and against known answers. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { readExperiment } from '../src/experiment-file/read-experiment.js';
import { makePlan } from '../src/plan/plan.js';
import { renderReport } from '../src/report/report.js';
import { areaUnderCurve } from '../src/statistics/auc.js';
import { overlap, wordsOf } from '../src/statistics/overlap.js';
import { query } from '../src/store/query.js';
import { openStore } from '../src/store/store.js';
import { addControlled } from './report-records.js';
import { planText, storeRun } from './run-cells.js';
import { assertBadInput, assertSentence, folder, sharedEngine, tinyPath } from './support.js';

const worldPath = fileURLToPath(new URL('world/world.gguf', import.meta.url));
const worldEngine = () => sharedEngine({ name: 'world', isTiny: true, path: () => worldPath, skip: false });

type Row = Record<string, number | string | null>;

function rowsOf(path: string, sql: string): Row[] {
  const { columns, rows } = query(path, sql);
  return rows.map((row) => Object.fromEntries(columns.map((name, i) => [name, row[i]])) as Row);
}

const alike = (a: string, b: string) => overlap(wordsOf(a), wordsOf(b));

test('texts overlap by their words, once each, whatever their order, case and signs', () => {
  assert.equal(alike(': A British monarch', 'british MONARCH!'), 1);
  assert.equal(alike('queen of the north', 'the north of England'), 0.5);
  assert.equal(alike('the king of it', 'of the with'), 0);
  assert.equal(alike('of the', 'the of'), 1);
  assert.equal(alike('Река Нил', 'нил'), 2 / 3);
  assert.equal(alike('东京', '京都'), 0.5);
  assert.equal(alike('->', ' -> '), 1);
  assert.equal(alike('', ''), 0);
  assert.equal(alike('king', ' \n'), 0);
});

const metrics = ['agreement', 'stability', 'unlike-controls'];
const changes = { experiment: { name: 'made', metrics } };

test('the scores of each cell are what a direct look at all cells says', () => {
  const path = join(mkdtempSync(join(folder(), 'fidelity-')), 'r.db');
  const texts = ['red fox', 'red dog', 'blue dog barks', '', 'fox'];
  let k = 0;
  const shape = {
    names: ['a', 'b'],
    variants: ['u', 'v', 'w'],
    layers: ['embed', 0, 3] as const,
    grid: true,
  };
  addControlled(path, { ...shape, changes }, () =>
    k++ % 13 === 12 ? 'failed' : { text: texts[((k * k + 3 * k) % 7) % texts.length]! },
  );
  const cells = rowsOf(path, "SELECT * FROM observation WHERE status = 'ok'");
  const scores = new Map(
    rowsOf(path, `SELECT * FROM score WHERE name IN ('agreement', 'stability', 'unlike-controls')`).map(
      (row) => [`${row.observation_id} ${row.name}`, row.value],
    ),
  );
  const mean = (of: number[]) => of.reduce((sum, one) => sum + one, 0) / of.length;
  const order = [-1, 0, 3];
  let compared = 0;
  for (const cell of cells) {
    const among = (columns: readonly string[], also: (other: Row) => boolean) =>
      cells
        .filter((other) => columns.every((column) => other[column] === cell[column]) && also(other))
        .map((other) => alike(`${cell.text}`, `${other.text}`));
    const step = (layer: unknown) => order.indexOf(layer as number);
    const expected = {
      agreement: among(
        ['sample_idx', 'control', 'draw', 'source_layer', 'target_layer'],
        ({ variant }) => variant !== cell.variant,
      ),
      'unlike-controls':
        cell.control === 'none'
          ? [
              ...among(['sample_idx', 'variant', 'source_layer', 'target_layer'], ({ control }) =>
                ['random', 'shuffled'].includes(`${control}`),
              ),
              ...among(['sample_idx', 'variant'], ({ control }) => control === 'unpatched'),
            ]
          : [],
    };
    // a cell that failed is stepped over
    const line = cells
      .filter(
        (other) =>
          cell.control !== 'unpatched' &&
          ['sample_idx', 'variant', 'control', 'draw', 'target_layer'].every(
            (column) => other[column] === cell[column],
          ),
      )
      .sort((a, b) => step(a.source_layer) - step(b.source_layer));
    const at = line.indexOf(cell);
    const beside = at < 0 ? [] : [line[at - 1], line[at + 1]].filter((other) => other !== undefined);
    const said = {
      agreement: mean(expected.agreement),
      stability: mean(beside.map(({ text }) => alike(`${cell.text}`, `${text}`))),
      'unlike-controls': 1 - Math.max(...expected['unlike-controls']),
    };
    for (const [name, value] of Object.entries(said)) {
      const found = scores.get(`${cell.id} ${name}`);
      if (!Number.isFinite(value)) assert.equal(found, undefined);
      else {
        assert.ok(
          Math.abs((found as number) - (cell.text === '' ? 0 : value)) < 1e-12,
          `${name} of ${cell.id}`,
        );
        compared++;
      }
    }
  }
  assert.equal(compared, scores.size);
  assert.ok(compared > 100);
});

/** At layer 1 all say the same, and no control does; elsewhere they differ, or a control says it too. */
const said: Readonly<Record<string, string>> = { 0: 'king', 1: 'queen', 2: 'queen', 3: 'said by all' };

function believed(path: string) {
  return rowsOf(path, 'SELECT source_layer, believable FROM fidelity_by_layer ORDER BY 1').map(
    ({ believable }) => believable,
  );
}

function addSaid(path: string, settings = changes): number {
  let k = 0;
  return addControlled(
    path,
    { names: ['a'], variants: ['u', 'v'], layers: [0, 1, 2, 3], grid: false, changes: settings },
    ({ variant, control, sourceLayer }) => {
      if (control === 'unpatched') return { text: 'said by all' };
      if (control !== 'none') return { text: sourceLayer === 3 ? 'said by all' : `word${k++}` };
      return { text: sourceLayer === 0 && variant === 'v' ? 'nobody' : said[`${sourceLayer}`]! };
    },
  );
}

test('a layer is believed where prompts agree and layers beside it too, beyond random vectors and controls', () => {
  const path = join(mkdtempSync(join(folder(), 'fidelity-')), 'r.db');
  let k = 0;
  addControlled(
    path,
    { names: ['a'], variants: ['u', 'v'], layers: [0, 1, 2, 3], grid: false, changes },
    ({ variant, control, sourceLayer }) => {
      if (control === 'unpatched') return { text: 'as all' };
      if (control === 'shuffled' && sourceLayer === 2) return { text: 'queen' };
      if (control !== 'none') return { text: `word${k++}` };
      return { text: sourceLayer === 0 && variant === 'v' ? 'nobody' : said[`${sourceLayer}`]! };
    },
  );
  // 0: the prompts differ; 2: another state says it too; 3: nothing beside it says the same
  assert.deepEqual(believed(path), [0, 1, 0, 0]);
  const [row] = rowsOf(path, 'SELECT * FROM fidelity_by_layer WHERE source_layer = 1');
  assert.deepEqual(
    [row!.text, row!.agreement, row!.chance_agreement, row!.stability, row!.unlike_controls],
    ['queen', 1, 0, 0.5, 1],
  );
  const { parts } = renderReport(path, [undefined]);
  const part = parts.find(({ name }) => name === 'believable')!;
  const at = part.data.columns.indexOf('believable');
  assert.deepEqual(
    part.data.rows.map((values) => values[at]),
    ['no', 'yes', 'no', 'no'],
  );
});

test('numbers that were not asked for are not made, and a run that goes on loses those it had', () => {
  const path = join(mkdtempSync(join(folder(), 'fidelity-')), 'r.db');
  addSaid(path, { experiment: { name: 'made', metrics: ['stability'] } });
  const names = () =>
    rowsOf(path, 'SELECT name, count(*) AS n FROM score GROUP BY 1').map(({ name }) => name);
  assert.deepEqual(names(), ['answer-found', 'answer-rank', 'stability']);
  assert.ok(believed(path).every((believable) => believable !== 1));
  const before = rowsOf(path, 'SELECT * FROM score');
  const store = openStore(path);
  store.resumeRun(1);
  assert.deepEqual(names(), ['answer-found', 'answer-rank']);
  for (let times = 0; times < 2; times++) store.aggregate(1);
  store.close();
  assert.deepEqual(rowsOf(path, 'SELECT * FROM score'), before);
});

/** People whom the known-answers model saw, and three ways to ask it where they live. */
const places = {
  name: 'places',
  samples: [
    { person: 'paul quill', city: 'bergen' },
    { person: 'vera upton', city: 'kyoto' },
    { person: 'emma crane', city: 'geneva' },
    { person: 'ulrich pike', city: 'lisbon' },
  ],
  answer: '{city}',
  source: { prompt: 'i saw {person}', position: -1, layers: 'all' },
  target: { prompt: 'the city of x is', position: 'x', layers: 'same' },
  variants: [
    { name: 'is' },
    { name: 'we know', target: { prompt: 'we know that the city of x is' } },
    { name: 'has', target: { prompt: 'x has city' } },
  ],
  metrics: ['answer-word', 'agreement', 'stability', 'unlike-controls', 'relevancy'],
  controls: { random: 2, shuffled: 1, unpatched: true },
};
let db: string;

before(async () => {
  const engine = await worldEngine();
  db = await storeRun(await planText(places, engine), engine);
});

test('where the truth is known, right readings have better numbers than wrong ones and than random vectors', () => {
  const cells = rowsOf(
    db,
    `SELECT control, agreement, stability, unlike_controls, relevancy, value AS right
    FROM fidelity JOIN score USING (observation_id) WHERE score.name = 'answer-word'`,
  );
  const right = cells.filter((cell) => cell.control === 'none' && cell.right === 1);
  const wrong = cells.filter((cell) => cell.control === 'none' && cell.right === 0);
  const random = cells.filter((cell) => cell.control === 'random' && cell.right === 0);
  assert.ok(right.length >= 30 && wrong.length >= 20 && random.length >= 30);
  const of = (list: readonly Row[], name: string) => list.map((cell) => cell[name] as number);
  for (const [name, others, least] of [
    ['agreement', random, 0.8],
    ['stability', random, 0.55],
    ['relevancy', random, 0.7],
    ['agreement', wrong, 0.7],
    ['unlike_controls', wrong, 0.5],
  ] as const) {
    const area = areaUnderCurve(of(right, name), of(others, name));
    assert.ok(area >= least, `${name}: ${area}`);
  }
});

test('layers that are believed say what is so', () => {
  const layers = rowsOf(
    db,
    `SELECT believable, text, answer ->> 0 AS answer FROM fidelity_by_layer
    JOIN sample ON sample.run_id = fidelity_by_layer.run_id AND idx = sample_idx`,
  );
  const believed = layers.filter(({ believable }) => believable === 1);
  assert.ok(believed.length >= 6, `${believed.length} of ${layers.length}`);
  const right = believed.filter(({ text, answer }) => `${text}`.trim() === answer);
  assert.ok(right.length / believed.length >= 0.9, `${right.length} of ${believed.length}`);
});

test('what there is nothing to compare with for is refused', async () => {
  const { tokenizer, record } = await worldEngine();
  const plan = (set: readonly string[]) =>
    makePlan(readExperiment('explain', { set }).experiment, tokenizer, record);
  assertBadInput(() => plan(['variants=null']), /agreement.*add variants/);
  assertBadInput(() => plan(['controls=null']), /unlike-controls.*controls/);
  assert.ok(plan([]).cellCount > 0);
});

const command = fileURLToPath(new URL('../dist/cli.js', import.meta.url));

function explain(...args: string[]) {
  const cwd = mkdtempSync(join(folder(), 'explain-'));
  const words = [command, 'explain', '-t', '1', ...args];
  const { status, stdout, stderr } = spawnSync(process.execPath, words, {
    ...{ cwd, encoding: 'utf8', timeout: 60_000, killSignal: 'SIGKILL' },
  });
  return { code: status, stdout, stderr, kept: join(cwd, 'results/patchscopes.db') };
}

test('explain prints each layer with its numbers and a verdict, keeps the run, and echoes what was read', () => {
  const { code, stdout, stderr, kept } = explain('-m', worldPath, '--source', 'i saw paul quill');
  assert.equal(code, 0, stderr);
  assert.match(stderr, /^source {2}position 4 of 5: " quill" of "i saw paul quill"$/m);
  assert.match(stdout, /^layer +reading +agree +stable +unlike +depend +believe$/m);
  assert.deepEqual(
    [...stdout.matchAll(/^(\d+) .* \d\.\d\d/gm)].map(([, layer]) => layer),
    ['0', '1', '2', '3', '4', '5'],
  );
  // its inspection prompts are English, of which this model knows not a word
  assert.match(stdout, /^Believe none of these readings\. Layer \d comes nearest: .+\.$/m);
  assert.deepEqual(
    rowsOf(kept, "SELECT name, status, json_array_length(experiment_file, '$.samples') AS samples FROM run"),
    [{ name: 'explain', status: 'done', samples: 2 }],
  );
});

test('explain --json prints an object a layer, which holds what each prompt said; --no-db keeps nothing', () => {
  const { code, stdout, stderr, kept } = explain(
    ...['-m', tinyPath('llama'), '--source', 'the {cat} "and" the dog', '--source-position', 'cat'],
    ...['--layers', 'embed,0,-1', '--json', '--no-db'],
  );
  assert.equal(code, 0, stderr);
  const lines = stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  assert.deepEqual(
    lines.slice(0, 2).map(({ source_layer }) => source_layer),
    ['embed', 0],
  );
  assert.equal(lines.length, 3);
  for (const { readings, agreement, believable } of lines) {
    assert.deepEqual(readings.map(({ variant }: Row) => variant).sort(), [
      'description',
      'glossary',
      'meaning',
      'sentence',
    ]);
    assert.ok(agreement >= 0 && agreement <= 1);
    assert.equal(typeof believable, 'boolean');
  }
  assert.equal(existsSync(kept), false);
});

test('explain refuses what it can not read, in one sentence', () => {
  for (const [args, says] of [
    [['-m', worldPath, '--source', ' '], /--source is empty/],
    [['-m', worldPath], /--source must be given/],
    [['-m', worldPath, '--source', 'i saw', '--source-position', '9'], /Position 9 is outside/],
    [['-m', worldPath, '--source', 'i saw', '--source-position', 'paul'], /does not occur/],
    [['-m', worldPath, '--source', 'i saw', '--layers', '77'], /Layer 77/],
    [['-m', worldPath, '--source', 'i saw', '--layers', 'many'], /layer/i],
    [['-m', './nothing.gguf', '--source', 'i saw'], /no file/],
  ] as const) {
    const { code, stdout, stderr, kept } = explain(...args);
    assert.equal(code, 2, stderr);
    assert.equal(stdout, '');
    const complaint = /^patchscopes: .*$/m.exec(stderr)?.[0];
    assert.ok(complaint, stderr);
    assertSentence(complaint);
    assert.match(complaint, says);
    assert.equal(existsSync(kept), false);
  }
});
