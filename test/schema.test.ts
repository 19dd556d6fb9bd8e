import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { Database } from 'better-sqlite3';
import { openSqlite } from '../src/store/sqlite.js';
import { openStore } from '../src/store/store.js';
import { schemaDocument } from './schema-document.js';
import { folder } from './store-records.js';

function newFile(t: TestContext): Database {
  const path = join(folder(t), 'r.db');
  openStore(path).close();
  const database = openSqlite(path);
  t.after(() => database.close());
  return database;
}

test('results/SCHEMA.md is what the database says: npm run schema', (t) => {
  const document = readFileSync(new URL('../results/SCHEMA.md', import.meta.url), 'utf8');
  assert.equal(document, schemaDocument(newFile(t)));
  assert.match(document, /-1 is embed \("embed" in JSON\); null: no layer/);
});

test('whatever is new in a database comes into the document with its comments', (t) => {
  const database = newFile(t);
  database.exec(`
    CREATE TABLE fruit (
      -- What grows
      -- on trees.
      id INTEGER PRIMARY KEY,
      run_id INTEGER REFERENCES run (id), -- where | when it was eaten
      taste TEXT NOT NULL
    ) STRICT;
    ALTER TABLE fruit ADD COLUMN
      colour /* of its
      skin */ TEXT;
    CREATE VIEW orchard AS
      -- All fruit.
      SELECT id, -- a number
        fruit.colour, -- of fruit
        taste AS "group", -- as told
        taste
      FROM fruit;`);
  const document = schemaDocument(database);
  for (const line of [
    '### fruit\n\nWhat grows on trees.\n',
    '| `run_id` | INTEGER | yes |  | where \\| when it was eaten |',
    '| `id` | INTEGER |  | 1 |  |',
    '| `taste` | TEXT |  |  |  |',
    '| `colour` | TEXT | yes |  | of its skin |',
    '(run_id) belongs to run (id).',
    '### orchard\n\nAll fruit.\n',
    '| `colour` | of fruit |',
    '| `group` | as told |',
    '| `taste` |  |',
  ])
    assert.ok(document.includes(line), line);
});

test('what has no comment is an error', (t) => {
  const database = newFile(t);
  database.exec('CREATE TABLE bare (id INTEGER PRIMARY KEY)');
  assert.throws(() => schemaDocument(database), /bare has no comment/);
});
