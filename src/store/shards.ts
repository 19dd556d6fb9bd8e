/** Shards of one run, found in results files and checked against each other. */
import type { Database } from 'better-sqlite3';
import { PatchscopeError } from '../errors.js';
import { withResults } from './results.js';

export interface Shard {
  /** As named by the caller. */
  readonly path: string;
  /** Its row of table `run`, and the sha256 of its models. */
  readonly run: ShardRun;
  /** In the order of the plan. */
  readonly chunks: readonly ShardChunk[];
}

export interface ShardRun {
  readonly id: number;
  readonly name: string;
  readonly plan_sha256: string;
  readonly shard_index: number;
  readonly shard_count: number;
  readonly status: string;
  readonly cells_planned: number;
  readonly chunks_planned: number;
  readonly [column: string]: unknown;
}

/** Whose observations have the ids from `begin` to `end`. */
export interface ShardChunk {
  readonly idx: number;
  readonly cells: number;
  readonly begin: number;
  readonly end: number;
}

/**
 * The shards in some files, by their index: in the first file those of the newest sharded run, in the others those
 * of the same plan. They are whole, of one run, and complete together.
 *
 * @param onNote is told how machines or backends differ.
 * @throws PatchscopeError `bad_input` where they are not.
 */
export function findShards(paths: readonly string[], onNote?: (line: string) => void): Shard[] {
  const found: Shard[] = [];
  for (const path of paths) {
    const plan = found[0]?.run.plan_sha256;
    found.push(...withResults(path, (database) => shardsOf(database, path, plan)));
  }
  const [first, ...others] = found;
  if (first === undefined)
    throw new PatchscopeError('bad_input', 'There is no file to merge: name the shards');
  for (const other of others) checkSameRun(first, other, onNote);
  const shards = found.sort((a, b) => a.run.shard_index - b.run.shard_index);
  checkComplete(shards);
  return shards;
}

function shardsOf(database: Database, path: string, plan: string | undefined): Shard[] {
  const runs = database
    .prepare<[], ShardRun>(
      `SELECT run.*, source.sha256 AS source_model, target.sha256 AS target_model
      FROM run
      JOIN model AS source ON source.id = source_model_id
      JOIN model AS target ON target.id = target_model_id
      WHERE shard_index IS NOT NULL ORDER BY run.id DESC`,
    )
    .all();
  if (runs[0] === undefined) {
    throw new PatchscopeError(
      'bad_input',
      `${path} holds no shard of a run; shards are made by patchscopes run --shard K/N`,
    );
  }
  const wanted = runs.some((run) => run.plan_sha256 === plan) ? plan : runs[0].plan_sha256;
  const newest = new Map<number, ShardRun>();
  for (const run of runs) {
    if (run.plan_sha256 === wanted && !newest.has(run.shard_index)) newest.set(run.shard_index, run);
  }
  return [...newest.values()].map((run) => ({ path, run, chunks: chunksOf(database, path, run) }));
}

/** A chunk is stored in one transaction, so that its ids follow one another; chunks are stored one after the other. */
function chunksOf(database: Database, path: string, run: ShardRun): ShardChunk[] {
  const stored = database
    .prepare<[number], { idx: number; cells: number }>(
      'SELECT idx, cells FROM chunk WHERE run_id = ? ORDER BY finished_at, idx',
    )
    .all(run.id);
  const cells = stored.reduce((sum, chunk) => sum + chunk.cells, 0);
  if (run.status !== 'done' || stored.length !== run.chunks_planned || cells !== run.cells_planned) {
    throw new PatchscopeError(
      'bad_input',
      `${nameOf({ path, run })} is unfinished: it has ${stored.length} of ${run.chunks_planned} chunks; go on with it by patchscopes run --resume ${run.id}`,
    );
  }
  const ids = database
    .prepare<[number], number>('SELECT id FROM observation WHERE run_id = ? ORDER BY id')
    .pluck()
    .iterate(run.id);
  const next = (): number => ids.next().value ?? Number.NaN;
  const placed = stored.map((chunk) => {
    const begin = next();
    let end = begin;
    for (let i = 1; i < chunk.cells; i++) end = next();
    return { ...chunk, begin, end };
  });
  if (!ids.next().done || placed.some(({ begin, end, cells }) => end - begin + 1 !== cells)) {
    throw new PatchscopeError(
      'store',
      `${path} is damaged: the cells of run ${run.id} are not those of its chunks`,
    );
  }
  return placed.sort((a, b) => a.idx - b.idx);
}

