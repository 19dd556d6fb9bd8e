/** Files of every older version are brought to the newest schema with all that was in them. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { Database } from 'better-sqlite3';
import { migrations } from '../src/store/migrations.js';
import { openSqlite } from '../src/store/sqlite.js';
import { openStore } from '../src/store/store.js';
import { begin, cell, contents, folder, model, runOf } from './store-records.js';

type Rows = readonly Record<string, unknown>[];

const run = (id: number, name: string, status: string) =>
  `INSERT INTO run (id, name, command, experiment, reading, seed, source_model_id, target_model_id, package, llama_cpp,
    backend, devices, gpu_layers, threads, batch_tokens, batch_rows, batch_outputs, cache_layout, type_k, type_v,
    flash_attention, exact, started_at, finished_at, status, cells_planned, cells_failed)
  VALUES (${id}, '${name}', 'patchscopes patch', '{"a":1}', '{"topK":2}', 3, 1, 2, '0.1.0', 'b1', 'cpu', '[]', 0, 1,
    512, 128, 256, 'unified', 'f16', 'f16', 1, 0, '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:02.500Z', '${status}', 9, 1);`;

/** Two runs of three samples; the target prompt is shared, and the last sample was not reached. */
const common = `
  INSERT INTO model VALUES (1, 'abc', 'm.gguf', 1, 'llama', 'Tiny', 'F16', 2, 4, 8);
  INSERT INTO model VALUES (2, 'def', 't5.gguf', 1, 't5', 'Tiny T5', 'F16', 2, 4, 8);
  INSERT INTO token VALUES (1, 1, 'a'), (1, 7, 'seven'), (2, 2, 'b'), (2, 3, 'c'), (2, 4, 'd');
  INSERT INTO mapping VALUES (2, 'other', 'linear');
  ${run(1, 'patch', 'done')}
  ${run(2, 'logit-lens', 'interrupted')}
  INSERT INTO sample VALUES (1, 0, 'one', 'a', '[1]', 'b', '[2]'), (1, 1, 'two', NULL, '[1]', 'b', '[2]'),
    (1, 2, 'three', 'three', '[3]', 'b', '[2]'), (2, 0, 'lens', 'a', '[1]', 'a', '[1]');`;

const scores = `
  INSERT INTO token_score SELECT id, 0, 0, 3, -0.25 FROM observation WHERE status = 'ok';
  INSERT INTO token_score SELECT id, 0, 1, 4, -1.5 FROM observation WHERE status = 'ok';
  INSERT INTO token_score SELECT id, 1, 0, 2, -0.125 FROM observation WHERE id = 1;`;

/** run, sample, variant, source layer, target layer, mapping, control, draw, positions and tokens, status, error, text, ids */
const cells = [
  `(1, 0, '0->0', -1, 1, 1, 'none', 0, 0, 1, 'a', 0, 2, 'b', 'ok', NULL, 'c', '[3]'`,
  `(1, 0, '0->0', 0, 1, 1, 'none', 0, 0, 1, 'a', 0, 2, 'b', 'failed', 'not_finite: NaN', NULL, '[]'`,
  `(1, 1, '0->0', 0, -1, 2, 'none', 0, 0, 1, 'a', 0, 2, 'b', 'ok', NULL, 'c', '[3]'`,
  `(1, 1, 'encoder 0->0', 0, 1, 1, 'none', 0, 0, 1, 'a', 0, 2, 'b', 'ok', NULL, 'c', '[3]'`,
  `(2, 0, '0->0', 1, 1, 1, 'none', 0, 0, 1, 'a', 0, 1, 'a', 'ok', NULL, 'c', '[3,4]'`,
  `(2, 0, '3->encoder 4', 1, 1, 1, 'none', 0, 3, 7, 'seven', 4, 7, 'seven', 'ok', NULL, 'c', '[3]'`,
];
const columns = `run_id, sample_idx, variant, source_layer, target_layer, mapping_id, control, draw, source_position,
  source_token_id, source_token, target_position, target_token_id, target_token, status, error, text, token_ids, site`;

