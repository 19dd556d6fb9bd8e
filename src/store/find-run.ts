/** Runs that have not come to their end, and what keeps one from going on. */
import type { Database } from 'better-sqlite3';
import { PatchscopeError } from '../errors.js';
import type { ModelRecord, RunRecord } from './records.js';
import { columnsOf, type RunColumns } from './run-columns.js';

type Row = Readonly<Record<string, unknown>>;

/**
 * @param which the run's id. Default: the newest unfinished run of this name and shard that fits.
 * @throws PatchscopeError `bad_input` where none fits, and says what differs in the newest.
 */
export function findRun(
  database: Database,
  path: string,
  run: RunRecord,
  which: number | undefined,
): number | undefined {
  const wanted = columnsOf(run);
  const rows = which === undefined ? unfinished(database, wanted) : [named(database, path, which)];
  const differences = rows.map((row) => differing(row, run, database));
  const fitting = differences.findIndex((list) => list.length === 0);
  if (fitting >= 0) return rows[fitting]!.id as number;
  if (rows.length === 0) return undefined;
  throw new PatchscopeError(
    'bad_input',
    `Run ${rows[0]!.id} in ${path} can't go on: ${differences[0]!.join(', ')}`,
  );
}

function unfinished(database: Database, { name, shardIndex, shardCount }: RunColumns): Row[] {
  return database
    .prepare<unknown[], Row>(
      `SELECT * FROM run
      WHERE name = ? AND shard_index IS ? AND shard_count IS ? AND status <> 'done' AND plan_sha256 IS NOT NULL
      ORDER BY id DESC`,
    )
    .all(name, shardIndex, shardCount);
}

function named(database: Database, path: string, which: number): Row {
  const row = database.prepare<[number], Row>('SELECT * FROM run WHERE id = ?').get(which);
  if (row === undefined) throw new PatchscopeError('bad_input', `There is no run ${which} in ${path}`);
  if (row.status === 'done') {
    throw new PatchscopeError('bad_input', `Run ${which} in ${path} is done; there is nothing to go on with`);
  }
  if (row.plan_sha256 === null) {
    throw new PatchscopeError(
      'bad_input',
      `Run ${which} in ${path} was made by an older version, which kept no plan to go on with; run it anew`,
    );
  }
  return row;
}

/** Settings that decide about the bits of a cell or about which cells there are, by the names of their columns. */
const settings = {
  name: 'name',
  shard_index: 'shardIndex',
  shard_count: 'shardCount',
  package: 'package',
  addon: 'addon',
  llama_cpp: 'llamaCpp',
  backend: 'backend',
  devices: 'devices',
  gpu_layers: 'gpuLayers',
  threads: 'threads',
  batch_tokens: 'batchTokens',
  batch_rows: 'batchRows',
  batch_outputs: 'batchOutputs',
  cache_layout: 'cacheLayout',
  type_k: 'typeK',
  type_v: 'typeV',
  flash_attention: 'flashAttention',
  exact: 'exact',
  split_mode: 'splitMode',
  source_engine: 'sourceEngine',
} as const;

/** In words; nothing where the row is of the run that is wanted. The plan follows from all else. */
function differing(row: Row, run: RunRecord, database: Database): string[] {
  const wanted = columnsOf(run);
  const found = [
    ...modelDifference('source', row.source_model_id, run.sourceModel, database),
    ...modelDifference('target', row.target_model_id, run.targetModel, database),
    ...experimentDifferences(`${row.experiment}`, wanted.experiment),
    ...Object.entries(settings)
      .filter(([column, parameter]) => row[column] !== wanted[parameter])
      .map(([column, parameter]) => `${column} was ${row[column]} and is ${wanted[parameter]}`),
  ];
  return found.length === 0 && row.plan_sha256 !== wanted.planSha256 ? ['its plan was another'] : found;
}

function modelDifference(which: string, wasId: unknown, is: ModelRecord, database: Database): string[] {
  const was = database
    .prepare<[unknown], Pick<ModelRecord, 'path' | 'sha256'>>('SELECT path, sha256 FROM model WHERE id = ?')
    .get(wasId)!;
  if (was.sha256 === is.sha256) return [];
  const [before, now] = [was, is].map(({ path, sha256 }) => `${path} (sha256 ${sha256.slice(0, 12)})`);
  return [`the ${which} model was ${before} and is ${now}`];
}

/** Numbers and words in full, the rest by name. */
function experimentDifferences(was: string, is: string): string[] {
  const [before, after] = [was, is].map((text) => JSON.parse(text) as Row);
  const keys = [...new Set([...Object.keys(before!), ...Object.keys(after!)])];
  const changed = keys.filter((key) => JSON.stringify(before![key]) !== JSON.stringify(after![key]));
  return changed.map((key) => {
    const [old, now] = [before![key], after![key]];
    return [old, now].every((value) => typeof value !== 'object')
      ? `${key} of the experiment was ${old ?? 'not given'} and is ${now ?? 'not given'}`
      : `${key} of the experiment changed`;
  });
}
