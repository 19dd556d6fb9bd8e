/** The command `run`: whole experiments, broken off, gone on with, in shards, on a tiny model. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, existsSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { query } from '../src/store/query.js';
import { dumpResults } from './results-dump.js';
import { assertSameBits, assertSentence, folder, open, tinyPath } from './support.js';
import { sweep } from './sweep.js';

const command = fileURLToPath(new URL('../dist/cli.js', import.meta.url));
const place = mkdtempSync(join(folder(), 'run-'));
const model = ['-m', tinyPath('llama'), '-t', '1'];
const undisturbed = join(place, 'undisturbed.db');
const SAMPLES = 40;
const CHUNKS = 4;

const sweepFile = join(place, 'sweep.json');
writeFileSync(sweepFile, JSON.stringify(sweep(SAMPLES)));

const words = (args: readonly string[]) => [command, 'run', sweepFile, ...model, ...args];

function run(...args: string[]) {
  return anyCommand(...words(args).slice(1));
}

function anyCommand(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [command, ...args], {
    cwd: place,
    encoding: 'utf8',
    timeout: 60_000,
    killSignal: 'SIGKILL',
  });
  return { code: status, stdout, stderr };
}

function refused(ended: ReturnType<typeof run>, says: RegExp) {
  assert.equal(ended.code, 2, ended.stderr);
  const complaint = /^patchscopes: .*$/m.exec(ended.stderr)?.[0];
  assert.ok(complaint, ended.stderr);
  assertSentence(complaint);
  assert.match(complaint, says);
}

before(() => {
  const { code, stderr } = run('--db', undisturbed);
  assert.equal(code, 0, stderr);
});

test('every cell of the experiment is stored, with its plan, its settings and its file', () => {
  const [[planned, chunks, status, source, command] = []] = query(
    undisturbed,
    'SELECT cells_planned, chunks_planned, status, experiment_source, command FROM run',
  ).rows;
  assert.equal(chunks, CHUNKS);
  assert.equal(status, 'done');
  assert.equal(source, readFileSync(sweepFile, 'utf8'));
  assert.equal(command, `patchscopes run ${sweepFile} ${model.join(' ')}`);
  const count = (sql: string) => query(undisturbed, `SELECT count(*) FROM ${sql}`).rows[0]![0];
  assert.equal(count('observation'), planned);
  assert.equal(count("observation WHERE status = 'ok'"), planned);
  assert.equal(count('sample'), SAMPLES);
  assert.equal(count('variant'), 2 * SAMPLES);
  assert.equal(count("observation WHERE control = 'unpatched' AND source_layer IS NULL"), 2 * SAMPLES);
  const groups = query(undisturbed, 'SELECT DISTINCT "group" FROM metric ORDER BY 1').rows.flat();
  assert.deepEqual(groups, ['', 'even', 'odd']);
});

test('an unpatched target reads the same in every variant that patches it', () => {
  const [[tokens, difference] = []] = query(
    undisturbed,
    `SELECT count(DISTINCT token_id), max(logprob) - min(logprob)
    FROM observation JOIN token_score ON observation_id = observation.id
    WHERE control = 'unpatched' AND step = 0 AND rank = 0`,
  ).rows;
  assert.equal(tokens, 1);
  const [[tolerance] = []] = query(undisturbed, 'SELECT tolerance FROM run').rows;
  assert.ok((difference as number) <= 2 * (tolerance as number), `${difference} beside ${tolerance}`);
});

test('the same run again holds the same bits', () => {
  const db = join(place, 'again.db');
  assert.equal(run('--db', db).code, 0);
  assert.deepEqual(dumpResults(db), dumpResults(undisturbed));
});

test('after Ctrl-C the run says how it goes on, and going on it ends as if undisturbed', async () => {
  const db = join(place, 'interrupted.db');
  const child = spawn(process.execPath, words(['--db', db]), { cwd: place });
  let stderr = '';
  child.stderr.on('data', (text) => {
    stderr += text;
  });
  const stored = () =>
    existsSync(db) && query(db, "SELECT 1 FROM sqlite_schema WHERE name = 'chunk'").rows.length > 0;
  while (!stored() || query(db, 'SELECT count(*) FROM chunk').rows[0]![0] === 0) await sleep(20);
  child.kill('SIGINT');
  const [code] = await once(child, 'close');
  assert.equal(code, 130, stderr);
  assert.match(stderr, /To go on: the same command with --resume 1\n/);
  assert.deepEqual(query(db, 'SELECT status FROM run').rows, [['interrupted']]);
  assert.ok((query(db, 'SELECT count(*) FROM chunk').rows[0]![0] as number) < CHUNKS);

  const unfinished = dumpResults(db);
  refused(
    run('--db', db, '--resume', '1', '-fa', 'off'),
    /Run 1 in .* can't go on: flash_attention was 1 and is 0/,
  );
  refused(run('--db', db, '--resume', '--set', 'seed=8'), /seed of the experiment was 7 and is 8/);
  refused(run('--db', db, '--resume', '2'), /no run 2/);
  refused(
    anyCommand('run', sweepFile, '-m', tinyPath('gemma3'), '-t', '1', '--db', db, '--resume'),
    /the source model was .* and is /,
  );
  assert.deepEqual(dumpResults(db), unfinished);
  assert.equal(run('--db', db, '--limit', '3').code, 0, 'another experiment is not in its way');
  assert.doesNotMatch(run('--db', db, '--limit', '4').stderr, /broke off/);
  for (const id of ['2', '3']) assert.equal(anyCommand('delete', id, '--yes', '--db', db).code, 0);
  const anew = join(place, 'anew.db');
  copyFileSync(db, anew);
  assert.match(
    run('--db', anew).stderr,
    /^Run 1 of this experiment broke off after \d+ of \d+ cells: with --resume it goes on/m,
  );
  const again = run('--db', db, '--resume');
  assert.equal(again.code, 0, again.stderr);
  assert.match(again.stderr, /^resumed run 1, which has \d+ of \d+ cells$/m);
  assert.deepEqual(dumpResults(db), dumpResults(undisturbed));
  refused(run('--db', db, '--resume'), /no unfinished run/);
});

test('shards, merged, are the undivided run', () => {
  const parts = [1, 2, 3].map((k) => {
    const db = join(place, `part${k}.db`);
    const { code, stderr } = run('--db', db, '--shard', `${k}/3`);
    assert.equal(code, 0, stderr);
    return db;
  });
  const merged = join(place, 'merged.db');
  const { code, stderr } = anyCommand('merge', ...parts, '-o', merged);
  assert.equal(code, 0, stderr);
  assert.deepEqual(dumpResults(merged), dumpResults(undisturbed));
});

test('a dry run says what there is to do, and stores nothing', () => {
  const db = join(place, 'dry.db');
  const { code, stdout, stderr } = run('--dry-run', '--json', '--db', db);
  assert.equal(code, 0, stderr);
  const plan = JSON.parse(stdout);
  const [[cells, sha256] = []] = query(undisturbed, 'SELECT cells_planned, plan_sha256 FROM run').rows;
  assert.deepEqual(
    [plan.cells, plan.planSha256, plan.chunks, plan.sources],
    [cells, sha256, CHUNKS, SAMPLES],
  );
  assert.ok(plan.seconds > 0 && plan.memoryBytes > 0);
  assert.ok(!existsSync(db));
  assert.match(run('--dry-run', '--db', db).stdout, /^cells +\d+$/m);
});

test('states are kept in a file where they are asked for, as the engine captures them', async () => {
  const file = join(place, 'states.safetensors');
  const args = ['--limit', '5', '--states', file, '--no-db'];
  const { code, stderr } = run(...args);
  assert.equal(code, 0, stderr);
  const bytes = readFileSync(file);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + length));
  const index = JSON.parse(header.__metadata__.index);
  assert.equal(index.length, 5);
  assert.deepEqual(
    index.map(({ sample, position }: { sample: number; position: number }) => [sample, position]),
    [0, 1, 2, 3, 4].map((sample) => [sample, 3]),
  );
  const engine = await open(tinyPath('llama'));
  const { embeddingSize: width, layerCount } = engine.record;
  const places = [
    { site: 'embed', layer: 'embed', tokenIndex: 3 } as const,
    ...Array.from({ length: layerCount }, (_, layer) => ({
      site: 'resid_out' as const,
      layer,
      tokenIndex: 3,
    })),
  ];
  const captured = await engine.capture(
    sweep(5).samples.map(({ ids }) => ({ tokenIds: ids, points: places })),
  );
  await engine.close();
  captured.forEach((result, row) => {
    assert.ok(result.status === 'ok');
    places.forEach(({ site, layer }, i) => {
      const { shape, data_offsets } = header[layer === 'embed' ? 'embed' : `${site}.${layer}`];
      assert.deepEqual(shape, [5, width]);
      const at = 8 + length + data_offsets[0] + row * width * 4;
      const kept = new Float32Array(
        bytes.buffer.slice(bytes.byteOffset + at, bytes.byteOffset + at + width * 4),
      );
      assertSameBits(kept, result.states[i]!, `${site} ${layer} of sample ${row}`);
    });
  });
  assert.equal(run(...args).code, 0, 'the same plan goes on with its file');
  refused(run('--limit', '4', '--states', file, '--no-db'), /does not hold the states of this plan/);
});

for (const [what, args, says] of [
  ['a shard beyond the last', ['--shard', '4/3'], /--shard is '4\/3' where k\/n is needed/],
  [
    'more shards than chunks',
    ['--shard', '1/9'],
    /plan has 4 chunks, which can't be shared out over 9 shards/,
  ],
  ['no samples', ['--limit', '0'], /--limit is '0'/],
  ['a key that is not there', ['--set', 'reading.tokns=3'], /no key 'tokns' in reading, perhaps tokens/],
  ['resuming without a file', ['--resume', '--no-db'], /nothing to --resume/],
  ['resuming where there is no file', ['--resume', '--db', 'none.db'], /no results file none\.db/],
] as const) {
  test(`${what}: refused`, () => refused(run(...args), says));
}