/** What each older version wrote. */
const versions = [
  {
    sql: `${common}
      ${cells.map((values) => `INSERT INTO observation (${columns}, alpha) VALUES ${values}, 'resid_out', NULL);`).join('\n')}
      ${scores}`,
    patched: `'replace' AS op, 1.0 AS alpha, 0 AS at_generated,
      CASE source_layer WHEN -1 THEN 'embed' ELSE 'resid_out' END AS source_site`,
  },
  {
    sql: `${common}
      ${cells
        .map(
          (values, i) => `INSERT INTO observation (${columns}, op, alpha, at_generated, source_site)
            VALUES ${values.replace("'0->0'", i < 2 ? "'0->0'" : "'mlp_out 0->0'")}, 'resid_mid',
            ${i < 2 ? "'add', 0.5, 1, 'embed'" : "'replace', 1, 0, 'mlp_out'"});`,
        )
        .join('\n')}
      UPDATE run SET split_mode = 'none', tolerance = 0.5;
      ${scores}`,
    patched: 'op, alpha, at_generated, source_site',
  },
];

/** A file of the version that knew this many migrations. */
function oldFile(test: TestContext, version: number): string {
  const path = join(folder(test), 'r.db');
  const database = openSqlite(path);
  database.pragma('application_id = 1347634000'); // PSCP
  for (const { name, sql } of migrations.slice(0, version)) {
    database.exec(sql);
    database.prepare("INSERT INTO migration VALUES (?, 'then')").run(name);
  }
  database.exec(versions[version - 1]!.sql);
  database.pragma('journal_mode = WAL');
  database.close();
  return path;
}

function ask<Result>(path: string, work: (database: Database) => Result): Result {
  const database = openSqlite(path);
  try {
    return work(database);
  } finally {
    database.close();
  }
}

const all = (path: string, sql: string): Rows =>
  ask(path, (database) => database.prepare<[], Record<string, unknown>>(sql).all());

const observationColumns = columns.split(/,\s*/).map((column) => column.trim());

const contentsBefore = (patched: string) => ({
  cells: `SELECT id, ${observationColumns.join(', ')}, ${patched},
      source_prompt, source_token_ids, target_prompt, target_token_ids
    FROM observation JOIN sample USING (run_id)
    WHERE sample.idx = sample_idx ORDER BY id`,
  samples: 'SELECT run_id, idx, name FROM sample ORDER BY run_id, idx',
  prompts: `SELECT DISTINCT run_id, text, ids FROM (
      SELECT run_id, source_prompt AS text, source_token_ids AS ids FROM sample
      UNION ALL SELECT run_id, target_prompt, target_token_ids FROM sample)
    ORDER BY run_id, text, ids`,
});

const placed = /^(source|target)_(position|token)/;
const contentsAfter = {
  cells: `SELECT id,
      ${observationColumns.map((column) => `${placed.test(column) ? 'variant' : 'observation'}.${column}`).join(', ')},
      op, alpha, at_generated, source_site,
      source.text AS source_prompt, source.token_ids AS source_token_ids,
      target.text AS target_prompt, target.token_ids AS target_token_ids
    FROM observation
    JOIN variant ON variant.run_id = observation.run_id AND variant.sample_idx = observation.sample_idx
      AND variant.name = observation.variant
    JOIN prompt AS source ON source.run_id = variant.run_id AND source.idx = source_prompt_idx
    JOIN prompt AS target ON target.run_id = variant.run_id AND target.idx = target_prompt_idx
    ORDER BY id`,
  samples: 'SELECT run_id, idx, name FROM sample ORDER BY run_id, idx',
  prompts: 'SELECT run_id, text, token_ids AS ids FROM prompt ORDER BY run_id, text, ids',
};

