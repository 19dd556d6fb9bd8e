/** Commands over a results file: runs, show, export, delete, merge, sql. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { asyncBufferFromFile, parquetMetadataAsync, parquetReadObjects } from 'hyparquet';
import { deleteRun } from '../src/store/delete.js';
import { exportRun } from '../src/store/export.js';
import { m001Initial } from '../src/store/m001-initial.js';
import { query } from '../src/store/query.js';
import { runDetails } from '../src/store/run-details.js';
import { openSqlite } from '../src/store/sqlite.js';
import { dump } from './store-dump.js';
import { folder } from './store-records.js';
import { addRun, otherModel, type Sweep, sweep } from './sweep-records.js';

const command = fileURLToPath(new URL('../dist/cli.js', import.meta.url));
const counting = 'WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)';

function cli(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [command, ...args], {
    ...{ encoding: 'utf8', timeout: 30_000, killSignal: 'SIGKILL', maxBuffer: 1e9 },
    ...{ stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, NODE_NO_WARNINGS: '1' } },
  });
  return { code: status, stdout, stderr };
}

const lines = (text: string) => text.split('\n').slice(0, -1);

const diagonal: Sweep = { ...sweep, name: 'diagonal', diagonal: true, source: otherModel, salt: 5 };
const hostile: Sweep = { ...sweep, name: 'h\u001b[2Jx', variants: ['v\u001b[31m', '\u202eb'], salt: 11 };

/** Three runs: whole, broken off, and a shard. */
function results(t: TestContext): string {
  const path = join(folder(t), 'r.db');
  addRun(path, sweep);
  addRun(path, diagonal, { chunks: 3 });
  addRun(path, sweep, { shard: { index: 2, count: 3 } });
  return path;
}

/** One sentence on stderr, nothing on stdout, exit code 2. */
function assertRefused(ended: ReturnType<typeof cli>, sentence: RegExp) {
  assert.deepEqual([ended.code, ended.stdout], [2, ''], ended.stderr);
  assert.match(ended.stderr, /^patchscopes: [^\n]+\n$/);
  assert.match(ended.stderr, sentence);
}

// --- runs

test('runs are listed with the newest first, and their numbers are those of the file', (t) => {
  const path = results(t);
  const { code, stdout } = cli('runs', '--db', path, '--json');
  assert.equal(code, 0);
  const listed = lines(stdout).map((line) => JSON.parse(line));
  assert.deepEqual(
    listed.map(({ run_id, name, status, shard, cells_planned, cells_stored }) => [
      ...[run_id, name, status, shard, cells_planned, cells_stored],
    ]),
    [
      [3, 'sweep', 'done', '2/3', 85, 85],
      [2, 'diagonal', 'interrupted', null, 60, 21],
      [1, 'sweep', 'done', null, 260, 260],
    ],
  );
  for (const run of listed) {
    const counted = query(
      path,
      `SELECT count(*), sum(status = 'failed') FROM observation WHERE run_id = ${run.run_id}`,
    ).rows;
    assert.deepEqual(counted, [[run.cells_stored, run.cells_failed]]);
  }
  const table = lines(cli('runs', '--db', path).stdout);
  assert.match(table[0]!, /^run +name +model +cells +failed +status +started +seconds +shard$/);
  assert.deepEqual(
    table.slice(1).map((line) => line.trim().split(/ +/)[0]),
    ['3', '2', '1'],
  );
  assert.match(table[2]!, /diagonal +Other Q4_1 into Tiny Q4_1 +21\/60 +1 +interrupted/);
});

test('a file of an older version is brought up to date and listed', (t) => {
  const path = join(folder(t), 'old.db');
  const database = openSqlite(path);
  database.exec(m001Initial.sql);
  database.exec("INSERT INTO migration VALUES ('m001_initial', 'then')");
  database.pragma(`application_id = ${0x50534350}`);
  database.close();
  assert.deepEqual([cli('runs', '--db', path).code, cli('runs', '--db', path, '--json').stdout], [0, '']);
  assertRefused(cli('show', '--db', path), /There are no runs in /);
});

