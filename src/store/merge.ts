/** Shards of a run -> a results file with that run, as it would be had it not been cut. */
import { resolve } from 'node:path';
import { setImmediate as pause } from 'node:timers/promises';
import type { Database } from 'better-sqlite3';
import { PatchscopeError } from '../errors.js';
import { writeWhole } from '../output-file.js';
import { storeError } from './failure.js';
import { migrate } from './migrations.js';
import { chosenRunOf, type RunSummary } from './run-list.js';
import { findShards, type Shard } from './shards.js';
import { openSqlite } from './sqlite.js';
import { openStore } from './store.js';

/** The only run of its file. */
const runId = 1;

/**
 * Joins the shards in `paths`, which are all of one run, into a file that appears when it is complete. Rows lie in
 * the order of the plan.
 *
 * @throws PatchscopeError `bad_input` where they are not all shards of one run, each once, or the output exists.
 */
export async function mergeShards(
  paths: readonly string[],
  output: string,
  { onNote }: { readonly onNote?: (line: string) => void } = {},
): Promise<RunSummary> {
  try {
    await writeWhole(output, async (part) => {
      const shards = findShards(paths, onNote);
      await copyShards(shards, part);
      if (hasProbe(shards[0]!)) {
        onNote?.(
          'The run is not done: its probe learns from all samples, which no shard had. patchscopes run --resume goes on with it.',
        );
      }
      const store = openStore(part);
      try {
        store.aggregate(runId);
      } finally {
        store.close();
      }
    });
    return chosenRunOf(output);
  } catch (error) {
    throw storeError(error, output);
  }
}

async function copyShards(shards: readonly Shard[], file: string): Promise<void> {
  const database = openSqlite(file);
  try {
    // a file that is not whole is thrown away, and one that is reaches the disk before it gets its name
    database.pragma('synchronous = OFF');
    migrate(database, file);
    database.exec('CREATE TEMP TABLE used_token (token_id INTEGER PRIMARY KEY)');
    const offsets = offsetsOf(shards);
    for (const [i, shard] of shards.entries()) await copyShard(database, shard, i === 0, offsets);
    completeRun(database, shards);
  } finally {
    database.close();
  }
}

/** By chunk: the id of its first observation. */
function offsetsOf(shards: readonly Shard[]): Map<number, number> {
  const chunks = shards.flatMap((shard) => shard.chunks).sort((a, b) => a.idx - b.idx);
  let id = 1;
  return new Map(
    chunks.map(({ idx, cells }) => {
      const first = id;
      id += cells;
      return [idx, first];
    }),
  );
}

async function copyShard(
  database: Database,
  shard: Shard,
  isFirst: boolean,
  offsets: ReadonlyMap<number, number>,
): Promise<void> {
  database.prepare('ATTACH ? AS shard').run(resolve(shard.path));
  try {
    database.exec('BEGIN');
    if (isFirst) copyContents(database, shard);
    else checkContents(database, shard);
    copyMappings(database, shard);
    await copyCells(database, shard, offsets);
    copyTokens(database, shard);
    database.exec('COMMIT');
  } catch (error) {
    // of the output nothing is old enough to be damaged
    throw /^SQLITE_CORRUPT/.test(`${(error as { code?: unknown }).code}`)
      ? storeError(error, shard.path)
      : error;
  }
  database.exec('DETACH shard');
}

/** Tables that say what the cells of a run name; they are the same in all shards. */
const contents = ['prompt', 'vector', 'sample', 'variant', 'move'];

function copyContents(database: Database, { run }: Shard): void {
  database
    .prepare(
      `INSERT OR IGNORE INTO model SELECT * FROM shard.model
      WHERE id IN (SELECT source_model_id FROM shard.run WHERE id = :id UNION SELECT target_model_id FROM shard.run WHERE id = :id)`,
    )
    .run({ id: run.id });
  const columns = columnsOf(database, 'run', ['id']);
  database
    .prepare(`INSERT INTO run (id, ${columns}) SELECT ${runId}, ${columns} FROM shard.run WHERE id = ?`)
    .run(run.id);
  for (const table of contents) {
    const others = columnsOf(database, table, ['run_id']);
    database
      .prepare(
        `INSERT INTO ${table} (run_id, ${others}) SELECT ${runId}, ${others} FROM shard.${table} WHERE run_id = ?`,
      )
      .run(run.id);
  }
}

