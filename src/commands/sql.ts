import type { Argv } from 'yargs';
import { EXIT, note, print } from '../cli/session.js';
import { formatCsv, formatJsonLines, formatTable, PatchscopeError, query } from '../index.js';

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
        .example(
          `$0 sql 'SELECT source_layer, top_token, top_probability FROM reading LIMIT 5'`,
          'a look at the readings',
        ),
    ({ query: sql, db, json, csv }) => {
      if (json && csv) throw new PatchscopeError('bad_input', 'Take --json or --csv, not both.');
      const result = query(db, sql, json || csv ? {} : { maxRows: TABLE_ROWS });
      const text = json ? formatJsonLines(result) : csv ? formatCsv(result) : formatTable(result);
      if (text !== '') print(text.replace(/\r?\n$/, ''));
      if (result.truncated) note(`Only ${TABLE_ROWS} rows are shown; --csv and --json give all.`);
      process.exitCode = EXIT.ok;
    },
  );
