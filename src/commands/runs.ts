import type { Argv } from 'yargs';
import { runJson, runsTable } from '../cli/run-facts.js';
import { EXIT, print } from '../cli/session.js';
import { listRuns } from '../index.js';

export const addRuns = (yargs: Argv) =>
  yargs.command(
    'runs',
    'List the runs in a results file, the newest first',
    (command) =>
      command
        .option('db', { type: 'string', default: 'results/patchscopes.db', describe: 'results file' })
        .option('json', { type: 'boolean', default: false, describe: 'one JSON object a line' })
        .example('$0 runs --db all.db', 'which runs there are, and how far they came'),
    ({ db, json }) => {
      const runs = listRuns(db);
      if (json) for (const run of runs) print(runJson(run));
      else print(runsTable(runs));
      process.exitCode = EXIT.ok;
    },
  );
