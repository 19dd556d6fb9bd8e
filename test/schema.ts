/** Writes results/SCHEMA.md: `npm run schema`. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openSqlite } from '../src/store/sqlite.js';
import { openStore } from '../src/store/store.js';
import { schemaDocument } from './schema-document.js';

const folder = mkdtempSync(join(tmpdir(), 'schema-'));
const path = join(folder, 'r.db');
openStore(path).close();
const database = openSqlite(path, { readonly: true });
writeFileSync(fileURLToPath(new URL('../results/SCHEMA.md', import.meta.url)), schemaDocument(database));
database.close();
rmSync(folder, { recursive: true });