versions.forEach(({ patched }, i) => {
  const version = i + 1;

  test(`a file of version ${version} keeps all that was in it`, (t) => {
    const path = oldFile(t, version);
    const views = ['reading', 'latest_reading', 'scored_token', 'run_summary'];
    const before = new Map([
      ...Object.entries(contentsBefore(patched)).map(([name, sql]) => [name, all(path, sql)] as const),
      ...[...views, 'token', 'token_score', 'model', 'mapping', 'run'].map(
        (name) => [name, all(path, `SELECT * FROM ${name}`)] as const,
      ),
    ]);
    openStore(path).close();

    for (const [name, rows] of before) {
      assert.ok(rows.length > 0, name);
      const sql = (contentsAfter as Record<string, string>)[name];
      const kept = Object.keys(rows[0]!).map((column) => `"${column}"`);
      assert.deepEqual(all(path, sql ?? `SELECT ${kept.join(', ')} FROM ${name}`), rows, name);
    }
    assert.deepEqual(all(path, 'PRAGMA foreign_key_check'), []);
    assert.deepEqual(all(path, 'PRAGMA integrity_check'), [{ integrity_check: 'ok' }]);
    assert.deepEqual(
      all(
        path,
        `SELECT run_id, sample_idx, name, source_side, target_side FROM variant WHERE name GLOB '*encoder*'`,
      ),
      [
        { run_id: 1, sample_idx: 1, name: 'encoder 0->0', source_side: 'encoder', target_side: null },
        { run_id: 2, sample_idx: 0, name: '3->encoder 4', source_side: null, target_side: 'encoder' },
      ],
    );
    assert.deepEqual(
      all(path, 'SELECT idx, text FROM prompt WHERE run_id = 1 ORDER BY idx').map(({ text }) => text),
      ['a', 'b', null, 'three'],
    );
  });

  test(`a file of version ${version} takes new runs, and its own go with all they had`, (t) => {
    const path = oldFile(t, version);
    const store = openStore(path);
    t.after(() => store.close());
    const runId = begin(store, { name: 'logit-lens' });
    store.addChunk(runId, 0, [cell()]);
    assert.deepEqual(store.doneChunks(2), []);
    const again = runOf({ name: 'logit-lens' });
    assert.equal(store.findRun(again)?.runId, runId);
    assert.throws(() => store.findRun(again, 2), /Run 2 in .*r\.db was made by an older version/);
    ask(path, (database) => database.exec('DELETE FROM run WHERE id < 3'));
    for (const table of ['sample', 'prompt', 'variant', 'observation']) {
      assert.deepEqual(all(path, `SELECT DISTINCT run_id FROM ${table}`), [{ run_id: runId }], table);
    }
    assert.deepEqual(all(path, 'SELECT DISTINCT sha256 FROM model'), [{ sha256: model.sha256 }]);
    assert.deepEqual(all(path, 'PRAGMA foreign_key_check'), []);
  });

  test(`a file of version ${version} and a new one have one schema`, (t) => {
    const [old, fresh] = [oldFile(t, version), join(folder(t), 'r.db')];
    for (const path of [old, fresh]) openStore(path).close();
    const schema = 'SELECT type, name, sql FROM sqlite_schema ORDER BY name';
    assert.deepEqual(all(old, schema), all(fresh, schema));
  });

  test(`a file of version ${version} with a row that belongs to nothing is refused and left alone`, (t) => {
    const path = oldFile(t, version);
    ask(path, (database) => {
      database.pragma('foreign_keys = OFF');
      database.exec('DELETE FROM sample WHERE run_id = 2');
    });
    const tables = ['migration', 'observation', 'sample', 'token_score'];
    const before = tables.map((table) => all(path, `SELECT * FROM ${table}`));
    assert.throws(
      () => openStore(path),
      /r\.db is damaged: a row of its table observation belongs to nothing/,
    );
    assert.deepEqual(
      tables.map((table) => all(path, `SELECT * FROM ${table}`)),
      before,
    );
  });
});

test('foreign keys are on whatever the file was', (t) => {
  const path = oldFile(t, 1);
  for (let opened = 0; opened < 2; opened++) {
    const store = openStore(path);
    const sample = { ...contents.variants[0]!, sample: 5 };
    assert.throws(() => store.beginRun(runOf(), { ...contents, variants: [sample] }), /FOREIGN KEY/);
    store.close();
  }
});
