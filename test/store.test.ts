import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { Database } from 'better-sqlite3';
import { migrations } from '../src/store/migrations.js';
import { openSqlite } from '../src/store/sqlite.js';
import { openStore, type Store } from '../src/store/store.js';
import { begin, cell, contents, failedCell, folder, model, runOf } from './store-records.js';

const sqliteModule = new URL('../src/store/sqlite.ts', import.meta.url).href;
const storeModule = new URL('../src/store/store.ts', import.meta.url).href;
const recordsModule = new URL('./store-records.ts', import.meta.url).href;

function open(test: TestContext, path: string): Store {
  const store = openStore(path, { lockWaitMs: 50 });
  test.after(() => store.close());
  return store;
}

function inspect<T>(path: string, work: (database: Database) => T): T {
  const database = openSqlite(path, { readonly: true });
  try {
    return work(database);
  } finally {
    database.close();
  }
}

function all(path: string, sql: string): Record<string, unknown>[] {
  return inspect(path, (database) => database.prepare<[], Record<string, unknown>>(sql).all());
}

function value(path: string, sql: string): unknown {
  return inspect(path, (database) => database.prepare(sql).pluck().get());
}

function schema(path: string) {
  return all(path, 'SELECT type, name, sql FROM sqlite_schema ORDER BY name');
}

/** A failure is one sentence with the file's name in it. */
function failure(code: string, sentence: RegExp) {
  return (error: unknown) => {
    assert.ok(error instanceof Error);
    assert.equal((error as { code?: unknown }).code, code);
    assert.equal(error.name, 'PatchscopeError');
    assert.match(error.message, sentence);
    assert.doesNotMatch(error.message, /\n/);
    return true;
  };
}

/** As a user who is bound by permissions, which root is not. */
function unprivileged(work: () => void): void {
  const root = process.getuid?.() === 0;
  if (root) process.seteuid?.(65534);
  try {
    work();
  } finally {
    if (root) process.seteuid?.(0);
  }
}

const plainly = { bos: 1, chat: 0, special: 0 };

