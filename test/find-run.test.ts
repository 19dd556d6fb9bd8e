/** Which run goes on, what keeps one from it, and runs of several processes in one file. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { RunRecord } from '../src/store/records.js';
import { openSqlite } from '../src/store/sqlite.js';
import { openStore, type Store } from '../src/store/store.js';
import { begin, cell, engine, folder, model, runOf } from './store-records.js';

function open(test: TestContext): { store: Store; path: string } {
  const path = join(folder(test), 'r.db');
  const store = openStore(path);
  test.after(() => store.close());
  return { store, path };
}

function badInput(sentence: RegExp) {
  return (error: unknown) => {
    assert.ok(error instanceof Error);
    assert.equal((error as { code?: unknown }).code, 'bad_input');
    assert.match(error.message, sentence);
    return true;
  };
}

test('the newest unfinished run that fits goes on, with the chunks it has', (t) => {
  const { store } = open(t);
  const wanted = runOf();
  assert.equal(store.findRun(wanted), undefined);
  const runs = [0, 1, 2, 3].map(() => begin(store));
  store.addChunk(runs[1]!, 4, [cell()]);
  store.addChunk(runs[1]!, 1, [cell({ sample: 1 })]);
  store.finishRun(runs[3]!, 'done');
  begin(store, { name: 'other' });
  begin(store, { shard: { index: 1, count: 2 } });
  assert.deepEqual(store.findRun(wanted), { runId: runs[2], doneChunks: [] });
  store.finishRun(runs[2]!, 'done');
  assert.deepEqual(store.findRun(wanted), { runId: runs[1], doneChunks: [1, 4] });
  assert.deepEqual(store.findRun(wanted, runs[0]), { runId: runs[0], doneChunks: [] });
  for (const status of ['failed', 'interrupted'] as const) {
    store.finishRun(runs[0]!, status);
    assert.deepEqual(store.findRun(wanted, runs[0]), { runId: runs[0], doneChunks: [] });
  }
  const later = begin(store, { seed: 8, experiment: { name: 'patch', sourceLayers: '3' } });
  assert.deepEqual(store.findRun(wanted)?.runId, runs[1], `not ${later}, which is another experiment`);
});

test('each shard finds its own run', (t) => {
  const { store } = open(t);
  const shard = (index: number) => ({ shard: { index, count: 3 } });
  const runs = [1, 2].map((index) => begin(store, shard(index)));
  runs.forEach((runId, i) => {
    assert.equal(store.findRun(runOf(shard(i + 1)))?.runId, runId);
  });
  assert.equal(store.findRun(runOf()), undefined);
  assert.equal(store.findRun(runOf(shard(3))), undefined);
  assert.throws(
    () => store.findRun(runOf(shard(2)), runs[0]),
    badInput(/Run 1 in .* can't go on: shard_index was 1 and is 2\.$/),
  );
});

test('what differs is said, and nothing goes on', (t) => {
  const { store } = open(t);
  const runId = begin(store);
  const wanted = runOf();
  const otherModel = { ...model, sha256: 'cd'.repeat(32), path: 'models/other.gguf' };
  const cases: readonly (readonly [Partial<RunRecord>, RegExp])[] = [
    [{ engine: { ...engine, threads: 3 } }, /can't go on: threads was 2 and is 3\.$/],
    [{ addon: '0.3.0' }, /addon was 0\.2\.0 and is 0\.3\.0/],
    [{ cacheLayout: 'streams' }, /cache_layout was unified and is streams/],
    [{ engine: { ...engine, exact: true } }, /exact was 0 and is 1/],
    [{ planSha256: '00' }, /can't go on: its plan was another\.$/],
    [
      { planSha256: '00', engine: { ...engine, batchRows: 1 } },
      /can't go on: batch_rows was 128 and is 1\.$/,
    ],
    [
      { sourceModel: otherModel },
      /the source model was models\/tiny\.gguf \(sha256 abababababab\) and is models\/other\.gguf \(sha256 cdcdcdcdcdcd\)\.$/,
    ],
    [
      { experiment: { name: 'patch', sourceLayers: '1', samples: [] } },
      /sourceLayers of the experiment was all and is 1, samples of the experiment changed\.$/,
    ],
    [
      { experiment: { name: 'patch', sourceLayers: 'all', seed: 0 } },
      /: seed of the experiment was not given and is 0\.$/,
    ],
  ];
  for (const [changes, sentence] of cases) {
    for (const which of [undefined, runId]) {
      assert.throws(() => store.findRun({ ...wanted, ...changes }, which), badInput(sentence));
    }
  }
  const sameInAnotherOrder = { experiment: { sourceLayers: 'all', name: 'patch' } };
  assert.equal(store.findRun({ ...wanted, ...sameInAnotherOrder, host: 'elsewhere' })?.runId, runId);
});

test('a run that is not there or is done does not go on', (t) => {
  const { store } = open(t);
  const runId = begin(store);
  store.finishRun(runId, 'done');
  const wanted = runOf();
  assert.throws(() => store.findRun(wanted, 99), badInput(/^There is no run 99 in .*r\.db\.$/));
  assert.throws(() => store.findRun(wanted, runId), badInput(/^Run 1 in .*r\.db is done; there is nothing/));
  assert.equal(store.findRun(wanted), undefined);
});

test('a run that goes on is running again, until it ends', (t) => {
  const { store, path } = open(t);
  const runId = begin(store);
  store.finishRun(runId, 'interrupted');
  store.resumeRun(runId);
  const database = openSqlite(path, { readonly: true });
  t.after(() => database.close());
  const status = database.prepare('SELECT status, finished_at FROM run');
  assert.deepEqual(status.get(), { status: 'running', finished_at: null });
});

test('runs of several processes go into one file at once', async (t) => {
  const { store, path } = open(t);
  const chunks = 60;
  const url = (file: string) => JSON.stringify(new URL(file, import.meta.url).href);
  const writers = [1, 2, 3].map((shard) =>
    spawn(
      process.execPath,
      [
        ...['--import', 'tsx', '--input-type=module', '--eval'],
        `const { openStore } = await import(${url('../src/store/store.ts')});
        const { begin, cell } = await import(${url('./store-records.ts')});
        const store = openStore(${JSON.stringify(path)});
        const runId = begin(store, { shard: { index: ${shard}, count: 3 } });
        for (let chunk = 0; chunk < ${chunks}; chunk++)
          store.addChunk(runId, chunk, Array.from({ length: 20 }, (_, draw) =>
            cell({ control: "random", sourceLayer: chunk, draw })));
        store.aggregate(runId);
        store.finishRun(runId, "done");
        store.close();`,
      ],
      { stdio: ['ignore', 'inherit', 'inherit'] },
    ),
  );
  const exits = await Promise.all(writers.map((writer) => once(writer, 'exit')));
  assert.deepEqual(
    exits.map(([code]) => code),
    [0, 0, 0],
  );
  const database = openSqlite(path, { readonly: true });
  t.after(() => database.close());
  assert.deepEqual(
    database
      .prepare(
        'SELECT shard_index, run.status, count(*) AS cells FROM run JOIN observation ON run_id = run.id GROUP BY 1',
      )
      .all(),
    [1, 2, 3].map((shard_index) => ({ shard_index, status: 'done', cells: chunks * 20 })),
  );
  assert.deepEqual(database.pragma('integrity_check'), [{ integrity_check: 'ok' }]);
  assert.equal(store.doneChunks(1).length, chunks);
});

test('two processes that go on with one run: the second is told, and nothing of it is stored', (t) => {
  const { store, path } = open(t);
  const runId = begin(store);
  const second = openStore(path);
  t.after(() => second.close());
  const found = [store, second].map((each) => each.findRun(runOf())?.runId);
  assert.deepEqual(found, [runId, runId]);
  store.addChunk(runId, 0, [cell()]);
  assert.throws(
    () => second.addChunk(runId, 0, [cell(), cell({ sample: 1 })]),
    /Run 1 already has chunk 0; .*two processes can't go on with one run/,
  );
  second.addChunk(runId, 1, [cell({ sample: 1 })]);
  assert.deepEqual(store.doneChunks(runId), [0, 1]);
});
