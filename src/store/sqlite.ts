import { createRequire } from 'node:module';
import type { Database, Options } from 'better-sqlite3';

/**
 * Version 12 of better-sqlite3 aborts the process in some garbage collections where it was compiled with the headers
 * of Node 24.19 or newer; version 13 does not, but crashes below Node-API 10 (Node 22.14).
 */
const driver = Number(process.versions.napi) >= 10 ? 'better-sqlite3-13' : 'better-sqlite3';

const require = createRequire(import.meta.url);

/** A connection over the version of better-sqlite3 that this Node can run. */
export function openSqlite(file: string, options: Options = {}): Database {
  const Sqlite: typeof import('better-sqlite3') = require(driver);
  return new Sqlite(file, options);
}
