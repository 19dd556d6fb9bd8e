/** The process in which a query runs, since only a process can be ended in the middle of one; see query-stream.ts. */
import { type ErrorCode, PatchscopeError } from '../errors.js';
import { endWithParent } from './parent-watch.js';
import { openReading, type Reading, type SqlValue } from './query.js';

export interface QueryTask {
  readonly path: string;
  readonly sql: string;
  readonly parent: number;
}

export type QueryMessage =
  | { readonly columns: readonly string[]; readonly rows: SqlValue[][] }
  | { readonly code: ErrorCode; readonly message: string }
  | { readonly bug: string };

const { path, sql, parent } = JSON.parse(process.argv[2]!) as QueryTask;
endWithParent(parent);
process.on('disconnect', () => process.exit());

let reading: Reading | undefined;
process.on('message', (count: number) => process.send!(answer(count)));

/** The next rows. */
function answer(count: number): QueryMessage {
  try {
    reading ??= openReading(path, sql);
    return { columns: reading.columns, rows: reading.next(count) };
  } catch (error) {
    if (error instanceof PatchscopeError) return { code: error.code, message: error.message };
    return { bug: String((error as Error).stack ?? error) };
  }
}