test('no file, and a file of something else, are refused and left as they are', (t) => {
  const home = folder(t);
  const other = join(home, 'other.db');
  const database = openSqlite(other);
  database.exec('CREATE TABLE migration (name)');
  database.close();
  const text = join(home, 'text.db');
  writeFileSync(text, 'a,b\n'.repeat(2000));
  const before = readFileSync(other);
  for (const words of [['runs'], ['show'], ['export', '--format', 'csv'], ['delete', '1', '--yes']]) {
    assertRefused(cli(...words, '--db', join(home, 'none.db')), /There is no results file/);
    assertRefused(cli(...words, '--db', other), /is a database of another program/);
    assertRefused(cli(...words, '--db', text), /is not a SQLite database/);
  }
  assert.deepEqual(readFileSync(other), before);
  assert.deepEqual(readdirSync(home).sort(), ['other.db', 'text.db']);
});

// --- show

/** Means over samples by pair of layers, from the rows themselves. */
function means(path: string, runId: number, value: string, variant: string) {
  return query(
    path,
    `SELECT source_layer, target_layer, avg(${value === 'top_probability' ? 'top_probability' : `(SELECT value FROM score WHERE score.observation_id = reading.observation_id AND name = '${value}')`}),
      count(*), sum(status = 'failed')
    FROM reading WHERE run_id = ${runId} AND control = 'none' AND variant = '${variant}' GROUP BY 1, 2 ORDER BY 1, 2`,
  ).rows as [number, number, number | null, number, number][];
}

test('the grid of a run is the means of its cells', (t) => {
  const path = results(t);
  for (const [run, id] of [
    ['1', 1],
    ['diagonal', 2],
  ] as const) {
    for (const value of ['top_probability', 'answer-found', 'answer-logprob']) {
      for (const variant of sweep.variants) {
        const { grid } = runDetails(path, { run, value, variant });
        const expected = means(path, id, value, variant);
        assert.ok(expected.length >= 5);
        assert.deepEqual(
          grid.map((cell) => [cell.sourceLayer, cell.targetLayer, cell.value, cell.cells, cell.failed]),
          expected,
        );
        assert.ok(grid.every((cell) => cell.variant === variant));
      }
    }
  }
});

test('show draws the grid: a digit for each mean, marks for what failed', (t) => {
  const path = results(t);
  const { code, stdout } = cli(
    'show',
    '1',
    '--db',
    path,
    '--value',
    'answer-logprob',
    '--variant',
    'default',
  );
  assert.equal(code, 0);
  const rows = means(path, 1, 'answer-logprob', 'default');
  const values = rows.flatMap(([, , value]) => (value === null ? [] : [value]));
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const drawn = [...stdout.matchAll(/^ *(embed|\d+) {2}((?:[0-9x.][ x]?)+)$/gm)].flatMap(([, layer, cells]) =>
    cells!.match(/.{1,2}/g)!.map((pair) => `${layer === 'embed' ? -1 : layer} ${pair.trimEnd()}`),
  );
  assert.deepEqual(
    drawn,
    rows.map(
      ([source, , value, , failed]) =>
        `${source} ${value === null ? 'xx' : `${Math.min(9, Math.floor((10 * (value - least)) / (most - least)))}${failed > 0 ? 'x' : ''}`}`,
    ),
  );
  assert.match(stdout, /^answer-logprob: 0 to 9 are ten equal steps/m);
  assert.match(stdout, /^run +1 sweep, done$/m);
  assert.match(stdout, /^cells +260 of 260, 23 failed$/m);
});

test('where targets lie at the layers of their sources there is a strip for each variant', (t) => {
  const path = results(t);
  const { stdout } = cli('show', 'diagonal', '--db', path);
  assert.match(stdout, /layer, the same of source and target\n +variant {2}embed 2 3\n/);
  assert.match(stdout, /^ +default {2}[0-9x ]{9,10}$/m);
  assert.match(stdout, /^other "words" {2}[0-9x ]{9,10}$/m);
});

