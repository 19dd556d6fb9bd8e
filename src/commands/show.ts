import type { Argv } from 'yargs';
import { effectTable, factLines, metricTable, runJson } from '../cli/run-facts.js';
import { runPicture } from '../cli/run-picture.js';
import { EXIT, print } from '../cli/session.js';
import { runDetails } from '../index.js';

export const addShow = (yargs: Argv) =>
  yargs.command(
    'show [run]',
    'Show a run: what it was, its metrics by layer, a picture of its layers',
    (command) =>
      command
        .positional('run', {
          type: 'string',
          describe: 'id, or name: its newest run (default: the newest run)',
        })
        .option('value', {
          type: 'string',
          default: 'top_probability',
          describe:
            'what the picture shows: top_probability (of the first token read) or a metric of the run',
        })
        .option('variant', { type: 'string', describe: 'this variant alone' })
        .option('db', { type: 'string', default: 'results/patchscopes.db', describe: 'results file' })
        .option('json', { type: 'boolean', default: false, describe: 'one JSON object' })
        .example(
          '$0 show token-identity --value answer-found',
          'where the newest run of that name was right',
        ),
    ({ run, value, variant, db, json }) => {
      const details = runDetails(db, { run, value, variant });
      if (json) print(runJson(details));
      else {
        const parts = [
          factLines(details),
          ...(details.metrics.length > 0 ? [metricTable(details.metrics)] : []),
          ...(details.effects.length > 0 ? [effectTable(details.effects)] : []),
          runPicture(details, canvas()),
        ];
        print(parts.join('\n\n'));
      }
      process.exitCode = EXIT.ok;
    },
  );

/** Elsewhere than on a terminal there are no colours, and lines are as long as need be. */
function canvas() {
  const { stdout } = process;
  return stdout.isTTY
    ? { depth: stdout.getColorDepth(), width: stdout.columns }
    : { depth: 1, width: Number.POSITIVE_INFINITY };
}
