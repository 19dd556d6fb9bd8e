import type { Database } from 'better-sqlite3';
import { PatchscopeError } from '../errors.js';
import { nearest } from '../nearest.js';
import { withResults } from './results.js';

/** A run in one line. */
export interface RunSummary {
  readonly runId: number;
  readonly name: string;
  readonly status: string;
  readonly model: string;
  readonly quantization: string;
  readonly targetModel: string;
  readonly targetQuantization: string;
  readonly cellsPlanned: number;
  readonly cellsStored: number;
  readonly cellsFailed: number;
  /** UTC, ISO 8601. */
  readonly startedAt: string;
  /** Null while it goes on, or if its process was killed. */
  readonly seconds: number | null;
  /** Such as `2/3`; null: the whole plan. */
  readonly shard: string | null;
}

/** The newest first. */
export function listRuns(path: string): RunSummary[] {
  return withResults(path, (database) =>
    database.prepare<[], RunSummary>(`${summaries} ORDER BY run_id DESC`).all(),
  );
}

const summaries = `
  SELECT
    run_id AS runId, run_name AS name, run_summary.status AS status,
    source_model AS model, source_quantization AS quantization,
    target_model AS targetModel, target_quantization AS targetQuantization,
    run_summary.cells_planned AS cellsPlanned, cells_stored AS cellsStored, run_summary.cells_failed AS cellsFailed,
    run_summary.started_at AS startedAt, seconds, shard_index || '/' || shard_count AS shard
  FROM run_summary JOIN run ON run.id = run_id`;

/** As `chosenRun`, of a file by its path. */
export function chosenRunOf(path: string, spec?: string): RunSummary {
  return withResults(path, (database) => chosenRun(database, path, spec));
}

/**
 * The run that a person means by an id or by a name, which is its newest run; by nothing, the newest of all.
 *
 * @throws PatchscopeError `bad_input` where there is none, and says which there are.
 */
export function chosenRun(database: Database, path: string, spec?: string): RunSummary {
  const isId = spec !== undefined && /^\d+$/.test(spec);
  const found = database
    .prepare<[{ spec: string | number | null }], RunSummary>(
      `${summaries}
      WHERE ${spec === undefined ? ':spec IS NULL' : isId ? 'run_id = :spec' : 'run_name = :spec'}
      ORDER BY run_id DESC LIMIT 1`,
    )
    .get({ spec: spec === undefined ? null : isId ? Number(spec) : spec });
  if (found !== undefined) return found;
  throw new PatchscopeError('bad_input', noRun(database, path, spec));
}

/** Longest list of runs in a sentence. */
const mostNamed = 10;

function noRun(database: Database, path: string, spec: string | undefined): string {
  const runs = database
    .prepare<[], { id: number; name: string }>('SELECT id, name FROM run ORDER BY id DESC')
    .all();
  if (runs.length === 0) return `There are no runs in ${path}`;
  const meant = nearest(spec ?? '', [...new Set(runs.map(({ name }) => name))]);
  if (meant !== undefined) return `There is no run ${spec} in ${path}, perhaps ${meant} was meant`;
  const named = runs.slice(0, mostNamed).map(({ id, name }) => `${id} (${name})`);
  const more = runs.length > mostNamed ? ` and ${runs.length - mostNamed} older ones` : '';
  return `There is no run ${spec} in ${path}; it has ${named.join(', ')}${more}`;
}