test('the metrics that are shown are those of the file', (t) => {
  const path = results(t);
  const { metrics } = JSON.parse(cli('show', '1', '--db', path, '--json').stdout);
  const { columns, rows } = query(
    path,
    'SELECT name, control, variant, source_layer, target_layer, value, n, ci_low, ci_high FROM layer_grid WHERE run_id = 1',
  );
  const key = (row: Record<string, unknown>) =>
    JSON.stringify(columns.map((name) => (/_layer/.test(name) && row[name] === -1 ? 'embed' : row[name])));
  assert.deepEqual(
    metrics.map(key).sort(),
    rows.map((row) => key(Object.fromEntries(row.map((value, i) => [columns[i], value])))).sort(),
  );
  // by source layer: the mean over all cells of all target layers
  const [[found]] = query(
    path,
    `SELECT avg(score.value) FROM observation JOIN score ON observation_id = id AND name = 'answer-found'
    WHERE run_id = 1 AND control = 'none' AND variant = 'default' AND source_layer = 2`,
  ).rows as [[number]];
  const line = lines(cli('show', '1', '--db', path).stdout).find((text) => /^default +none +2 /.test(text));
  assert.equal(Number(line!.split(/ +/)[3]), Number(found.toPrecision(3)));
});

test('show takes the newest run of a name, the newest of all, or says what there is', (t) => {
  const path = results(t);
  const shown = (...words: string[]) =>
    JSON.parse(cli('show', ...words, '--db', path, '--json').stdout).run.run_id;
  assert.deepEqual([shown(), shown('sweep'), shown('diagonal'), shown('1')], [3, 3, 2, 1]);
  assertRefused(cli('show', 'swep', '--db', path), /no run swep in .*, perhaps sweep was meant/);
  assertRefused(
    cli('show', '9', '--db', path),
    /no run 9 in .*; it has 3 \(sweep\), 2 \(diagonal\), 1 \(sweep\)/,
  );
  assertRefused(
    cli('show', '--value', 'p', '--db', path),
    /no value p; it has top_probability, answer-found/,
  );
  assertRefused(cli('show', '--variant', 'p', '--db', path), /no variant p; it has default, other "words"/);
});

test('names and texts that steer a terminal do not reach it', (t) => {
  const path = join(folder(t), 'r.db');
  addRun(path, hostile, { changes: { command: 'patchscopes\u001b[2J\nrun' } });
  const told = [
    ...[cli('runs', '--db', path), cli('show', '--db', path), cli('show', 'nope', '--db', path)],
    cli('export', '1', '--format', 'csv', '-o', join(path, '..', 'r.csv'), '--db', path),
    cli('delete', '1', '--yes', '--db', path),
  ];
  for (const { stdout, stderr } of told) assert.doesNotMatch(stdout + stderr, /[^\P{Cc}\n]|\u202e/u);
});

// --- export

function rowsOf(path: string, runId: number, what: 'readings' | 'scores'): Record<string, unknown>[] {
  const metric = (name: string) =>
    `(SELECT value FROM score WHERE score.observation_id = reading.observation_id AND name = '${name}') AS "${name}"`;
  const { columns, rows } = query(
    path,
    what === 'scores'
      ? `SELECT * FROM scored_token WHERE run_id = ${runId} ORDER BY observation_id, step, rank`
      : `SELECT *, ${metric('answer-found')}, ${metric('answer-logprob')} FROM reading WHERE run_id = ${runId} ORDER BY observation_id`,
  );
  return rows.map((row) => Object.fromEntries(row.map((value, i) => [columns[i], value])));
}

for (const what of ['readings', 'scores'] as const) {
  test(`all formats hold all ${what} of the run, in their order, and none of another`, async (t) => {
    const path = results(t);
    const home = folder(t);
    for (const run of [1, 2, 3]) {
      const expected = rowsOf(path, run, what);
      const file = (format: string) => join(home, `${run}.${format}`);
      for (const format of ['csv', 'jsonl', 'parquet']) {
        const ended = cli(
          'export',
          `${run}`,
          '--format',
          format,
          '--what',
          what,
          '-o',
          file(format),
          '--db',
          path,
        );
        assert.deepEqual([ended.code, ended.stdout], [0, ''], ended.stderr);
        assert.match(ended.stderr, new RegExp(`^wrote   ${expected.length} ${what} of run ${run} `));
      }
      const jsonl = readFileSync(file('jsonl'), 'utf8');
      assert.deepEqual(
        lines(jsonl).map((line) => JSON.parse(line)),
        expected,
      );
      const read = await parquetReadObjects({ file: await asyncBufferFromFile(file('parquet')) });
      assert.deepEqual(
        read.map((row) =>
          Object.fromEntries(
            Object.entries(row).map(([name, value]) => [
              name,
              typeof value === 'bigint' ? Number(value) : value,
            ]),
          ),
        ),
        expected,
      );
      assert.deepEqual(csvRows(readFileSync(file('csv'), 'utf8')), [
        Object.keys(expected[0]!),
        ...expected.map((row) => Object.values(row).map((value) => (value === null ? '' : `${value}`))),
      ]);
      // without -o the same goes to stdout
      const printed = cli('export', `${run}`, '--format', 'jsonl', '--what', what, '--db', path);
      assert.equal(printed.stdout, jsonl);
    }
  });
}

