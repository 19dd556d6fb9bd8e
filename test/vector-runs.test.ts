/** Whole runs with vectors and own edits: in shards, gone on with, with two models in turn, shown and reported. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { readExperiment } from '../src/experiment-file/read-experiment.js';
import { chunkCount, makePlan } from '../src/plan/plan.js';
import { ChunkRunner } from '../src/run.js';
import { query } from '../src/store/query.js';
import { openVectors } from '../src/vectors/open-vectors.js';
import { folder, open, tinyPath } from './support.js';
import { npyFile } from './vector-files.js';

const command = fileURLToPath(new URL('../dist/cli.js', import.meta.url));
const home = mkdtempSync(join(folder(), 'vectors-'));
const file = join(home, 'vectors.json');
const WIDTH = 64;
const SAMPLES = 8;

writeFileSync(
  join(home, 'rows.npy'),
  npyFile(
    [2, WIDTH],
    new Float32Array(2 * WIDTH).map((_, i) => Math.cos(i)),
  ),
);
const noise = { at: '1..-1', layers: 'embed', op: 'add', vector: { noise: { sigma: 2, of: 'embed' } } };
writeFileSync(
  file,
  JSON.stringify({
    name: 'vectors',
    samples: Array.from({ length: SAMPLES }, (_, i) => ({ word: `${i} of the sea`, row: `${i % 2}` })),
    sample: '{word}',
    source: { layers: '0..2', vector: { mean: ['the {word}', { prompt: 'a {word}', position: 1 }] } },
    target: { prompt: 'the {word} is', position: -1, layers: 'same', edits: [noise] },
    variants: [
      { name: 'mean' },
      {
        name: 'difference',
        source: { vector: { difference: [['the {word}'], ['on a mat']] } },
        edit: { op: 'add' },
      },
      { name: 'file', source: { vector: { file: 'rows.npy', row: '{row}' } }, target: { edits: [] } },
      { name: 'drawn', source: { vector: { random: { norm: 3 } } } },
      { name: 'prompt', source: { prompt: '{word}' } },
    ],
    reading: { tokens: 16 },
    metrics: [],
    controls: { random: 1, unpatched: true },
  }),
);

function patchscopes(...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, [command, ...args], {
    cwd: home,
    encoding: 'utf8',
    timeout: 100_000,
    killSignal: 'SIGKILL',
  });
  assert.equal(status, 0, stderr);
  return `${stdout}${stderr}`;
}

const run = (...args: string[]) => patchscopes('run', file, '-m', tinyPath('llama'), '-t', '1', ...args);

/** What was read of each cell, and from what. */
const readingsOf = (db: string) =>
  query(
    join(home, db),
    `SELECT sample.name, observation.variant, source_layer, target_layer, control, draw, observation.text, status,
      token_score.step, token_score.rank, token_score.token_id, token_score.logprob, variant.own_edits, vector.text
    FROM observation
    JOIN sample ON sample.idx = observation.sample_idx
    JOIN variant ON variant.sample_idx = observation.sample_idx AND variant.name = observation.variant
    LEFT JOIN vector ON vector.idx = variant.source_vector_idx
    JOIN token_score ON token_score.observation_id = observation.id
    ORDER BY 1, 2, 3, 4, 5, 6, 9, 10`,
  ).rows;

test('shards, merged, are the undivided run', () => {
  run('--db', 'whole.db', '--states', join(home, 'states.safetensors'));
  for (const k of [1, 2]) run('--db', `shard${k}.db`, '--shard', `${k}/2`);
  patchscopes('merge', 'shard1.db', 'shard2.db', '-o', 'merged.db');
  const whole = readingsOf('whole.db');
  assert.ok(whole.length > 1000);
  assert.deepEqual(readingsOf('merged.db'), whole);
});

test('one chunk alone is as it is among all: a run may be gone on with', async () => {
  const engine = await open(tinyPath('llama'));
  const opened = await openVectors(readExperiment(file).experiment, { source: engine, target: engine });
  const plan = makePlan(opened, engine.tokenizer, engine.record);
  const whole = new ChunkRunner(plan, engine);
  const chunks = chunkCount(plan);
  assert.ok(chunks > 1);
  const all = [];
  for (let chunk = 0; chunk < chunks; chunk++) all.push(await whole.run(chunk));
  for (const chunk of [1, 0]) assert.deepEqual(await new ChunkRunner(plan, engine).run(chunk), all[chunk]);
  await engine.close();
});

test('two models in turn read what they read together', () => {
  const two = ['--target-model', tinyPath('qwen3')];
  run(...two, '--db', 'together.db');
  run(...two, '--db', 'turn.db', '--models', 'in-turn');
  const together = readingsOf('together.db');
  assert.deepEqual(readingsOf('turn.db'), together);
  assert.notDeepEqual(together, readingsOf('whole.db'));
});

test('states that are kept are those of the prompts of means, too', () => {
  const header = readFileSync(join(home, 'states.safetensors'));
  const { __metadata__ } = JSON.parse(header.toString('utf8', 8, 8 + Number(header.readBigUInt64LE())));
  // two for each mean, of which one is the difference's too, one for each plain source, and one for all differences
  assert.equal(JSON.parse(__metadata__.index).length, 3 * SAMPLES + 1);
});

test('what stands in place of a prompt is said by the run, the dry run and the report', () => {
  const said = run('--db', 'said.db', '--dry-run');
  for (const words of [
    /source {2}mean of 2 prompts/,
    /mean of one prompt minus mean of one prompt/,
    /row 1 of rows\.npy/,
    /random direction of norm 3/,
    /edited {2}add of noise of sigma 2 x \d\.\d+, the standard deviation of embed, alpha 1, at embed, positions 1 2/,
  ])
    assert.match(said, words);
  const shown = patchscopes('show', '1', '--db', 'whole.db');
  for (const words of [
    /^source {4}mean: mean of 2 prompts and 7 more$/m,
    /^source {4}file: row 0 of rows\.npy and 1 more$/m,
    /^edited {4}drawn: add of noise of sigma 2 x \d\.\d+, the standard deviation of embed, in every cell$/m,
  ])
    assert.match(shown, words);
  patchscopes('report', '1', '--db', 'whole.db', '-o', 'report.html');
  const page = readFileSync(join(home, 'report.html'), 'utf8');
  for (const words of [/row 1 of rows\.npy/, /add noise of sigma 2 x \d/]) assert.match(page, words);
});
