/** Runs that go through positions and draws: what is stored, shown and merged, on a tiny model and the known-answers one. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { readExperiment } from '../src/experiment-file/read-experiment.js';
import { makePlan } from '../src/plan/plan.js';
import { ChunkRunner, run } from '../src/run.js';
import { query } from '../src/store/query.js';
import { dumpResults } from './results-dump.js';
import { assertBadInput, folder, open, tinyPath } from './support.js';

const command = fileURLToPath(new URL('../dist/cli.js', import.meta.url));
const place = mkdtempSync(join(folder(), 'positions-'));
const whole = join(place, 'whole.db');
const file = join(place, 'swept.yaml');
writeFileSync(
  file,
  `name: swept
samples:
  - { source: the cat and the dog, target: the men and the town, answer: [of, sea] }
  - { source: the town and the men, target: the dog and the cat, answer: [of, sea] }
  - { source: the sea and the dog, target: the cat and the men, answer: [of, sea] }
answer: "{answer}"
source: { prompt: "{source}", position: { each: [0, 1..3] }, layers: all }
target: { prompt: "{target}", position: same, layers: same, window: 2 }
variants:
  - { name: swept, draws: 2 }
  - { name: several, source: { position: [1, -1] }, target: { position: [-1, 2], window: onward } }
reading: { top: 3, tokens: 2 }
metrics: [answer-logprob]
controls: { random: 12, shuffled: 1, unpatched: true }
`,
);

function cli(...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, [command, ...args], {
    cwd: place,
    encoding: 'utf8',
    timeout: 60_000,
  });
  assert.equal(status, 0, stderr);
  return stdout;
}

const swept = (...args: string[]) => cli('run', file, '-m', tinyPath('llama'), '-t', '1', ...args);
const ask = (sql: string) => query(whole, sql).rows;

before(() => {
  swept('--db', whole);
});

test('each position is a reading of its own, under its index and its token', () => {
  const found = ask(
    `SELECT sample, source_position, source_token, target_position, target_token, count(*) FROM reading
    WHERE variant = 'swept' AND control = 'none' GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2`,
  );
  assert.equal(found.length, 3 * 4);
  const [[layers] = []] = ask(`SELECT count(DISTINCT source_layer) FROM reading`);
  for (const [sample, source, , target, , cells] of found) {
    assert.equal(source, target, `${sample}`);
    assert.equal(cells, 2 * (layers as number), 'layers x draws');
  }
  assert.ok(new Set(found.map(([, , token]) => token)).size >= 3);
  const several = ask(
    `SELECT idx, source_position, target_position FROM move WHERE variant = 'several' AND sample_idx = 0`,
  );
  const tokens = ask(`SELECT token_ids FROM prompt ORDER BY idx LIMIT 2`).map(
    ([ids]) => JSON.parse(`${ids}`).length,
  );
  assert.deepEqual(several, [
    [0, 1, tokens[1]! - 1],
    [1, tokens[0]! - 1, 2],
  ]);
});

test('draws are cells of their own, of controls too, and no other variant has them', () => {
  const draws = ask(
    `SELECT variant, control, count(DISTINCT draw), max(draw) + 1 FROM observation GROUP BY 1, 2 ORDER BY 1, 2`,
  ).map(([variant, control, count, most]) => {
    assert.equal(count, most, 'none is left out');
    return [variant, control, count];
  });
  assert.deepEqual(draws, [
    ['several', 'none', 1],
    ['several', 'random', 12],
    ['several', 'shuffled', 1],
    ['several', 'unpatched', 1],
    ['swept', 'none', 2],
    ['swept', 'random', 24],
    ['swept', 'shuffled', 2],
    ['swept', 'unpatched', 2],
  ]);
  const [[alone] = []] = ask(`SELECT count(*) FROM observation WHERE control = 'unpatched'`);
  assert.equal(alone, 3 * (2 + 1));
});

test('means by position are those of the cells, and all positions together are the metric', () => {
  const [[cells, difference] = []] = ask(
    `SELECT sum(position_grid.n), abs(sum(position_grid.value * position_grid.n) / sum(position_grid.n) - max(layer_grid.value))
    FROM position_grid JOIN layer_grid USING (run_id, name, control, variant, source_layer, target_layer)
    WHERE control = 'none' AND variant = 'swept' AND source_layer = 1`,
  );
  assert.equal(cells, 3 * 4 * 2);
  assert.ok((difference as number) < 1e-9, `${difference}`);
  assert.deepEqual(ask(`SELECT count(*) FROM position_grid WHERE variant = 'several'`), [[0]]);
});

test('window, positions and draws are in the settings that are kept', () => {
  const [[kept] = []] = ask('SELECT experiment FROM run');
  const { variants, window } = JSON.parse(`${kept}`);
  assert.equal(window, 2);
  assert.deepEqual(
    variants.map(({ name, draws, window: own }: Record<string, unknown>) => [name, draws, own]),
    [
      ['swept', 2, undefined],
      ['several', undefined, 'onward'],
    ],
  );
});

test('signs of failure are told draw by draw, and against controls of the same position', () => {
  const [[cells, told] = []] = ask(
    `SELECT count(*), count(contaminated) FROM signature WHERE control <> 'unpatched'`,
  );
  assert.equal(told, cells, 'each finds the unpatched cell of its draw, once');
  const [[signs, observations] = []] = ask(
    'SELECT (SELECT count(*) FROM signature), (SELECT count(*) FROM observation)',
  );
  assert.equal(signs, observations);
});

test('shards of it merge into the same', () => {
  const parts = [1, 2].map((k) => {
    const db = join(place, `${k}.db`);
    swept('--shard', `${k}/2`, '--db', db);
    return db;
  });
  cli('merge', ...parts, '-o', join(place, 'all.db'));
  assert.deepEqual(dumpResults(join(place, 'all.db')), dumpResults(whole));
});

test('the picture and the page have a row for each position', () => {
  const shown = cli('show', '--db', whole, '--value', 'answer-logprob', '--variant', 'swept');
  assert.match(shown, /source position {2}0 1/);
  assert.match(shown, /^ +1 "/m);
  const page = join(place, 'page.html');
  cli('report', '1', '--db', whole, '-o', page);
  const html = readFileSync(page, 'utf8');
  assert.match(html, /answer-logprob by source position and source layer: swept/);
  assert.doesNotMatch(html, /by source position and source layer: several/);
  assert.match(html, /source position 1 [^,]+, source layer 0: /);
});

test('in the known-answers world an answer moves from the name to the last word, and back', async () => {
  const { experiment } = readExperiment('interchange', { limit: 2 });
  const engine = await open(fileURLToPath(new URL('world/world.gguf', import.meta.url)), { threads: 1 });
  const plan = makePlan(experiment, engine.tokenizer, engine.record);
  const right = new Map<string, number[]>();
  for await (const { observations } of run(plan, new ChunkRunner(plan, engine))) {
    for (const { variant, move = 0, control, sourceLayer, scores } of observations) {
      const key = `${variant} ${control} ${move} ${sourceLayer}`;
      right.set(key, [...(right.get(key) ?? []), scores['answer-first-token']!]);
    }
  }
  const all = (key: string, value: number) => assert.deepEqual(right.get(key), [value, value], key);
  const [name, last] = [5, 6]; // <s> the city of FIRST LAST is
  for (const [variant, patched] of [
    ['denoise', 1],
    ['noise', 0],
  ] as const) {
    all(`${variant} residual unpatched 0 null`, 1 - patched);
    all(`${variant} residual none ${name} 0`, patched);
    all(`${variant} residual none ${name} 5`, 1 - patched);
    all(`${variant} residual none ${last} 0`, 1 - patched);
    all(`${variant} residual none ${last} 5`, patched);
    for (let layer = 0; layer < 6; layer++) all(`${variant} residual none 1 ${layer}`, 1 - patched);
  }
});

test('bad keys of positions, windows and draws are one sentence each', () => {
  const bad = (set: string, says: RegExp) => assertBadInput(() => readExperiment(file, { set: [set] }), says);
  bad('target.window=0', /target\.window is 0 where a whole number of at least 1, or onward is needed/);
  bad('target.window=all', /target\.window is 'all' where a whole number of at least 1, or onward/);
  bad('draws=0', /draws is 0 where a whole number from 1 to 1000/);
  bad('source.position=[]', /source\.position is an empty list where a whole number, a text/);
  bad('source.position={each: []}', /source\.position/);
  bad('target.position={each: all}', /target\.position/);
  bad('source.position=[{random: true}]', /source\.position/);
});