/** RFC 4180. */
function csvRows(text: string): string[][] {
  return [...text.matchAll(/((?:(?:"(?:[^"]|"")*"|[^",\r\n]*)(?:,|(?=\r\n)))+)\r\n/g)].map(([, record]) =>
    [...record!.matchAll(/("(?:[^"]|"")*"|[^",]*)(?:,|$)/g)]
      .filter(({ index, 0: whole }) => index < record!.length || whole !== '' || record!.endsWith(','))
      .map(([, field]) => (field!.startsWith('"') ? field!.slice(1, -1).replaceAll('""', '"') : field!)),
  );
}

test('parquet is written in row groups of a bounded size', async (t) => {
  const path = join(folder(t), 'r.db');
  addRun(path, {
    ...sweep,
    samples: 12,
    layers: Array.from({ length: 31 }, (_, i) => i),
    cellsInChunk: 1024,
  });
  const output = join(path, '..', 'r.parquet');
  const { rowCount } = await exportRun(path, { format: 'parquet', to: output });
  assert.equal(rowCount, 12 * 2 * (31 * 31 + 1));
  const { row_groups } = await parquetMetadataAsync(await asyncBufferFromFile(output));
  assert.deepEqual(
    row_groups.map(({ num_rows }) => Number(num_rows)),
    [20_000, rowCount - 20_000],
  );
});

