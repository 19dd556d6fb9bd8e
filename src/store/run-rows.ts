import type { Database } from 'better-sqlite3';
import { narrow, type SqlValue } from './query.js';
import { scoreNames } from './run-details.js';

/**
 * readings: a row each cell, with its metrics; scores: a row each token that was scored; predictions: a row each
 * class that a probe found; signatures: signs of failure, a row each cell.
 */
export const rowKinds = ['readings', 'scores', 'predictions', 'signatures'] as const;

export type RowKind = (typeof rowKinds)[number];

export interface RowColumn {
  readonly name: string;
  readonly type: 'integer' | 'real' | 'text';
}

export interface RunRows {
  readonly columns: readonly RowColumn[];
  readonly rows: IterableIterator<SqlValue[]>;
}

/** All rows of a run, in the order they were stored; they are read as they are asked for. */
export function runRows(database: Database, runId: number, kind: RowKind): RunRows {
  const { least, most } = database
    .prepare<[number], { least: number; most: number }>(
      'SELECT coalesce(min(id), 1) AS least, coalesce(max(id), 0) AS most FROM observation WHERE run_id = ?',
    )
    .get(runId)!;
  const statement = database
    .prepare<[object], SqlValue[]>(sqlOf[kind](() => scoreNames(database, runId)))
    .raw(true)
    .safeIntegers(true);
  return {
    columns: statement.columns().map(({ name, type }) => ({ name, type: typeOf(type) })),
    rows: narrowed(() => statement.iterate({ runId, least, most })),
  };
}

// an index that finds the run would give its rows in another order, and sort them all before the first
const ofRun = '+run_id = :runId AND observation_id BETWEEN :least AND :most';

const sqlOf: Readonly<Record<RowKind, (scoreNames: () => readonly string[]) => string>> = {
  readings: (names) => readings(names()),
  scores: () => `SELECT * FROM scored_token WHERE ${ofRun} ORDER BY observation_id, step, rank`,
  signatures: () => `SELECT * FROM signature WHERE ${ofRun} ORDER BY observation_id`,
  // each statement takes the same values
  predictions: () =>
    `SELECT probe_reading.* FROM probe_reading WHERE run_id = :runId AND :least IS NOT NULL AND :most IS NOT NULL
    ORDER BY sample_idx, variant, known, source_layer, source_site`,
};

function readings(metrics: readonly string[]): string {
  const values = metrics.map(
    (name) =>
      `(SELECT value FROM score WHERE score.observation_id = reading.observation_id AND name = '${name.replaceAll("'", "''")}') AS "${name.replaceAll('"', '""')}"`,
  );
  return `SELECT ${['reading.*', ...values].join(', ')} FROM reading WHERE ${ofRun} ORDER BY observation_id`;
}

/** What is computed has no declared type: probabilities and values of metrics. */
function typeOf(declared: string | null): RowColumn['type'] {
  return declared === 'INTEGER' ? 'integer' : declared === 'TEXT' ? 'text' : 'real';
}

/** The connection is busy from the first row on, not before. */
function* narrowed(begin: () => Iterable<SqlValue[]>): IterableIterator<SqlValue[]> {
  for (const row of begin()) yield row.map(narrow);
}