test('what was added comes back', (t) => {
  const path = join(folder(t), 'new', 'deep', 'r.db');
  const store = open(t, path);
  const runId = begin(store);
  store.addChunk(runId, 0, [
    cell(),
    cell({ sourceLayer: 'embed', targetLayer: 'embed', targetSite: 'embed' }),
    cell({ sourceLayer: null, targetLayer: null, control: 'unpatched' }),
  ]);
  store.addChunk(runId, 1, [failedCell({ sample: 1, variant: 'other', control: 'random', draw: 2 })]);
  assert.deepEqual(store.doneChunks(runId), [0, 1]);
  store.finishRun(runId, 'done');
  store.close();

  assert.deepEqual(all(path, 'SELECT * FROM model'), [
    {
      id: 1,
      sha256: model.sha256,
      path: model.path,
      bytes: model.bytes,
      architecture: 'llama',
      name: 'Tiny',
      quantization: 'Q4_1',
      layers: 30,
      width: 576,
      vocabulary: 49152,
    },
  ]);
  const [run] = all(path, 'SELECT * FROM run');
  const { started_at, finished_at, ...rest } = run ?? {};
  assert.match(String(started_at), /^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
  assert.ok(String(finished_at) >= String(started_at));
  assert.deepEqual(rest, {
    id: 1,
    name: 'patch',
    command: "patchscopes patch --source 'Diana, princess'",
    experiment: '{"name":"patch","sourceLayers":"all"}',
    reading: '{"topK":2,"maxTokens":2,"stop":[]}',
    seed: 7,
    source_model_id: 1,
    target_model_id: 1,
    package: '0.1.0',
    llama_cpp: 'b1',
    backend: 'cpu',
    devices: '[{"name":"CPU","description":"a CPU","library":"libggml-cpu.so"}]',
    gpu_layers: 0,
    threads: 2,
    batch_tokens: 512,
    batch_rows: 128,
    batch_outputs: 256,
    cache_layout: 'unified',
    type_k: 'f16',
    type_v: 'f32',
    flash_attention: 1,
    exact: 0,
    status: 'done',
    cells_planned: 4,
    cells_failed: 1,
    split_mode: 'layer',
    source_engine: null,
    adapters: null,
    tolerance: 0.25,
    plan_sha256: 'ef'.repeat(32),
    experiment_source: 'name: patch # as typed',
    experiment_file: '{"name":"patch"}',
    chunks_planned: 2,
    shard_index: null,
    shard_count: null,
    host: 'here',
    addon: '0.2.0',
  });
  assert.deepEqual(all(path, 'SELECT * FROM prompt'), [
    ...[
      { text: 'Diana, princess', token_ids: '[1,20,300]', decoder_token_ids: null, ...plainly },
      { text: 'cat -> cat; x', token_ids: '[1,5,6,7]', decoder_token_ids: null, ...plainly, chat: 1 },
      { text: null, token_ids: '[9]', decoder_token_ids: '[0]', bos: null, chat: null, special: null },
    ].map((prompt, idx) => ({ run_id: 1, idx, ...prompt })),
  ]);
  assert.deepEqual(all(path, 'SELECT * FROM sample'), [
    {
      run_id: 1,
      idx: 0,
      name: 'Diana',
      group: 'title',
      answer: '["queen","princess"]',
      subject: 'her',
      class: 'royal',
    },
    { run_id: 1, idx: 1, name: 'ids', group: null, answer: null, subject: null, class: null },
  ]);
  const [first, second, third] = all(path, 'SELECT * FROM variant');
  assert.deepEqual(first, {
    run_id: 1,
    sample_idx: 0,
    name: 'default',
    source_prompt_idx: 0,
    source_side: null,
    source_position: 2,
    source_token_id: 300,
    source_token: ' princess',
    target_prompt_idx: 1,
    target_side: null,
    target_position: 3,
    target_token_id: 7,
    target_token: ' x',
    op: 'mix',
    alpha: 0.5,
    at_generated: 1,
    cuts: null,
    source_adapter: null,
    target_adapter: null,
    source_vector_idx: null,
    own_edits: null,
    contrast: null,
    decay: null,
    swept: 0,
    answer: null,
  });
  assert.deepEqual(
    [second, third].map((row) => [row?.sample_idx, row?.name, row?.source_side, row?.op, row?.at_generated]),
    [
      [1, 'default', 'encoder', 'replace', 0],
      [1, 'other', 'encoder', 'replace', 0],
    ],
  );
  const chunks = all(path, 'SELECT * FROM chunk');
  for (const { finished_at } of chunks) assert.match(String(finished_at), /^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
  assert.deepEqual(
    chunks.map(({ finished_at, ...chunk }) => chunk),
    [
      { run_id: 1, idx: 0, cells: 3 },
      { run_id: 1, idx: 1, cells: 1 },
    ],
  );
  const [patched, embed, unpatched, failed] = all(path, 'SELECT * FROM observation');
  assert.deepEqual(patched, {
    id: 1,
    run_id: 1,
    sample_idx: 0,
    variant: 'default',
    source_site: 'attn_out',
    site: 'resid_out',
    source_layer: 3,
    target_layer: 4,
    mapping_id: 1,
    control: 'none',
    draw: 0,
    status: 'ok',
    error: null,
    text: ' queen of',
    token_ids: '[11,12]',
    empty: 0,
    repetitive: 0,
    unprintable: 0,
    norm_ratio: null,
    differs: null,
    move_idx: 0,
  });
  assert.deepEqual([embed?.source_layer, embed?.target_layer], [-1, -1]);
  assert.deepEqual(
    [unpatched?.source_layer, unpatched?.target_layer, unpatched?.control],
    [null, null, 'unpatched'],
  );
  const { sample_idx, variant, control, draw, status, error, text } = failed ?? {};
  assert.deepEqual(
    [sample_idx, variant, control, draw, status, error, text],
    [1, 'other', 'random', 2, 'failed', 'not_finite: a logit is NaN', null],
  );
  assert.deepEqual(all(path, 'SELECT * FROM score WHERE observation_id IN (1, 4)'), [
    { observation_id: 1, name: 'answer-found', value: 1 },
    { observation_id: 1, name: 'answer-rank', value: 0 },
  ]);
  assert.deepEqual(all(path, 'SELECT * FROM token_score WHERE observation_id = 1'), [
    { observation_id: 1, step: 0, rank: 0, token_id: 11, logprob: -0.5 },
    { observation_id: 1, step: 0, rank: 1, token_id: 13, logprob: -2.25 },
    { observation_id: 1, step: 1, rank: 0, token_id: 12, logprob: -0.125 },
    { observation_id: 1, step: 1, rank: 1, token_id: 11, logprob: -3 },
  ]);
  assert.deepEqual(all(path, 'SELECT token_id, text FROM token'), [
    { token_id: 7, text: ' x' },
    { token_id: 9, text: 'nine' },
    { token_id: 11, text: ' queen' },
    { token_id: 12, text: ' of' },
    { token_id: 13, text: '"\n' },
    { token_id: 300, text: ' princess' },
  ]);
  assert.deepEqual(all(path, 'SELECT * FROM mapping'), [
    { id: 1, name: 'identity', kind: 'identity', sha256: null, record: null },
  ]);
});

test('the views read as sentences', (t) => {
  const path = join(folder(t), 'r.db');
  const store = open(t, path);
  const runId = begin(store);
  store.addChunk(runId, 0, [cell(), failedCell({ sample: 1 })]);
  store.finishRun(runId, 'interrupted');
  assert.deepEqual(
    all(
      path,
      `SELECT run_id, run_name, sample, "group", source_layer, target_layer, mapping, control,
				source_token, target_token, top_token, round(top_probability, 6) AS p, text, status, error
			FROM reading ORDER BY observation_id`,
    ),
    [
      {
        run_id: 1,
        run_name: 'patch',
        sample: 'Diana',
        group: 'title',
        source_layer: 3,
        target_layer: 4,
        mapping: 'identity',
        control: 'none',
        source_token: ' princess',
        target_token: ' x',
        top_token: ' queen',
        p: 0.606531,
        text: ' queen of',
        status: 'ok',
        error: null,
      },
      {
        run_id: 1,
        run_name: 'patch',
        sample: 'ids',
        group: null,
        source_layer: 3,
        target_layer: 4,
        mapping: 'identity',
        control: 'none',
        source_token: 'nine',
        target_token: ' x',
        top_token: null,
        p: null,
        text: null,
        status: 'failed',
        error: 'not_finite: a logit is NaN',
      },
    ],
  );
  assert.deepEqual(all(path, 'SELECT sample, step, rank, token, logprob FROM scored_token'), [
    { sample: 'Diana', step: 0, rank: 0, token: ' queen', logprob: -0.5 },
    { sample: 'Diana', step: 0, rank: 1, token: '"\n', logprob: -2.25 },
    { sample: 'Diana', step: 1, rank: 0, token: ' of', logprob: -0.125 },
    { sample: 'Diana', step: 1, rank: 1, token: ' queen', logprob: -3 },
  ]);
  assert.deepEqual(
    all(
      path,
      `SELECT run_id, status, source_model, target_quantization, seconds >= 0 AS timed,
				cells_planned, cells_stored, cells_failed FROM run_summary`,
    ),
    [
      {
        run_id: 1,
        status: 'interrupted',
        source_model: 'Tiny',
        target_quantization: 'Q4_1',
        timed: 1,
        cells_planned: 4,
        cells_stored: 2,
        cells_failed: 1,
      },
    ],
  );
});

test('source and target tokens belong to their own models', (t) => {
  const path = join(folder(t), 'r.db');
  const store = open(t, path);
  const [variant] = contents.variants;
  const runId = store.beginRun(runOf({ targetModel: { ...model, sha256: 'cd'.repeat(32) } }), {
    ...contents,
    variants: [{ ...variant!, source: { ...variant!.source, tokenId: 7, token: 'other' } }],
  });
  store.addChunk(runId, 0, [cell()]);
  assert.deepEqual(all(path, 'SELECT model_id, text FROM token WHERE token_id = 7'), [
    { model_id: 1, text: 'other' },
    { model_id: 2, text: ' x' },
  ]);
  assert.equal(value(path, 'SELECT top_token FROM reading'), ' queen');
});

test('an empty group is none', (t) => {
  const path = join(folder(t), 'r.db');
  const store = open(t, path);
  store.beginRun(runOf(), {
    prompts: [],
    samples: [{ name: 'a', group: '' }],
    variants: [],
  });
  assert.deepEqual(all(path, 'SELECT name, "group" FROM sample'), [{ name: 'a', group: null }]);
});

test('a model is known by its content', (t) => {
  const path = join(folder(t), 'r.db');
  const store = open(t, path);
  const models = [model, { ...model, path: 'elsewhere.gguf' }, { ...model, sha256: 'cd'.repeat(32) }];
  for (const one of models) store.beginRun(runOf({ sourceModel: one, targetModel: one }), contents);
  assert.deepEqual(all(path, 'SELECT source_model_id AS id FROM run'), [{ id: 1 }, { id: 1 }, { id: 2 }]);
  assert.equal(value(path, 'SELECT count(*) FROM model'), 2);
});

test('a cell and a chunk are stored once, and a chunk wholly or not at all', (t) => {
  const path = join(folder(t), 'r.db');
  const store = open(t, path);
  const runId = begin(store);
  const plain = { sourceLayer: null, targetLayer: null, control: 'unpatched' } as const;
  store.addChunk(runId, 0, [cell(), cell(plain)]);
  const fresh = failedCell({ sample: 1 });
  for (const changes of [{}, plain]) {
    assert.throws(
      () => store.addChunk(runId, 1, [fresh, cell({ ...changes, text: 'again' })]),
      failure('store', /already has this cell: sample 0.*source layer (3|null)/),
    );
  }
  assert.throws(() => store.addChunk(runId, 0, [fresh]), failure('store', /Run 1 already has chunk 0/));
  assert.deepEqual(store.doneChunks(runId), [0]);
  assert.equal(value(path, 'SELECT count(*) FROM observation'), 2);
  assert.equal(value(path, 'SELECT cells_failed FROM run'), 0);

  store.addChunk(runId, 1, [
    fresh,
    cell({ sample: 1, variant: 'other' }),
    cell({ sourceLayer: 2 }),
    cell({ targetLayer: 2 }),
    cell({ targetSite: 'embed' }),
    cell({ sourceSite: 'resid_out' }),
    cell({ control: 'random' }),
    cell({ control: 'random', draw: 1 }),
  ]);
  store.addChunk(begin(store), 0, [cell()]);
  assert.equal(value(path, 'SELECT count(*) FROM observation'), 11);
});

test('a chunk that was rolled back leaves its tokens to the next one', (t) => {
  const path = join(folder(t), 'r.db');
  const store = open(t, path);
  const runId = begin(store);
  const before = Number(value(path, 'SELECT count(*) FROM token'));
  assert.throws(() => store.addChunk(runId, 0, [cell(), cell()]));
  assert.equal(value(path, 'SELECT count(*) FROM token'), before);
  store.addChunk(runId, 0, [cell()]);
  assert.equal(value(path, 'SELECT count(*) FROM token'), before + 3);
});

test('foreign keys hold', (t) => {
  const path = join(folder(t), 'r.db');
  const store = open(t, path);
  const runId = begin(store);
  for (const changes of [{ sample: 2 }, { variant: 'other' }]) {
    assert.throws(
      () => store.addChunk(runId, 0, [cell(changes)]),
      failure('store', /has no variant "(default|other)" of sample [02]; give beginRun/),
    );
  }
  assert.throws(
    () => store.addChunk(runId, 0, [cell({ mapping: 'ridge' })]),
    failure('store', /no mapping "ridge"/),
  );
  const noRun = failure('store', /no run 99 in .*r\.db/);
  assert.throws(() => store.addChunk(99, 0, [cell()]), noRun);
  assert.throws(() => store.finishRun(99, 'done'), noRun);
  assert.throws(() => store.resumeRun(99), noRun);
  assert.throws(() => store.aggregate(99), noRun);
  const [variant] = contents.variants;
  for (const wrong of [{ sample: 5 }, { source: { ...variant!.source, prompt: 5 } }]) {
    const variants = [{ ...variant!, ...wrong }];
    assert.throws(() => store.beginRun(runOf(), { ...contents, variants }), failure('store', /FOREIGN KEY/));
  }
  assert.equal(value(path, 'SELECT count(*) FROM run'), 1);
});

test('what has no place in a column is refused', (t) => {
  const path = join(folder(t), 'r.db');
  const store = open(t, path);
  const runId = begin(store);
  const notFinite = [{ tokenId: 1, token: 'a', logprob: Number.NaN, rank: 0 }];
  const bad = [
    cell({ steps: [notFinite] }),
    cell({ sourceLayer: -2 }),
    cell({ targetLayer: 0.5 }),
    cell({ targetLayer: null }),
    cell({ control: 'other' as never }),
    cell({ scores: { 'answer-rank': Number.NaN } }),
    cell({ error: 'but ok' }),
    failedCell({ error: null }),
  ];
  for (const observation of bad)
    assert.throws(
      () => store.addChunk(runId, 0, [observation]),
      failure('store', /refused.*constraint|cannot store/),
    );
  assert.throws(() => store.addChunk(runId, -1, [cell()]), failure('store', /refused.*constraint/));
  assert.equal(value(path, 'SELECT count(*) FROM observation'), 0);
  assert.equal(value(path, 'SELECT count(*) FROM chunk'), 0);
  store.addChunk(runId, 0, [
    cell({
      steps: [[{ tokenId: 1, token: 'a', logprob: Number.NEGATIVE_INFINITY, rank: 0 }]],
    }),
  ]);
  assert.equal(value(path, 'SELECT top_probability FROM reading'), 0);
});

test('deleting a run takes all that is its own along, and the last one its model', (t) => {
  const path = join(folder(t), 'r.db');
  const store = open(t, path);
  const other = { ...model, sha256: 'cd'.repeat(32) };
  const runs = [begin(store), begin(store), begin(store, { sourceModel: other, targetModel: other })];
  const rows = () =>
    Object.fromEntries(
      all(path, "SELECT name FROM sqlite_schema WHERE type = 'table'").map(({ name }) => [
        name,
        value(path, `SELECT count(*) FROM ${name}`),
      ]),
    );
  for (const runId of runs) {
    store.addChunk(runId, 0, [cell(), failedCell({ sample: 1 })]);
    store.aggregate(runId);
  }
  store.close();
  const three = rows();
  const remove = (runId: number) => {
    const database = openSqlite(path);
    database.prepare('DELETE FROM run WHERE id = ?').run(runId);
    assert.deepEqual(database.pragma('foreign_key_check'), []);
    database.close();
  };
  remove(runs[0]!);
  const own = [
    'prompt',
    'sample',
    'variant',
    'chunk',
    'observation',
    'token_score',
    'score',
    'metric',
    'run',
  ];
  for (const table of own) {
    assert.ok(Number(three[table]) > 0, table);
    assert.equal(Number(rows()[table]) * 3, Number(three[table]) * 2, table);
  }
  assert.equal(rows().model, 2);
  assert.equal(rows().token, three.token);
  for (const runId of runs.slice(1)) remove(runId);
  const { migration, mapping, ...emptied } = rows();
  assert.deepEqual([migration, mapping], [migrations.length, 1]);
  for (const [table, count] of Object.entries(emptied)) assert.equal(count, 0, table);
});

test('a run after another process deleted the last one has its tokens', (t) => {
  const path = join(folder(t), 'r.db');
  const store = open(t, path);
  store.addChunk(begin(store), 0, [cell()]);
  const tokens = value(path, 'SELECT count(*) FROM token');
  const database = openSqlite(path);
  database.exec('DELETE FROM run');
  database.close();
  assert.equal(value(path, 'SELECT count(*) FROM token'), 0);
  store.addChunk(begin(store), 0, [cell()]);
  assert.equal(value(path, 'SELECT count(*) FROM token'), tokens);
});

test('migrations from blank are idempotent and a second open changes nothing', (t) => {
  const path = join(folder(t), 'r.db');
  writeFileSync(path, '');
  openStore(path).close();
  const first = schema(path);
  const bytes = readFileSync(path);
  openStore(path).close();
  assert.deepEqual(schema(path), first);
  assert.deepEqual(readFileSync(path), bytes);
  assert.deepEqual(
    all(path, 'SELECT name FROM migration'),
    migrations.map(({ name }) => ({ name })),
  );
  assert.equal(value(path, 'PRAGMA journal_mode'), 'wal');
});

test('the schema carries its own comments', (t) => {
  const path = join(folder(t), 'r.db');
  openStore(path).close();
  for (const { name, sql } of schema(path))
    if (sql !== null) assert.match(String(sql), /\n {2}--/, String(name));
  assert.match(String(value(path, "SELECT sql FROM sqlite_schema WHERE name = 'reading'")), /-1 is embed/);
});

test('several processes may make one file at once', async (t) => {
  const path = join(folder(t), 'r.db');
  const children = Array.from({ length: 4 }, () =>
    child(`const store = openStore(${JSON.stringify(path)}); begin(store); store.close();`),
  );
  const exits = await Promise.all(children.map((writer) => once(writer, 'exit')));
  assert.deepEqual(
    exits.map(([code]) => code),
    [0, 0, 0, 0],
  );
  assert.equal(value(path, 'SELECT count(*) FROM run'), 4);
  assert.equal(value(path, 'SELECT count(*) FROM migration'), migrations.length);
});

test('without SQLite for this Node the way to install it is said', (t) => {
  const path = join(folder(t), 'r.db');
  const { stdout, stderr } = spawnSync(
    process.execPath,
    childArguments(`
			const { default: Module } = await import("node:module");
			const resolve = Module._resolveFilename;
			Module._resolveFilename = (name, ...rest) => resolve(name.replace(/^better-sqlite3.*/, "$&-missing"), ...rest);
			try {
				openStore(${JSON.stringify(path)});
			} catch (error) {
				console.log(error.code + ": " + error.message);
			}`),
    { encoding: 'utf8' },
  );
  assert.match(
    stdout,
    /^store: .*r\.db cannot be opened: better-sqlite3 is not installed for this version of Node; run npm install again/,
    stderr,
  );
  assert.equal(existsSync(path), false);
});

test('kill -9 loses no committed chunk and corrupts nothing', async (t) => {
  const path = join(folder(t), 'r.db');
  const size = 20;
  const endless = `
		const store = openStore(${JSON.stringify(path)});
		const runId = begin(store);
		for (let batch = 0; ; batch++) {
			store.addChunk(
				runId,
				batch,
				Array.from({ length: ${size} }, (_, layer) =>
					cell({ control: "random", draw: batch, sourceLayer: layer })),
			);
			writeSync(1, runId + "\\n");
		}`;
  for (const acknowledged of [0, 1, 50, 300]) {
    const writer = child(endless);
    let committed = 0;
    for await (const chunk of writer.stdout) {
      committed += String(chunk).split('\n').length - 1;
      if (committed >= acknowledged) writer.kill('SIGKILL');
    }
    assert.ok(committed >= acknowledged);
    const runId = value(path, 'SELECT max(id) FROM run');
    const stored = Number(value(path, `SELECT count(*) FROM observation WHERE run_id = ${runId}`));
    assert.ok(stored >= committed * size, `${stored} of ${committed} chunks`);
    assert.equal(stored, size * Number(value(path, `SELECT count(*) FROM chunk WHERE run_id = ${runId}`)));
    assert.equal(
      value(path, 'SELECT count(*) FROM token_score'),
      4 * Number(value(path, 'SELECT count(*) FROM observation')),
    );
    assert.equal(value(path, 'PRAGMA integrity_check'), 'ok');
    assert.deepEqual(all(path, 'PRAGMA foreign_key_check'), []);
    assert.equal(value(path, `SELECT status FROM run WHERE id = ${runId}`), 'running');
  }
});

test('close is idempotent and what follows says so', (t) => {
  const path = join(folder(t), 'r.db');
  const store = openStore(path);
  const runId = begin(store);
  store.close();
  store.close();
  assert.ok(!existsSync(`${path}-wal`));
  assert.throws(() => store.addChunk(runId, 0, [cell()]), failure('closed', /r\.db is closed/));
  assert.throws(() => begin(store), failure('closed', /is closed/));
  assert.throws(() => store.doneChunks(runId), failure('closed', /is closed/));
});

test('a file of a newer version is refused and left alone', (t) => {
  const path = join(folder(t), 'r.db');
  openStore(path).close();
  const database = openSqlite(path);
  database.exec("INSERT INTO migration VALUES ('m999_future', 'then')");
  database.close();
  const bytes = readFileSync(path);
  assert.throws(() => openStore(path), failure('store', /r\.db was made by a newer version.*m999_future/));
  assert.deepEqual(readFileSync(path), bytes);
});

test('a database of another program is refused and left alone', (t) => {
  const path = join(folder(t), 'r.db');
  const database = openSqlite(path);
  database.exec('CREATE TABLE run (a); INSERT INTO run VALUES (1)');
  database.close();
  const bytes = readFileSync(path);
  assert.throws(() => openStore(path), failure('store', /r\.db is a database of another program/));
  assert.deepEqual(readFileSync(path), bytes);
});

test('what is not a database is refused and left alone', (t) => {
  const path = join(folder(t), 'r.db');
  writeFileSync(path, 'name,value\n'.repeat(1000));
  const bytes = readFileSync(path);
  assert.throws(() => openStore(path), failure('store', /r\.db is not a SQLite database/));
  assert.deepEqual(readFileSync(path), bytes);
});

test('a damaged file is refused', (t) => {
  const path = join(folder(t), 'r.db');
  openStore(path).close();
  truncateSync(path, 5000);
  assert.throws(() => openStore(path), failure('store', /r\.db is damaged/));
});

test('a locked file is waited for, then refused', (t) => {
  const path = join(folder(t), 'r.db');
  const store = open(t, path);
  const runId = begin(store);
  const other = openSqlite(path);
  t.after(() => other.close());
  other.exec('BEGIN IMMEDIATE');
  assert.throws(
    () => store.addChunk(runId, 0, [cell()]),
    failure('store', /r\.db is locked by another process/),
  );
  other.exec('COMMIT');
  store.addChunk(runId, 0, [cell()]);
  assert.equal(value(path, 'SELECT count(*) FROM observation'), 1);
});

test('a blank file that is locked is refused', (t) => {
  const path = join(folder(t), 'r.db');
  const other = openSqlite(path);
  t.after(() => other.close());
  other.exec('BEGIN EXCLUSIVE');
  assert.throws(
    () => openStore(path, { lockWaitMs: 50 }),
    failure('store', /r\.db is locked by another process/),
  );
});

test('a folder or file without permission is refused', {
  skip: process.platform === 'win32',
}, (t) => {
  const home = folder(t);
  chmodSync(home, 0o555);
  const inside = join(home, 'r.db');
  const below = join(home, 'new', 'r.db');
  unprivileged(() => {
    for (const path of [inside, below])
      assert.throws(() => openStore(path), failure('store', /r\.db cannot be opened: .*write/));
  });
  assert.ok(!existsSync(inside));

  const readOnly = join(folder(t), 'r.db');
  openStore(readOnly).close();
  chmodSync(readOnly, 0o444);
  chmodSync(join(readOnly, '..'), 0o777);
  unprivileged(() => {
    const store = () => begin(openStore(readOnly));
    assert.throws(store, failure('store', /r\.db cannot be opened: .*write/));
  });
  chmodSync(home, 0o755);
});

test('a path that cannot be a file is refused', (t) => {
  const home = folder(t);
  mkdirSync(join(home, 'taken'));
  writeFileSync(join(home, 'file'), '');
  assert.throws(() => openStore(join(home, 'taken')), failure('store', /taken is a folder/));
  assert.throws(
    () => openStore(join(home, 'file', 'r.db')),
    failure('store', /folder of .*r\.db cannot be made/),
  );
  assert.throws(() => openStore(''), failure('bad_input', /empty/));
  assert.throws(() => openStore(undefined as never), TypeError);
});

test('a value that no column holds is misuse, and nothing of it is stored', (t) => {
  const path = join(folder(t), 'r.db');
  const store = open(t, path);
  const runId = begin(store);
  for (const text of [[1, 2], Array(600)]) {
    assert.throws(() => store.addChunk(runId, 0, [cell({ text: text as never })]), TypeError);
  }
  assert.equal(value(path, 'SELECT count(*) FROM observation'), 0);
});

test('a full disk ends in one sentence and keeps what was stored', (t) => {
  const home = folder(t);
  const path = join(home, 'r.db');
  const mounted = spawnSync(
    'unshare',
    [
      '--map-root-user',
      '--mount',
      'sh',
      '-c',
      'mount -t tmpfs -o size=1m none "$0" && exec "$@"',
      home,
      process.execPath,
      ...childArguments(`
				const path = ${JSON.stringify(path)};
				const store = openStore(path);
				const runId = begin(store);
				let batch = 0;
				let message = "";
				try {
					for (; ; batch++)
						store.addChunk(
							runId,
							batch,
							Array.from({ length: 100 }, (_, layer) =>
								cell({ control: "random", draw: batch, sourceLayer: layer })),
						);
				} catch (error) {
					message = error.code + ": " + error.message;
				}
				store.close();
				const database = openSqlite(path, { readonly: true });
				const pluck = (sql) => database.prepare(sql).pluck().get();
				console.log(JSON.stringify({
					message,
					lost: batch * 100 - pluck("SELECT count(*) FROM observation"),
					integrity: pluck("PRAGMA integrity_check"),
				}));`),
    ],
    { encoding: 'utf8' },
  );
  if (mounted.error !== undefined || /unshare:|mount:/.test(mounted.stderr)) {
    t.skip('no small file system can be mounted here');
    return;
  }
  const { message, lost, integrity } = JSON.parse(mounted.stdout);
  assert.match(message, /^store: The disk is full: .*r\.db/);
  assert.equal(lost, 0);
  assert.equal(integrity, 'ok');
});

/** Another process with the store and the records of these tests. */
function child(script: string) {
  return spawn(process.execPath, childArguments(script), {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
}

function childArguments(script: string): string[] {
  return [
    '--import',
    'tsx',
    '--input-type=module',
    '--eval',
    `import { writeSync } from "node:fs";
		const { openSqlite } = await import(${JSON.stringify(sqliteModule)});
		const { openStore } = await import(${JSON.stringify(storeModule)});
		const { begin, cell } = await import(${JSON.stringify(recordsModule)});
		${script}`,
  ];
}