test('an export that is refused or fails leaves nothing and overwrites nothing', (t) => {
  const path = results(t);
  const home = folder(t);
  const to = (...words: string[]) => cli('export', ...words, '--db', path);
  const there = join(home, 'there.csv');
  writeFileSync(there, 'mine');
  assertRefused(to('1', '--format', 'csv', '-o', there), /there\.csv exists: remove it, or name another/);
  assertRefused(to('7', '--format', 'csv', '-o', join(home, 'a.csv')), /There is no run 7/);
  assertRefused(to('1', '--format', 'parquet'), /name a file/);
  assertRefused(to('1', '--format', 'xml'), /--format is 'xml' where one of csv, jsonl, parquet is needed/);
  assertRefused(to('1', '--format', 'csv', '-o', join(home, 'no', 'a.csv')), /can't be written \(ENOENT\)/);
  const root = query(path, "SELECT rootpage FROM sqlite_schema WHERE name = 'variant'").rows[0]?.[0];
  const bytes = readFileSync(path);
  bytes.fill(0xa5, (Number(root) - 1) * 4096, Number(root) * 4096);
  writeFileSync(path, bytes);
  for (const format of ['csv', 'jsonl', 'parquet']) {
    assertRefused(to('1', '--format', format, '-o', join(home, `a.${format}`)), /r\.db is damaged/);
  }
  assert.deepEqual(readdirSync(home), ['there.csv']);
  assert.equal(readFileSync(there, 'utf8'), 'mine');
});

// --- delete

const runs: readonly Sweep[] = [
  { ...sweep, name: 'first' },
  // shares models and some tokens with the first
  { ...sweep, name: 'second', salt: 20, samples: 3 },
  // shares a model only as a source
  { ...diagonal, name: 'third' },
];

function fileOf(t: TestContext, which: readonly Sweep[], mapping?: string): string {
  const path = join(folder(t), 'r.db');
  for (const run of which) {
    if (run.mapping !== undefined) {
      addRun(path, { ...sweep, name: 'only to make the file' });
      deleteRun(path, 1);
      const database = openSqlite(path);
      database.prepare('INSERT INTO mapping (name, kind) VALUES (?, ?)').run(mapping, 'affine');
      database.close();
    }
    addRun(path, run);
  }
  return path;
}

test('a file without a run is the file in which it never was', (t) => {
  for (const gone of runs) {
    const path = fileOf(t, runs);
    const before = statSync(path).size;
    const id = query(path, `SELECT id FROM run WHERE name = '${gone.name}'`).rows[0]![0];
    const { code, stdout, stderr } = cli('delete', gone.name, '--yes', '--db', path);
    assert.deepEqual([code, stderr], [0, '']);
    const left = runs.filter((run) => run !== gone);
    assert.deepEqual(dump(path), dump(fileOf(t, left)), gone.name);
    assert.match(stdout, new RegExp(`^deleted run ${id} \\(${gone.name} on `));
    assert.ok(statSync(path).size < before);
    // not even in pages that are free
    assert.equal(readFileSync(path).includes(`plan of ${gone.name}`), false);
  }
});

test('what a deletion says is what went', (t) => {
  const path = fileOf(t, runs);
  const counts = (path: string) =>
    Object.fromEntries(Object.entries(dump(path)).map(([table, rows]) => [table, rows.length]));
  const before = counts(path);
  const { rows, kept, bytesBefore, bytesAfter } = deleteRun(path, 2);
  const after = counts(path);
  const went = Object.entries(before)
    .map(([table, count]) => [table, count - after[table]!] as const)
    .filter(([, count]) => count > 0);
  assert.deepEqual(rows, Object.fromEntries(went));
  assert.deepEqual([kept, bytesAfter], [null, statSync(path).size]);
  assert.ok(bytesBefore > bytesAfter);
  for (const name of ['first', 'third']) deleteRun(path, runDetails(path, { run: name }).run.runId);
  // but the identity, which belongs to the schema
  assert.deepEqual(
    Object.entries(counts(path)).filter(([, count]) => count > 0),
    [['mapping', 1]],
  );
});

test('a mapping goes with the last run that used it', (t) => {
  const path = fileOf(t, [{ ...sweep, name: 'mapped', mapping: 'map' }], 'map');
  addRun(path, { ...sweep, name: 'mapped too', mapping: 'map', salt: 1 });
  const mappings = () => query(path, 'SELECT name FROM mapping ORDER BY id').rows.flat();
  deleteRun(path, 1);
  assert.deepEqual(mappings(), ['identity', 'map']);
  deleteRun(path, 2);
  assert.deepEqual(mappings(), ['identity']);
});

test('without a terminal a deletion needs --yes; one of a run that is not there changes nothing', (t) => {
  const path = results(t);
  const before = dump(path);
  assertRefused(cli('delete', '1', '--db', path), /give --yes/);
  assertRefused(cli('delete', '9', '--yes', '--db', path), /There is no run 9/);
  assertRefused(cli('delete', '--yes', '--db', path), /needs a run/);
  assert.throws(() => deleteRun(path, 9), /There is no run 9/);
  assert.deepEqual(dump(path), before);
});

test('a file that another process reads shrinks later, and says so', (t) => {
  const path = fileOf(t, runs);
  const reader = openSqlite(path, { readonly: true });
  t.after(() => reader.close());
  reader.exec('BEGIN');
  reader.prepare('SELECT count(*) FROM run').get();
  const { kept } = deleteRun(path, 1);
  assert.match(`${kept}`, /being read by another process/);
  assert.equal(query(path, "SELECT count(*) FROM run WHERE name = 'first'").rows[0]![0], 0);
  reader.exec('COMMIT');
});

// --- merge

test('merge joins files on the command line', (t) => {
  const home = folder(t);
  const files = [1, 2, 3].map((index) => join(home, `${index}.db`));
  for (const [i, file] of files.entries()) {
    addRun(file, sweep, { shard: { index: i + 1, count: 3 }, changes: { host: `host ${i}` } });
  }
  const output = join(home, 'all.db');
  const { code, stdout, stderr } = cli('merge', ...files, '-o', output);
  assert.deepEqual([code, stdout], [0, '']);
  assert.match(
    stderr,
    /^(Warning: .*host.*\n){2}merged {2}run 1 \(sweep on Tiny Q4_1, 260 of 260 cells, done\) into /,
  );
  assert.ok(existsSync(output));
  assertRefused(cli('merge', ...files, '-o', output), /exists/);
  assertRefused(cli('merge', '-o', join(home, 'b.db')), /patchscopes merge needs a file/);
  assertRefused(cli('merge', ...files), /--output must be given/);
});

test('Ctrl-C ends a merge and an export, and leaves nothing', async (t) => {
  const home = folder(t);
  const long = { ...sweep, samples: 40, layers: Array.from({ length: 21 }, (_, i) => i) };
  const files = [1, 2].map((index) => join(home, `${index}.db`));
  for (const [i, file] of files.entries()) addRun(file, long, { shard: { index: i + 1, count: 2 } });
  const before = readdirSync(home).sort();
  for (const words of [
    ['merge', ...files, '-o', join(home, 'all.db')],
    ['export', '--format', 'jsonl', '--db', files[0]!, '-o', join(home, 'all.jsonl')],
  ]) {
    const child = spawn(process.execPath, [command, ...words], { stdio: 'ignore' });
    const ended = once(child, 'exit');
    const parts = () => readdirSync(home).filter((name) => name.endsWith('.part'));
    while (child.exitCode === null && parts().every((name) => statSync(join(home, name)).size === 0))
      await sleep(1);
    child.kill('SIGINT');
    assert.deepEqual(await ended, [130, null], words[0]);
    const after = readdirSync(home).filter((name) => !/-(wal|shm)$/.test(name));
    assert.deepEqual(after.sort(), before, words[0]);
  }
});

// --- sql

test('sql gives as many rows as are asked for, and says where there are more', (t) => {
  const path = results(t);
  const ask = (...words: string[]) =>
    cli('sql', `${counting} SELECT i FROM n LIMIT 3000`, '--db', path, ...words);
  const counted = (text: string) => lines(text).filter((line) => /^ *\d+\r?$|^\{/.test(line)).length;
  for (const [words, shown, note] of [
    [[], 1000, /Only 1000 rows are shown.*--limit N/],
    [['--limit', '2999'], 2999, /Only 2999 rows are shown/],
    [['--limit', '3000'], 3000, /^$/],
    [['--csv'], 3000, /^$/],
    [['--json'], 3000, /^$/],
    [['--csv', '--limit', '1'], 1, /Only 1 row is shown/],
    [['--json', '--limit', '0'], 0, /Only 0 rows are shown/],
  ] as const) {
    const { code, stdout, stderr } = ask(...words);
    assert.equal(code, 0);
    assert.equal(counted(stdout), shown, words.join(' '));
    assert.match(stderr, note);
  }
  assertRefused(ask('--limit', '-1'), /--limit is '-1'/);
  assertRefused(ask('--timeout', '0'), /--timeout is '0'/);
});

test('sql ends a query at the time limit, before and after its first rows', (t) => {
  const path = results(t);
  assertRefused(
    cli('sql', `${counting} SELECT count(*) FROM n`, '--db', path, '--timeout', '1'),
    /ended at its time limit of 1 s; give it more time \(--timeout SECONDS\)/,
  );
  const begun = cli(
    ...[
      'sql',
      `${counting} SELECT i FROM n WHERE i < 1000 OR i < 0`,
      '--db',
      path,
      '--timeout',
      '1',
      '--csv',
    ],
  );
  assert.equal(begun.code, 1);
  assert.match(begun.stdout, /^i\r\n1\r\n2\r\n/);
  assert.match(begun.stderr, /time limit of 1 s/);
});

test('a query ends with the command that asked it, however that ends', {
  skip: process.platform !== 'linux',
}, async (t) => {
  const path = results(t);
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGKILL'] as const) {
    const asking = spawn(
      process.execPath,
      [command, 'sql', `${counting} SELECT count(*) FROM n`, '--db', path],
      {
        stdio: 'ignore',
      },
    );
    let children: string[] = [];
    while (children.length === 0) {
      await sleep(20);
      children = readFileSync(`/proc/${asking.pid}/task/${asking.pid}/children`, 'utf8')
        .split(' ')
        .filter(Boolean);
    }
    await sleep(300); // the query is under way
    asking.kill(signal);
    const [, endedBy] = await once(asking, 'exit');
    assert.equal(endedBy, signal);
    while (children.some((pid) => existsSync(`/proc/${pid}`))) await sleep(20);
  }
});

test('sql stops when nobody reads', { skip: process.platform === 'win32' }, (t) => {
  const { status, stdout } = spawnSync(
    'sh',
    [
      '-c',
      '"$0" "$1" sql "$2" --db "$3" --json | head -n 2',
      process.execPath,
      command,
      `${counting} SELECT i FROM n`,
      results(t),
    ],
    { encoding: 'utf8', timeout: 30_000 },
  );
  assert.deepEqual([status, stdout], [0, '{"i":1}\n{"i":2}\n']);
});
