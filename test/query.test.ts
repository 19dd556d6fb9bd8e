import assert from 'node:assert/strict';
import { chmodSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { formatCsv, formatJsonLines, formatTable } from '../src/store/format.js';
import { type QueryOptions, query } from '../src/store/query.js';
import { queryStream } from '../src/store/query-stream.js';
import { openSqlite } from '../src/store/sqlite.js';
import { openStore } from '../src/store/store.js';
import { begin, cell, failedCell, folder } from './store-records.js';

/** A results file with one patched cell, one failed one and a run that is done. */
function results(test: TestContext): string {
  const path = join(folder(test), 'r.db');
  const store = openStore(path);
  const runId = begin(store);
  store.addChunk(runId, 0, [cell(), failedCell({ sample: 1 })]);
  store.finishRun(runId, 'done');
  store.close();
  return path;
}

function failure(code: string, sentence: RegExp) {
  return (error: unknown) => {
    assert.ok(error instanceof Error);
    assert.equal((error as { code?: unknown }).code, code);
    assert.equal(error.name, 'PatchscopeError');
    assert.match(error.message, sentence);
    return true;
  };
}

test('rows come back in the order of the columns', (t) => {
  assert.deepEqual(query(results(t), 'SELECT sample, source_layer, top_token, error FROM reading; -- all'), {
    columns: ['sample', 'source_layer', 'top_token', 'error'],
    rows: [
      ['Diana', 3, ' queen', null],
      ['ids', 3, null, 'not_finite: a logit is NaN'],
    ],
    truncated: false,
  });
});

test('columns of one name stay apart', (t) => {
  const result = query(results(t), 'SELECT 1 AS a, 2 AS a');
  assert.deepEqual(result.columns, ['a', 'a']);
  assert.deepEqual(result.rows, [[1, 2]]);
  assert.equal(formatJsonLines(result), '{"a":1,"a_2":2}\n');
});

test('integers keep their digits and blobs their bytes', (t) => {
  const result = query(
    results(t),
    "SELECT 9007199254740991, 9007199254740993, -9223372036854775808, x'00ff', 1.0, 9e999, ''",
  );
  assert.deepEqual(result.rows, [
    [
      9007199254740991,
      9007199254740993n,
      -9223372036854775808n,
      Buffer.from([0, 255]),
      1,
      Number.POSITIVE_INFINITY,
      '',
    ],
  ]);
});

test('maxRows cuts and says so', (t) => {
  const path = results(t);
  const sql = 'SELECT sample FROM reading';
  assert.deepEqual(query(path, sql, { maxRows: 1 }), {
    columns: ['sample'],
    rows: [['Diana']],
    truncated: true,
  });
  assert.equal(query(path, sql, { maxRows: 2 }).truncated, false);
  assert.deepEqual(query(path, sql, { maxRows: 0 }).rows, []);
  for (const maxRows of [-1, 0.5, Number.NaN]) assert.throws(() => query(path, sql, { maxRows }), TypeError);
});

test('maxRows ends a query that would not', (t) => {
  const endless = 'WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n';
  assert.deepEqual(query(results(t), endless, { maxRows: 2 }).rows, [[1], [2]]);
});

test('all kinds of reading statements are read', (t) => {
  const path = results(t);
  for (const sql of [
    'WITH a AS (SELECT 1) SELECT * FROM a',
    'VALUES (1)',
    'EXPLAIN QUERY PLAN SELECT * FROM reading',
    'PRAGMA table_info(run)',
  ])
    assert.ok(query(path, sql).rows.length > 0, sql);
});

test('a statement that writes is refused and changes nothing', (t) => {
  const path = results(t);
  const elsewhere = join(path, '..', 'other.db');
  const bytes = readFileSync(path);
  for (const sql of [
    'DELETE FROM run',
    "INSERT INTO mapping (name, kind) VALUES ('a', 'b') RETURNING id",
    "UPDATE run SET name = 'x'",
    'CREATE TABLE a (b)',
    'CREATE TEMP TABLE a (b)',
    'DROP TABLE run',
    'PRAGMA journal_mode = DELETE',
    'PRAGMA user_version = 3',
    'BEGIN',
    'VACUUM',
    `VACUUM INTO '${elsewhere}'`,
    `ATTACH '${elsewhere}' AS other`,
  ])
    assert.throws(() => query(path, sql), failure('bad_input', /does not only read; use SELECT/), sql);
  assert.deepEqual(readFileSync(path), bytes);
  assert.ok(!existsSync(elsewhere));
});

test('several statements or none are refused', (t) => {
  const path = results(t);
  for (const sql of ['SELECT 1; DELETE FROM run', '', ' -- nothing'])
    assert.throws(() => query(path, sql), failure('bad_input', /give one statement/), sql);
});

test('an error of the statement says what there is', (t) => {
  const path = results(t);
  assert.throws(
    () => query(path, 'SELECT * FROM readings'),
    failure(
      'bad_input',
      /^SQLite refuses the query: no such table: readings; there are: accuracy, .*, run, run_summary, sample, score, .*, variant, variant_level, vector\.$/,
    ),
  );
  assert.throws(
    () => query(path, 'SELECT m.nmae FROM mapping AS m'),
    failure(
      'bad_input',
      /^SQLite refuses the query: no such column: m\.nmae; there are: mapping \(id, name, kind, sha256, record\)\.$/,
    ),
  );
  assert.throws(
    () => query(path, 'SELECT layer FROM Reading'),
    failure('bad_input', /^SQLite refuses the query: no such column: layer; .*reading \(.*source_layer/),
  );
  assert.throws(
    () => query(path, 'SELECT nowhere'),
    failure('bad_input', /^SQLite refuses the query: no such column: nowhere; .*token \(model_id/),
  );
  assert.throws(
    () => query(path, 'SELEC 1'),
    failure('bad_input', /^SQLite refuses the query: near "SELEC": syntax error\.$/),
  );
  assert.throws(
    () => query(path, 'SELECT abs(-9223372036854775808)'),
    failure('bad_input', /integer overflow/),
  );
  for (const sql of ['SELECT ?', 'SELECT :name'])
    assert.throws(() => query(path, sql), failure('bad_input', /write values into the statement/));
});

test('a file that is not there is said to be missing and not made', (t) => {
  const home = folder(t);
  for (const path of [join(home, 'r.db'), join(home, 'no', 'r.db'), home])
    assert.throws(() => query(path, 'SELECT 1'), failure('store', /There is no results file/));
  assert.ok(!existsSync(join(home, 'r.db')));
  assert.throws(() => query(undefined as never, 'SELECT 1'), TypeError);
  assert.throws(() => query(home, undefined as never), TypeError);
});

test('a file that is not a database is said to be none', (t) => {
  const path = join(folder(t), 'r.db');
  writeFileSync(path, 'a,b\n'.repeat(2000));
  assert.throws(() => query(path, 'SELECT * FROM run'), failure('store', /r\.db is not a SQLite database/));
});

test('a blank file is said to have no tables', (t) => {
  const path = join(folder(t), 'r.db');
  writeFileSync(path, '');
  assert.throws(
    () => query(path, 'SELECT * FROM run'),
    failure('bad_input', /^SQLite refuses the query: no such table: run; the file has no tables\.$/),
  );
});

test('a damaged page is said to be damage', (t) => {
  const path = results(t);
  const bytes = readFileSync(path);
  const root = query(path, "SELECT rootpage FROM sqlite_schema WHERE name = 'run'").rows[0]?.[0];
  bytes.fill(0xa5, (Number(root) - 1) * 4096, Number(root) * 4096);
  writeFileSync(path, bytes);
  assert.throws(() => query(path, 'SELECT * FROM run'), failure('store', /r\.db is damaged/));
});

test('reading goes on while another process writes', (t) => {
  const path = results(t);
  const writer = openSqlite(path);
  t.after(() => writer.close());
  writer.exec("BEGIN IMMEDIATE; UPDATE run SET name = 'half'");
  assert.deepEqual(query(path, 'SELECT name FROM run').rows, [['patch']]);
  writer.exec('COMMIT');
  assert.deepEqual(query(path, 'SELECT name FROM run').rows, [['half']]);
});

test('a folder that SQLite may not write to is said to be the reason', {
  skip: process.platform === 'win32',
}, (t) => {
  const path = results(t);
  const home = join(path, '..');
  chmodSync(home, 0o555);
  const root = process.getuid?.() === 0;
  if (root) process.seteuid?.(65534);
  try {
    assert.throws(
      () => query(path, 'SELECT 1 FROM run'),
      failure('store', /r\.db cannot be opened: .*folder/),
    );
  } finally {
    if (root) process.seteuid?.(0);
    chmodSync(home, 0o755);
  }
});

// --- a query in a process of its own

const counting = 'WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)';

test('the parts of a query are the query, wherever they are cut', async (t) => {
  const path = results(t);
  const sql = `${counting} SELECT i, i + 9007199254740990, CAST(i AS TEXT), x'00ff', NULL FROM n LIMIT 700`;
  const cuts: QueryOptions[] = [0, 1, 255, 256, 257, 511, 512, 699, 700, 701].map((maxRows) => ({ maxRows }));
  for (const options of [{}, ...cuts]) {
    const parts = [];
    for await (const part of queryStream(path, sql, options)) parts.push(part);
    const whole = query(path, sql, options);
    assert.deepEqual(
      { ...parts.at(-1)!, rows: parts.flatMap(({ rows }) => rows) },
      { ...whole, rows: whole.rows.map((row) => row.map((value) => value)) },
      JSON.stringify(options),
    );
    assert.ok(parts.slice(0, -1).every(({ truncated }) => !truncated));
  }
});

test('a query without rows still has its columns', async (t) => {
  const parts = [];
  for await (const part of queryStream(results(t), 'SELECT id FROM run WHERE 0')) parts.push(part);
  assert.deepEqual(parts, [{ columns: ['id'], rows: [], truncated: false }]);
});

test('a query that does not end is ended at the time limit, with or without rows before', async (t) => {
  const path = results(t);
  for (const sql of [`${counting} SELECT count(*) FROM n`, `${counting} SELECT i FROM n WHERE i < 3`]) {
    const seen: unknown[] = [];
    await assert.rejects(
      async () => {
        for await (const { rows } of queryStream(path, sql, { timeoutMs: 300 })) seen.push(...rows);
      },
      failure('store', /^The query was ended at its time limit of 0\.3 s; .*--timeout/),
    );
    assert.deepEqual(seen, []);
  }
});

test('a query fails in its process as it does in this one', async (t) => {
  const path = results(t);
  for (const sql of ['SELECT * FROM readings', 'DELETE FROM run', 'SELECT 1; SELECT 2', 'SELEC'])
    await assert.rejects(
      () => queryStream(path, sql).next(),
      (error: Error & { code: string }) => {
        assert.throws(
          () => query(path, sql),
          (direct: typeof error) => direct.message === error.message && direct.code === error.code,
        );
        return error.name === 'PatchscopeError';
      },
    );
  await assert.rejects(() => queryStream(`${path}.none`, 'SELECT 1').next(), /There is no results file/);
  await assert.rejects(() => queryStream(path, 'SELECT 1', { timeoutMs: 0 }).next(), TypeError);
});

test('a large result needs no more memory than a small one', async (t) => {
  const sql = `${counting} SELECT i, printf('%1000d', i) FROM n LIMIT 300000`; // 300 MB
  const before = process.memoryUsage().rss;
  let most = before;
  let count = 0;
  for await (const { rows } of queryStream(results(t), sql)) {
    count += rows.length;
    most = Math.max(most, process.memoryUsage().rss);
  }
  assert.equal(count, 300_000);
  assert.ok(most - before < 120e6, `${Math.round((most - before) / 1e6)} MB`);
});

const mixed = {
  columns: ['name', 'n', 'p'],
  rows: [
    ['a', 1, 0.123456789],
    ['say "hi", twice\nor more', 9007199254740993n, null],
    ['', null, -9e-12],
  ],
  truncated: false,
} as const;

test('a table is aligned, on one line a row and without control characters', () => {
  assert.equal(
    formatTable(mixed),
    [
      'name                                     n         p',
      'a                                        1  0.123457',
      'say "hi", twice\\nor more  9007199254740993',
      '                                              -9e-12',
    ].join('\n'),
  );
  const hostile = '\u001b[31mred\u0007\t\u202eback\u2028';
  assert.equal(
    formatTable({ columns: ['a'], rows: [[hostile]], truncated: true }),
    'a\n\\u001b[31mred\\u0007\\t\\u202eback\\u2028\n(the first 1 rows; there are more)',
  );
  const long = formatTable({
    columns: ['a'],
    rows: [['😀'.repeat(200)]],
    truncated: false,
  });
  assert.equal(long, `a\n${'😀'.repeat(79)}…`);
  assert.equal(formatTable({ columns: ['a', 'b'], rows: [], truncated: false }), 'a  b');
  assert.equal(
    formatTable({
      columns: ['wide', 'b'],
      rows: [
        ['巴黎', Buffer.from([1, 171])],
        ['é', 'x'],
      ],
      truncated: false,
    }),
    'wide  b\n巴黎  01ab\né     x',
  );
});

test('CSV follows RFC 4180 and tells NULL from an empty text', () => {
  assert.equal(
    formatCsv(mixed),
    'name,n,p\r\na,1,0.123456789\r\n"say ""hi"", twice\nor more",9007199254740993,\r\n"",,-9e-12\r\n',
  );
  assert.equal(
    formatCsv({
      columns: ['a,b'],
      rows: [[Buffer.from([0, 255])]],
      truncated: true,
    }),
    '"a,b"\r\n00ff\r\n',
  );
});

test('JSON lines parse back to the values', () => {
  const lines = formatJsonLines(mixed).split('\n');
  assert.equal(lines.pop(), '');
  assert.equal(lines[1], '{"name":"say \\"hi\\", twice\\nor more","n":9007199254740993,"p":null}');
  assert.deepEqual(JSON.parse(lines[2] ?? ''), {
    name: '',
    n: null,
    p: -9e-12,
  });
  const odd = formatJsonLines({
    columns: ['up', 'down', 'bytes'],
    rows: [[Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Buffer.from([0, 255])]],
    truncated: false,
  });
  assert.deepEqual(JSON.parse(odd), {
    up: Number.POSITIVE_INFINITY,
    down: Number.NEGATIVE_INFINITY,
    bytes: '00ff',
  });
});