function checkContents(database: Database, { path, run }: Shard): void {
  for (const table of contents) {
    const columns = columnsOf(database, table, ['run_id']);
    const [here, there] = [
      `main.${table} WHERE run_id = ${runId}`,
      `shard.${table} WHERE run_id = ${run.id}`,
    ].map((rows) => `SELECT ${columns} FROM ${rows}`);
    const differing = database
      .prepare(
        `SELECT * FROM (${here} EXCEPT ${there}) UNION ALL SELECT * FROM (${there} EXCEPT ${here}) LIMIT 1`,
      )
      .get();
    if (differing !== undefined) {
      throw new PatchscopeError(
        'bad_input',
        `${path} holds a shard of another run: its table ${table} is another`,
      );
    }
  }
}

function copyMappings(database: Database, { run }: Shard): void {
  database
    .prepare(
      `INSERT INTO mapping (name, kind, sha256, record) SELECT name, kind, sha256, record FROM shard.mapping
      WHERE id IN (SELECT mapping_id FROM shard.observation WHERE run_id = ?) AND name NOT IN (SELECT name FROM main.mapping)
      ORDER BY id`,
    )
    .run(run.id);
}

async function copyCells(
  database: Database,
  { run, chunks }: Shard,
  offsets: ReadonlyMap<number, number>,
): Promise<void> {
  const cell = columnsOf(database, 'observation', ['id', 'run_id', 'mapping_id']);
  const copies = [
    `INSERT INTO chunk (run_id, idx, cells, finished_at)
    SELECT ${runId}, idx, cells, finished_at FROM shard.chunk WHERE run_id = :run AND idx = :idx`,
    `INSERT INTO observation (id, run_id, mapping_id, ${cell})
    SELECT
      id + :shift, ${runId},
      (SELECT here.id FROM main.mapping AS here JOIN shard.mapping AS there USING (name) WHERE there.id = mapping_id),
      ${cell}
    FROM shard.observation WHERE id BETWEEN :begin AND :end ORDER BY id`,
    ...['token_score', 'score', 'token_relevancy'].map((table) => {
      const columns = columnsOf(database, table, ['observation_id']);
      return `INSERT INTO ${table} (observation_id, ${columns})
      SELECT observation_id + :shift, ${columns} FROM shard.${table} WHERE observation_id BETWEEN :begin AND :end`;
    }),
    `INSERT OR IGNORE INTO used_token SELECT token_id FROM shard.token_score WHERE observation_id BETWEEN :begin AND :end`,
  ].map((sql) => database.prepare(sql));
  for (const { idx, begin, end } of chunks) {
    const values = { run: run.id, idx, begin, end, shift: offsets.get(idx)! - begin };
    for (const copy of copies) copy.run(values);
    // so that Ctrl-C is heard
    await pause();
  }
}

/** Only those that this run uses: the file may hold other runs. */
function copyTokens(database: Database, { run }: Shard): void {
  const copy = (side: 'source' | 'target', used: string) =>
    database
      .prepare(
        `INSERT OR IGNORE INTO token (model_id, token_id, text)
        SELECT (SELECT ${side}_model_id FROM main.run), token_id, text FROM shard.token
        WHERE model_id = (SELECT ${side}_model_id FROM shard.run WHERE id = ?) AND token_id IN (${used})`,
      )
      .run(run.id);
  copy('source', 'SELECT source_token_id FROM main.move');
  copy('target', 'SELECT target_token_id FROM main.move UNION SELECT token_id FROM used_token');
}

function hasProbe({ run }: Shard): boolean {
  return 'probe' in JSON.parse(`${run.experiment}`);
}

/** From the first shard's row to the row of all. */
function completeRun(database: Database, shards: readonly Shard[]): void {
  const runs = shards.map(({ run }) => run);
  const values = (column: string) => runs.map((run) => run[column]);
  const texts = (column: string) => values(column).map(String).sort();
  const sum = (column: string) => values(column).reduce((total: number, value) => total + Number(value), 0);
  const tolerances = values('tolerance').filter((value) => value !== null) as number[];
  database
    .prepare(
      `UPDATE run SET shard_index = NULL, shard_count = NULL, started_at = :started, finished_at = :finished, host = :host,
        tolerance = :tolerance, cells_planned = :cells, chunks_planned = :chunks, cells_failed = :failed, status = :status`,
    )
    .run({
      status: hasProbe(shards[0]!) ? 'interrupted' : 'done',
      started: texts('started_at')[0],
      finished: texts('finished_at').at(-1),
      host: [...new Set(texts('host'))].join(', '),
      tolerance: tolerances.length > 0 ? Math.max(...tolerances) : null,
      cells: sum('cells_planned'),
      chunks: sum('chunks_planned'),
      failed: sum('cells_failed'),
    });
}

/** All but some, quoted. */
function columnsOf(database: Database, table: string, but: readonly string[]): string {
  return database
    .prepare<[string], string>('SELECT name FROM pragma_table_info(?)')
    .pluck()
    .all(table)
    .filter((name) => !but.includes(name))
    .map((name) => `"${name}"`)
    .join(', ');
}
