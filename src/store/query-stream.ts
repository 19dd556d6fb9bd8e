import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { PatchscopeError } from '../errors.js';
import { checkMaxRows, type QueryOptions, type QueryResult } from './query.js';
import type { QueryMessage, QueryTask } from './query-child.js';

export interface QueryStreamOptions extends QueryOptions {
  /** How long SQLite may work; what the caller does between the parts is not counted. Default: for ever. */
  readonly timeoutMs?: number;
}

/** Few enough that they fit memory however wide they are. */
const rowsInPart = 256;

/** Node's timers take no longer time. */
const longestTimerMs = 2 ** 31 - 1;

/**
 * As `query`, in parts and in a process of its own, which is ended at the time limit: SQLite can't be stopped in
 * the middle of a query otherwise. There is at least one part, which has the columns.
 */
export async function* queryStream(
  path: string,
  sql: string,
  { maxRows = Number.POSITIVE_INFINITY, timeoutMs = Number.POSITIVE_INFINITY }: QueryStreamOptions = {},
): AsyncGenerator<QueryResult> {
  if (typeof path !== 'string' || typeof sql !== 'string')
    throw new TypeError('Expected a path and an SQL statement as strings');
  checkMaxRows(maxRows);
  if (!(timeoutMs > 0)) throw new TypeError('Expected timeoutMs to be more than 0');
  const child = fork(
    new URL('./query-child.js', import.meta.url),
    [JSON.stringify({ path, sql, parent: process.pid } satisfies QueryTask)],
    { serialization: 'advanced', stdio: ['ignore', 'ignore', 'inherit', 'ipc'] },
  );
  try {
    let left = maxRows;
    let leftMs = timeoutMs;
    for (;;) {
      // one more than is left says whether there are more
      const wanted = Math.min(rowsInPart, left + 1);
      const startedAt = performance.now();
      const { columns, rows } = await answer(child, wanted, leftMs, timeoutMs);
      leftMs = Math.max(1, leftMs - (performance.now() - startedAt));
      const truncated = rows.length > left;
      yield { columns, rows: truncated ? rows.slice(0, left) : rows, truncated };
      left -= rows.length;
      if (truncated || rows.length < wanted) return;
    }
  } finally {
    child.kill('SIGKILL');
  }
}

/** The next `wanted` rows of the child. */
async function answer(child: ChildProcess, wanted: number, leftMs: number, timeoutMs: number) {
  const settled = new AbortController();
  const { signal } = settled;
  const timer =
    leftMs <= longestTimerMs ? setTimeout(() => child.kill('SIGKILL'), Math.ceil(leftMs)) : undefined;
  const deadline = performance.now() + leftMs;
  try {
    const told = once(child, 'message', { signal });
    const ended = once(child, 'exit', { signal });
    child.send(wanted);
    const [message, endedBy] = (await Promise.race([told, ended])) as [QueryMessage | number | null, string?];
    if (message === null || typeof message === 'number') {
      throw performance.now() >= deadline
        ? new PatchscopeError(
            'store',
            `The query was ended at its time limit of ${timeoutMs / 1000} s; give it more time (--timeout SECONDS) or ask for less`,
          )
        : new PatchscopeError('store', `The query's process ended with ${endedBy ?? message}; ask for less`);
    }
    if ('bug' in message) throw new Error(message.bug);
    if ('code' in message) throw new PatchscopeError(message.code, message.message);
    return message;
  } finally {
    clearTimeout(timer);
    settled.abort();
  }
}
