import type { Argv } from 'yargs';
import { experimentTable } from '../cli/experiment-table.js';
import { EXIT, print } from '../cli/session.js';
import { listExperiments } from '../index.js';

export const addList = (yargs: Argv) =>
  yargs.command(
    'list',
    'List the experiments of the package as the paper does: T, i*, f, M*, l*, where states are taken from, what is read',
    (command) =>
      command
        .option('json', {
          type: 'boolean',
          default: false,
          describe: 'one JSON object a line, with nothing cut',
        })
        .example('$0 list', 'then: patchscopes run NAME, or patchscopes new NAME'),
    ({ json }) => {
      const experiments = listExperiments();
      if (json) for (const experiment of experiments) print(JSON.stringify(experiment));
      else print(experimentTable(experiments));
      process.exitCode = EXIT.ok;
    },
  );
