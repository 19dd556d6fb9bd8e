import type { Database, Statement } from 'better-sqlite3';
import { PatchscopeError } from '../errors.js';
import { storeError } from './failure.js';
import { existing } from './results.js';
import { openSqlite } from './sqlite.js';

/** Integers beyond the safe range are `bigint`. */
export type SqlValue = string | number | bigint | Uint8Array | null;

export interface QueryResult {
  readonly columns: readonly string[];
  readonly rows: readonly (readonly SqlValue[])[];
  /** There were more rows than `maxRows`. */
  readonly truncated: boolean;
}

export interface QueryOptions {
  /** Default: all. */
  readonly maxRows?: number;
}

/** A statement under way: its rows are read as they are asked for. */
export interface Reading {
  readonly columns: readonly string[];
  /** The next rows; fewer than `count` mean that there are no more. */
  next(count: number): SqlValue[][];
  close(): void;
}

/** The rows of one reading statement. Nothing can be written this way. */
export function query(
  path: string,
  sql: string,
  { maxRows = Number.POSITIVE_INFINITY }: QueryOptions = {},
): QueryResult {
  checkMaxRows(maxRows);
  const reading = openReading(path, sql);
  try {
    const rows = reading.next(maxRows + 1);
    return { columns: reading.columns, rows: rows.slice(0, maxRows), truncated: rows.length > maxRows };
  } finally {
    reading.close();
  }
}

export function checkMaxRows(maxRows: number): void {
  if (maxRows !== Number.POSITIVE_INFINITY && !(Number.isSafeInteger(maxRows) && maxRows >= 0))
    throw new TypeError('Expected maxRows to be a whole number, 0 or more');
}

/** Opens a results file read-only and begins one statement in it. */
export function openReading(path: string, sql: string): Reading {
  if (typeof path !== 'string' || typeof sql !== 'string')
    throw new TypeError('Expected a path and an SQL statement as strings');
  let database: Database | undefined;
  try {
    database = openForReading(path);
    const statement = prepareReading(database, sql);
    return new OpenReading(database, statement, (error) => queryError(error, path, sql, database));
  } catch (error) {
    const told = queryError(error, path, sql, database);
    database?.close();
    throw told;
  }
}

class OpenReading implements Reading {
  readonly columns: readonly string[];
  readonly #rows: IterableIterator<SqlValue[]>;

  constructor(
    private readonly database: Database,
    statement: Statement<[], SqlValue[]>,
    private readonly told: (error: unknown) => unknown,
  ) {
    this.columns = statement.columns().map(({ name }) => name);
    this.#rows = statement.iterate();
  }

  next(count: number): SqlValue[][] {
    const rows: SqlValue[][] = [];
    try {
      while (rows.length < count) {
        const { done, value } = this.#rows.next();
        if (done) break;
        rows.push(value.map(narrow));
      }
    } catch (error) {
      throw this.told(error);
    }
    return rows;
  }

  close(): void {
    this.#rows.return?.();
    this.database.close();
  }
}

function openForReading(path: string): Database {
  return openSqlite(existing(path), { readonly: true, fileMustExist: true });
}

function prepareReading(database: Database, sql: string): Statement<[], SqlValue[]> {
  const statement = database.prepare<[], SqlValue[]>(sql);
  // A statement may give rows and still write: INSERT ... RETURNING.
  if (!statement.reader || !statement.readonly)
    throw new PatchscopeError(
      'bad_input',
      'This statement does not only read; use SELECT, WITH, VALUES or EXPLAIN',
    );
  return statement.raw(true).safeIntegers(true);
}

export function narrow(value: SqlValue): SqlValue {
  return typeof value === 'bigint' && Number.isSafeInteger(Number(value)) ? Number(value) : value;
}

function queryError(error: unknown, path: string, sql: string, database: Database | undefined): unknown {
  if (error instanceof PatchscopeError || !(error instanceof Error)) return error;
  const { code } = error as { code?: unknown };
  const fromSql =
    database !== undefined && (code === undefined || /^SQLITE_(ERROR|TOOBIG|MISMATCH)/.test(`${code}`));
  return fromSql
    ? new PatchscopeError(
        'bad_input',
        `SQLite refuses the query: ${error.message}${advice(error.message, sql, database)}`,
        {
          cause: error,
        },
      )
    : storeError(error, path);
}

function advice(message: string, sql: string, database: Database): string {
  if (/more than one statement|no statements/.test(message)) return '; give one statement';
  if (/parameter/.test(message)) return '; write values into the statement';
  const tables = tableNames(database);
  if (tables.length === 0) return '; the file has no tables';
  if (message.startsWith('no such table')) return `; there are: ${tables.join(', ')}`;
  if (message.startsWith('no such column')) {
    const words = new Set(sql.toLowerCase().match(/\w+/g));
    const used = tables.filter((name) => words.has(name.toLowerCase()));
    return `; there are: ${(used.length > 0 ? used : tables)
      .map((name) => `${name} (${columnNames(database, name).join(', ')})`)
      .join(', ')}`;
  }
  return '';
}

function tableNames(database: Database): string[] {
  return database
    .prepare<[], string>(
      `SELECT name FROM sqlite_schema
			WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
			ORDER BY name`,
    )
    .pluck()
    .all();
}

function columnNames(database: Database, table: string): string[] {
  return database.prepare<[string], string>('SELECT name FROM pragma_table_info(?)').pluck().all(table);
}
