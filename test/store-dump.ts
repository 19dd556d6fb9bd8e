/** All rows of a results file, with what identifies them instead of row ids, so that files can be compared. */
import type { Database } from 'better-sqlite3';
import { openSqlite } from '../src/store/sqlite.js';

type Row = Record<string, unknown>;

/** Columns that two runs of one experiment differ in. */
const ofTheMoment = ['started_at', 'finished_at', 'host'];

/** By table; rows in the order of their ids or keys, and observations counted from the first of their run. */
export function dump(path: string): Record<string, Row[]> {
  const database = openSqlite(path, { readonly: true });
  try {
    const tables = names(database).filter((table) => table !== 'migration');
    return Object.fromEntries(tables.map((table) => [table, rowsOf(database, table)]));
  } finally {
    database.close();
  }
}

function names(database: Database): string[] {
  return database
    .prepare<[], string>("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
    .pluck()
    .all();
}

function rowsOf(database: Database, table: string): Row[] {
  const models = namesById(database, 'SELECT id, sha256 FROM model');
  const mappings = namesById(database, 'SELECT id, name FROM mapping');
  const runs = namesById(database, "SELECT id, name || ' ' || plan_sha256 FROM run");
  const places = namesById(
    database,
    `SELECT id, run_id || ' ' || (row_number() OVER (PARTITION BY run_id ORDER BY id)) FROM observation`,
  );
  const meaning: Record<string, (id: unknown, row: Row) => unknown> = {
    run_id: (id) => runs.get(id),
    model_id: (id) => models.get(id),
    source_model_id: (id) => models.get(id),
    target_model_id: (id) => models.get(id),
    mapping_id: (id) => mappings.get(id),
    observation_id: (id) => placeOf(places, runs, id),
    id: (id) => (table === 'observation' ? placeOf(places, runs, id) : undefined),
  };
  const rows = database.prepare<[], Row>(`SELECT * FROM "${table}"`).all();
  const meant = rows.map((row) =>
    Object.fromEntries(
      Object.entries(row)
        .filter(([column]) => !ofTheMoment.includes(column))
        .map(([column, value]) => [column, column in meaning ? meaning[column]!(value, row) : value]),
    ),
  );
  // of these the order is that of ids, which come as they come
  const isUnordered = ['model', 'mapping', 'token', 'metric'].includes(table);
  return isUnordered ? meant.sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1)) : meant;
}

function namesById(database: Database, sql: string): Map<unknown, string> {
  return new Map(database.prepare<[], [number, string]>(sql).raw().all());
}

function placeOf(places: Map<unknown, string>, runs: Map<unknown, string>, id: unknown): string {
  const [run, place] = places.get(id)!.split(' ');
  return `${runs.get(Number(run))} ${place}`;
}
