import type { Argv } from 'yargs';
import { SEPARATOR } from '../cli/arguments.js';
import { runText } from '../cli/run-facts.js';
import { EXIT, note } from '../cli/session.js';
import { writeReport } from '../index.js';

export const addReport = (yargs: Argv) =>
  yargs.command(
    'report [run]',
    'Write one page about a run: what it was, its numbers, plots and texts',
    (command) =>
      command
        .positional('run', {
          type: 'string',
          describe: 'id, or name: its newest run (default: the newest run)',
        })
        .option('compare', { type: 'string', describe: 'RUN...: more runs, in the same plots' })
        .option('output', { type: 'string', demandOption: true, describe: '-o: HTML file to write' })
        .option('svg', { type: 'string', describe: 'folder for the plots as SVG files' })
        .option('csv', { type: 'string', describe: 'folder for the numbers as CSV files' })
        .option('db', { type: 'string', default: 'results/patchscopes.db', describe: 'results file' })
        .example(
          '$0 report token-identity --compare logit-lens -o report.html',
          'two methods in the same plots',
        ),
    async ({ run, compare, output, svg, csv, db }) => {
      const { runs, files } = await writeReport(db, {
        ...{ run, output, svg, csv },
        compare: compare?.split(SEPARATOR),
      });
      note(`wrote   ${output}${files.length > 1 ? ` and ${files.length - 1} files` : ''}`);
      for (const one of runs) note(`of      ${runText(one)}`);
      process.exitCode = EXIT.ok;
    },
  );
