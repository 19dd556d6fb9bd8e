import fs from 'node:fs';
import path from 'node:path';
import type { Argv } from 'yargs';
import { EXIT, printText } from '../cli/session.js';
import { copyExperiment, writeWhole } from '../index.js';

export const addNew = (yargs: Argv) =>
  yargs.command(
    'new <name>',
    'Write an experiment of the package out, to be changed',
    (command) =>
      command
        .positional('name', { type: 'string', demandOption: true, describe: 'as patchscopes list has it' })
        .option('output', {
          type: 'string',
          describe: '-o: YAML file to write; default: standard output, for a file in this folder',
        })
        .example('$0 new logit-lens > mine.yaml', 'then: patchscopes run ./mine.yaml'),
    async ({ name, output }) => {
      const text = copyExperiment(name, path.resolve(output === undefined ? '.' : path.dirname(output)));
      if (output === undefined) printText(text);
      else await writeWhole(output, (part) => fs.writeFileSync(part, text));
      process.exitCode = EXIT.ok;
    },
  );
