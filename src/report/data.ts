/** What a part of a report shows: the rows of one statement, or numbers made from them. */
import type { Database } from 'better-sqlite3';
import type { SqlValue } from '../store/query.js';

export interface Data {
  /** Runs as it stands in any program that opens the results file. */
  readonly sql: string;
  readonly columns: readonly string[];
  readonly rows: readonly (readonly SqlValue[])[];
}

export function ask<Row extends object>(database: Database, sql: string): Row[] {
  return database.prepare<[], Row>(sql).all();
}

export function askData(database: Database, sql: string): Data {
  const statement = database.prepare<[], SqlValue[]>(sql).raw(true);
  return { sql, columns: statement.columns().map(({ name }) => name), rows: statement.all() };
}

/** A text as it stands in SQL, where a zero byte would end the statement. */
export function sqlText(text: string): string {
  const parts = text.split('\u0000').map((part) => `'${part.replaceAll("'", "''")}'`);
  return parts.length === 1 ? parts[0]! : `(${parts.join(' || char(0) || ')})`;
}
