import type { Argv } from 'yargs';
import { EXIT, fetchModel, interruptSignal, print } from '../cli/session.js';
import { catalogue, formatTable } from '../index.js';

export const addPull = (yargs: Argv) =>
  yargs.command(
    'pull [name]',
    'Fetch a model into the cache folder and print its path; without a name, list the catalogue',
    (command) =>
      command
        .positional('name', { type: 'string', describe: 'name of the catalogue, or an hf: URI' })
        .example('$0 pull smollm2-135m-instruct', 'fetch the default model'),
    async ({ name }) => {
      if (name === undefined) {
        print(
          formatTable({
            columns: ['name', 'model', 'licence', 'MB', 'sha256'],
            rows: Object.entries(catalogue).map(([key, { title, licence, bytes, sha256 }]) => [
              key,
              title,
              licence,
              Math.round(bytes / 1e6),
              sha256,
            ]),
            truncated: false,
          }),
        );
      } else {
        print((await fetchModel(name, interruptSignal())).path);
      }
      process.exitCode = EXIT.ok;
    },
  );
