import { statSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Database } from 'better-sqlite3';
import { PatchscopeError } from '../errors.js';
import { makeFolder } from '../folders.js';
import { migrate } from './migrations.js';
import { openSqlite } from './sqlite.js';

/** A results file, made or brought up to date. `path` is the file as the user named it, for messages. */
export function openDatabase(file: string, path: string, lockWaitMs: number): Database {
  makeFolder(dirname(file));
  if (statSync(file, { throwIfNoEntry: false })?.isDirectory()) {
    throw new PatchscopeError('store', `${path} is a folder; name a file in it`);
  }
  const database = openSqlite(file, { timeout: lockWaitMs });
  try {
    // It refuses what is not ours before any write; a new schema waits for the disk but once in WAL mode.
    migrate(database, path, () => {
      database.pragma('journal_mode = WAL');
      database.pragma('synchronous = NORMAL');
    });
    return database;
  } catch (error) {
    database.close();
    throw error;
  }
}