/** What decides about cells and their bits; the plan says more than the experiment, and less clearly. */
const sameInOneRun = [
  ...[
    'name',
    'shard_count',
    'source_model',
    'target_model',
    'experiment',
    'experiment_source',
    'reading',
    'seed',
  ],
  ...['package', 'addon', 'llama_cpp', 'batch_tokens', 'batch_rows', 'batch_outputs', 'cache_layout'],
  ...['type_k', 'type_v', 'flash_attention', 'exact'],
];

/** What machines may differ in, though the last bits of cells then may too. */
const ofMachine = [...['host', 'backend', 'devices', 'gpu_layers', 'split_mode', 'threads'], 'source_engine'];

function checkSameRun(first: Shard, other: Shard, onNote: ((line: string) => void) | undefined): void {
  const differing = differences(sameInOneRun, first, other);
  if (differing.length === 0 && first.run.plan_sha256 !== other.run.plan_sha256)
    differing.push('the plan is another');
  if (differing.length > 0) {
    throw new PatchscopeError(
      'bad_input',
      `${other.path} holds a shard of another run than ${first.path}: ${differing.join(', ')}`,
    );
  }
  const machine = differences(ofMachine, first, other);
  if (machine.length === 0) return;
  onNote?.(
    `Warning: ${other.path} was made by another machine or backend than ${first.path}, and the last bits may differ: ${machine.join(', ')}.`,
  );
}

/** Values in full where they are short. */
function differences(columns: readonly string[], first: Shard, other: Shard): string[] {
  return columns
    .filter((column) => first.run[column] !== other.run[column])
    .map((column) => {
      const [was, is] = [first.run[column], other.run[column]].map((value) => shortText(column, value));
      return was === undefined || is === undefined
        ? `${column} is another`
        : `${column} is ${is}, not ${was}`;
    });
}

const longestValue = 80;

function shortText(column: string, value: unknown): string | undefined {
  const text =
    column === 'devices'
      ? (JSON.parse(`${value}`) as { library: string }[]).map(({ library }) => library).join(' and ')
      : `${value}`;
  return text.length > longestValue || text.startsWith('{') ? undefined : text;
}

/** @param shards by their index. */
function checkComplete(shards: readonly Shard[]): void {
  for (const [i, shard] of shards.slice(1).entries()) {
    const before = shards[i]!;
    if (before.run.shard_index === shard.run.shard_index) {
      throw new PatchscopeError(
        'bad_input',
        `Shard ${fraction(shard)} is in ${before.path} and in ${shard.path}; name one of them`,
      );
    }
  }
  const there = new Set(shards.map(({ run }) => run.shard_index));
  const count = shards[0]!.run.shard_count;
  const missing = Array.from({ length: count }, (_, i) => i + 1).filter((index) => !there.has(index));
  if (missing.length > 0) {
    const names = missing.map((index) => `${index}/${count}`).join(', ');
    throw new PatchscopeError(
      'bad_input',
      `${missing.length === 1 ? `Shard ${names} is` : `Shards ${names} are`} missing; name all files of the run`,
    );
  }
  const indexes = shards.flatMap(({ chunks }) => chunks.map(({ idx }) => idx)).sort((a, b) => a - b);
  const wrong = indexes.findIndex((idx, i) => idx !== i);
  if (wrong < 0) return;
  throw new PatchscopeError(
    'bad_input',
    indexes[wrong]! < wrong
      ? `Chunk ${indexes[wrong]} is in two of the shards; one of them was cut in another way`
      : `Chunk ${wrong} is in none of the shards; one of them was cut in another way`,
  );
}

function nameOf(shard: Pick<Shard, 'path' | 'run'>): string {
  return `Shard ${fraction(shard)} in ${shard.path}`;
}

function fraction({ run }: Pick<Shard, 'run'>): string {
  return `${run.shard_index}/${run.shard_count}`;
}
