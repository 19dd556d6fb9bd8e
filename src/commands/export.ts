import type { Argv } from 'yargs';
import { runText } from '../cli/run-facts.js';
import { EXIT, isOutputClosed, note, printText } from '../cli/session.js';
import { exportFormats, exportRun, rowKinds } from '../index.js';

export const addExport = (yargs: Argv) =>
  yargs.command(
    'export [run]',
    'Write the rows of a run as CSV, JSON lines or Parquet',
    (command) =>
      command
        .positional('run', {
          type: 'string',
          describe: 'id, or name: its newest run (default: the newest run)',
        })
        .option('format', { choices: exportFormats, demandOption: true, describe: 'of the file' })
        .option('output', { type: 'string', describe: '-o: file to write (default: stdout)' })
        .option('what', {
          choices: rowKinds,
          default: 'readings' as const,
          describe:
            'readings: a row each cell; scores: a row each token that was scored; predictions: a row each class that a probe found; signatures: signs of failure, a row each cell',
        })
        .option('db', { type: 'string', default: 'results/patchscopes.db', describe: 'results file' })
        .example(
          '$0 export token-identity --format parquet -o readings.parquet',
          'for pandas, polars or DuckDB',
        ),
    async ({ run: spec, format, output, what, db }) => {
      process.once('SIGINT', () => process.exit(EXIT.interrupted));
      const { run, rowCount } = await exportRun(db, {
        ...{ run: spec, format, rows: what },
        to: output ?? printWhileRead,
      });
      if (output !== undefined) note(`wrote   ${rowCount} ${what} of ${runText(run)} to ${output}`);
      process.exitCode = EXIT.ok;
    },
  );

function printWhileRead(text: string): boolean {
  printText(text);
  return !isOutputClosed();
}
