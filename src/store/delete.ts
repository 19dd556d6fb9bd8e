import { statSync } from 'node:fs';
import type { Database } from 'better-sqlite3';
import { PatchscopeError } from '../errors.js';
import { storeError } from './failure.js';
import { openDatabase } from './open-database.js';
import { existing } from './results.js';

export interface Deletion {
  /** Rows that went, by table; tables that kept all theirs are not named. */
  readonly rows: Readonly<Record<string, number>>;
  readonly bytesBefore: number;
  readonly bytesAfter: number;
  /** Why the file did not shrink; the room is taken by the runs that follow. Null where it did. */
  readonly kept: string | null;
}

const lockWaitMs = 5000;

/**
 * Deletes a run and whatever no other run uses: models, tokens, mappings. The file is written anew without it, for
 * which there must be as much room on the disk as the rest takes; where there is none, the file keeps its size.
 *
 * @throws PatchscopeError `bad_input` where there is no such run.
 */
export function deleteRun(path: string, runId: number): Deletion {
  const file = existing(path);
  let database: Database | undefined;
  try {
    database = openDatabase(file, path, lockWaitMs);
    const bytesBefore = sizeOf(database, file);
    const rows = removeRows(database, path, runId);
    const kept = shrink(database, path);
    return { rows, bytesBefore, bytesAfter: sizeOf(database, file), kept };
  } catch (error) {
    throw storeError(error, path);
  } finally {
    database?.close();
  }
}

function removeRows(database: Database, path: string, runId: number): Record<string, number> {
  return database
    .transaction(() => {
      const before = countRows(database);
      const run = database
        .prepare<[number], { source: number; target: number }>(
          'SELECT source_model_id AS source, target_model_id AS target FROM run WHERE id = ?',
        )
        .get(runId);
      if (run === undefined) throw new PatchscopeError('bad_input', `There is no run ${runId} in ${path}`);
      database.prepare('DELETE FROM run WHERE id = ?').run(runId);
      removeMappings(database);
      for (const model of new Set([run.source, run.target])) removeTokens(database, model);
      const after = countRows(database);
      return Object.fromEntries(
        Object.entries(before)
          .map(([table, count]): [string, number] => [table, count - after[table]!])
          .filter(([, count]) => count > 0),
      );
    })
    .immediate();
}

/** Those of no run; one that has no cells yet names them in its experiment. The identity belongs to the schema. */
function removeMappings(database: Database): void {
  database.exec(
    `DELETE FROM mapping
    WHERE id <> 1
      AND NOT EXISTS (SELECT 1 FROM observation WHERE mapping_id = mapping.id)
      AND NOT EXISTS (SELECT 1 FROM run WHERE instr(experiment, mapping.sha256))`,
  );
}

/** Those of a model that no run names any more. A model without runs has gone, and its tokens with it. */
function removeTokens(database: Database, model: number): void {
  database
    .prepare(
      `DELETE FROM token WHERE model_id = :model AND token_id NOT IN (
        SELECT token_score.token_id FROM run
        JOIN observation ON observation.run_id = run.id
        JOIN token_score ON token_score.observation_id = observation.id
        WHERE run.target_model_id = :model
        UNION
        SELECT source_token_id FROM run JOIN move ON move.run_id = run.id WHERE source_model_id = :model
        UNION
        SELECT target_token_id FROM run JOIN move ON move.run_id = run.id WHERE target_model_id = :model
      )`,
    )
    .run({ model });
}

function countRows(database: Database): Record<string, number> {
  const tables = database
    .prepare<[], string>(
      `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name`,
    )
    .pluck()
    .all();
  const count = (table: string) =>
    database.prepare<[], number>(`SELECT count(*) FROM "${table}"`).pluck().get()!;
  return Object.fromEntries(tables.map((table) => [table, count(table)]));
}

/** @returns why it could not. */
function shrink(database: Database, path: string): string | null {
  try {
    database.exec('VACUUM');
  } catch (error) {
    return (storeError(error, path) as Error).message;
  }
  const [checkpoint] = database.pragma('wal_checkpoint(TRUNCATE)') as { busy: number }[];
  return checkpoint?.busy === 0 ? null : `${path} is being read by another process.`;
}

/** With what waits beside it to be written into it. */
function sizeOf(database: Database, file: string): number {
  database.pragma('wal_checkpoint(TRUNCATE)');
  return statSync(file).size;
}
