/** Reading what runs have left in a results file. */
import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import type { Database } from 'better-sqlite3';
import { PatchscopeError } from '../errors.js';
import { storeError } from './failure.js';
import { migrations } from './migrations.js';
import { openSqlite } from './sqlite.js';
import { openStore } from './store.js';

/** Work on a results file of the newest schema, opened read-only; an older file is brought up to date before. */
export function withResults<Result>(path: string, work: (database: Database) => Result): Result {
  let database: Database | undefined;
  try {
    database = openResults(path);
    return work(database);
  } catch (error) {
    throw storeError(error, path);
  } finally {
    database?.close();
  }
}

/** Read-only; to be closed. */
export function openResults(path: string): Database {
  const file = existing(path);
  const database = openSqlite(file, { readonly: true, fileMustExist: true });
  try {
    if (isNewest(database)) return database;
  } catch (error) {
    database.close();
    throw error;
  }
  database.close();
  openStore(path).close();
  return openSqlite(file, { readonly: true, fileMustExist: true });
}

/** The whole path of a results file. @throws PatchscopeError `store` where there is none. */
export function existing(path: string): string {
  if (typeof path !== 'string') throw new TypeError('Expected the path of a results file to be a string');
  const file = resolve(path);
  if (path === '' || !statSync(file, { throwIfNoEntry: false })?.isFile())
    throw new PatchscopeError('store', `There is no results file ${path}; runs make one, and --db names it`);
  return file;
}

function isNewest(database: Database): boolean {
  const isOurs = database.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'migration'").get() !== undefined;
  if (!isOurs) return false;
  const applied = database.prepare<[], string>('SELECT name FROM migration').pluck().all();
  return applied.length === migrations.length && migrations.every(({ name }) => applied.includes(name));
}
