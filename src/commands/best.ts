import type { Argv } from 'yargs';
import { EXIT, printText } from '../cli/session.js';
import { bestVariant } from '../index.js';

export const addBest = (yargs: Argv) =>
  yargs.command(
    'best [run]',
    'Print the best of the variants that factors made, as an experiment file to run',
    (command) =>
      command
        .positional('run', {
          type: 'string',
          describe: 'id, or name: its newest run (default: the newest run)',
        })
        .option('metric', {
          type: 'string',
          describe: "what it is chosen by (default: the experiment's first)",
        })
        .option('db', { type: 'string', default: 'results/patchscopes.db', describe: 'results file' })
        .example('$0 best prompt-ablation > best.yaml', 'and then: $0 run ./best.yaml'),
    ({ run, metric, db }) => {
      printText(bestVariant(db, { run, metric }));
      process.exitCode = EXIT.ok;
    },
  );
