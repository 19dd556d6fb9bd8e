import type { Argv } from 'yargs';
import { BrokenRunError, EXIT, isOutputClosed, note, print, printText } from '../cli/session.js';
import { wholeNumber } from '../cli/values.js';
import {
  csvRecords,
  formatCsv,
  formatJsonLines,
  formatTable,
  PatchscopeError,
  type QueryResult,
  queryStream,
} from '../index.js';

const TABLE_ROWS = 1000;

export const addSql = (yargs: Argv) =>
  yargs.command(
    'sql <query>',
    'Ask a results file; it is opened read-only',
    (command) =>
      command
        .positional('query', { type: 'string', demandOption: true, describe: 'one SELECT statement' })
        .option('db', { type: 'string', default: 'results/patchscopes.db', describe: 'results file' })
        .option('json', { type: 'boolean', default: false, describe: 'one JSON object a line' })
        .option('csv', { type: 'boolean', default: false, describe: 'comma-separated values' })
        .option('limit', {
          type: 'string',
          describe: `most rows (default: ${TABLE_ROWS} in a table, all with --json and --csv)`,
        })
        .option('timeout', {
          type: 'string',
          default: '60',
          describe: 'seconds after which the query is ended',
        })
        .example(
          `$0 sql 'SELECT source_layer, top_token, top_probability FROM reading LIMIT 5'`,
          'a look at the readings',
        ),
    async ({ query: sql, db, json, csv, limit, timeout }) => {
      if (json && csv) throw new PatchscopeError('bad_input', 'Take --json or --csv, not both.');
      const maxRows =
        wholeNumber(limit, '--limit', 0) ?? (json || csv ? Number.POSITIVE_INFINITY : TABLE_ROWS);
      const timeoutMs = 1000 * wholeNumber(timeout, '--timeout', 1)!;
      const parts = queryStream(db, sql, { maxRows, timeoutMs });
      const truncated = json || csv ? await printParts(parts, json) : await printTable(parts);
      if (truncated)
        note(
          `Only ${maxRows} ${maxRows === 1 ? 'row is' : 'rows are'} shown, and there are more: --limit N shows N.`,
        );
      process.exitCode = EXIT.ok;
    },
  );

/** Prints rows as they come, as long as somebody reads them. @returns whether there are more. */
async function printParts(parts: AsyncIterable<QueryResult>, json: boolean): Promise<boolean> {
  let isFirst = true;
  try {
    for await (const part of parts) {
      printText(json ? formatJsonLines(part) : isFirst ? formatCsv(part) : csvRecords(part.rows));
      isFirst = false;
      if (part.truncated) return true;
      if (isOutputClosed()) break;
    }
  } catch (error) {
    throw isFirst ? error : new BrokenRunError((error as Error).message, { cause: error });
  }
  return false;
}

/** Its columns are as wide as the widest of all rows. @returns whether there are more. */
async function printTable(parts: AsyncIterable<QueryResult>): Promise<boolean> {
  const all: QueryResult[] = [];
  for await (const part of parts) all.push(part);
  const { columns, truncated } = all.at(-1)!;
  print(formatTable({ columns, rows: all.flatMap(({ rows }) => rows), truncated }));
  return truncated;
}
