/** Whether readings are to be believed: how texts are compared, and what is made of that. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { overlap, wordsOf } from '../src/statistics/overlap.js';
import { query } from '../src/store/query.js';
import { planFile, storeRun } from './run-cells.js';
import { assertSentence, folder, sharedEngine } from './support.js';

const worldPath = fileURLToPath(new URL('world/world.gguf', import.meta.url));
const world = { name: 'world', isTiny: true, path: () => worldPath, skip: false as const };
const program = fileURLToPath(new URL('../dist/cli.js', import.meta.url));

test('the overlap of two texts is that of the words that say something', () => {
  const of = (a: string, b: string) => overlap(wordsOf(a), wordsOf(b));
  assert.equal(of('a river in Africa', 'A RIVER in africa'), 1);
  assert.equal(of('a river in Africa', 'the composer of an opera'), 0);
  assert.equal(of('river in Africa', 'river'), of('river', 'river in Africa'));
  assert.equal(of('river in Africa', 'river'), 2 / 3);
  assert.equal(of('it is the', 'it is the'), 1);
  assert.equal(of('', ''), 0);
  assert.equal(of('東京', '東'), 2 / 3);
});

const settings = [
  'samples=[{ text: i saw paul quill, position: -1, role: asked }, { text: i saw emma crane, position: -1, role: other }]',
  'target.prompt=the city of x is',
  'target.position=x',
  'target.layers=0',
  'variants=[{ name: plain }, { name: again }]',
  'reading={ top: 1, tokens: 1 }',
];

test('on the known-answers model readings that are right are borne out, and those of random vectors are not', async () => {
  const engine = await sharedEngine(world);
  const db = await storeRun(await planFile('explain', engine, settings), engine);
  const { rows } = query(
    db,
    `SELECT source_layer, variant, control, text, agreement, stability, unlike_controls, relevancy FROM fidelity
    WHERE control IN ('none', 'random') ORDER BY control, source_layer`,
  );
  const of = (control: string, column: number) =>
    rows.filter((row) => row[2] === control).map((row) => Number(row[column]));
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  // both variants ask the same, of the same state
  assert.ok(of('none', 4).every((agreement) => agreement === 1));
  // one answer at all layers, where a random vector gives one or another
  assert.ok(mean(of('none', 5)) > mean(of('random', 5)));
  assert.ok(mean(of('none', 6)) > 0.5);
  assert.ok(of('none', 7).every((relevancy) => relevancy >= 0 && relevancy <= 1));
  assert.ok(mean(of('none', 7)) > 0.1);
});

function explain(...words: string[]) {
  const args = [program, 'explain', '-m', worldPath, '--gpu', 'off', '-t', '1', ...words];
  const {
    status: code,
    stdout,
    stderr,
  } = spawnSync(process.execPath, args, {
    cwd: folder(),
    encoding: 'utf8',
  });
  return { code, stdout, stderr };
}

test('explain prints each layer with its numbers, and says which to believe; the run is stored', () => {
  const db = path.join(folder(), 'explain.db');
  const { code, stdout, stderr } = explain('--source', 'i saw paul quill', '--db', db);
  assert.equal(code, 0, stderr);
  assert.match(stderr, /^source +position 4 of 5: " quill"/m);
  assert.match(stdout, /^layer +reading +agree +stable +unlike +depend +believe/);
  assert.match(stdout, /^Believe /m);
  const { rows } = query(db, 'SELECT count(*) FROM fidelity_by_layer WHERE sample_idx = 0');
  assert.deepEqual(rows, [[6]]);
  assert.equal(stdout.split('\n').filter((line) => /^\d  /.test(line)).length, 6);
});

test('what can not be explained is refused in a sentence, with exit code 2', () => {
  for (const [words, says] of [
    [['--source', ' '], /--source is empty/],
    [['--source', 'i saw paul', '--source-position', '40'], /40/],
    [['--source', 'i saw paul', '--layers', '9'], /[Ll]ayer 9/],
  ] as const) {
    const { code, stdout, stderr } = explain('--no-db', ...words);
    assert.deepEqual([code, stdout], [2, '']);
    const [message] = stderr.trim().split('\n').slice(-1);
    assert.match(message!, says);
    assertSentence(message!);
  }
});
