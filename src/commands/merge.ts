import type { Argv } from 'yargs';
import { runText } from '../cli/run-facts.js';
import { EXIT, note } from '../cli/session.js';
import { mergeShards } from '../index.js';

export const addMerge = (yargs: Argv) =>
  yargs.command(
    'merge <file..>',
    'Join the shards of a run into one results file',
    (command) =>
      command
        // else the last file alone would count; of -o it does
        .parserConfiguration({ 'duplicate-arguments-array': true })
        .positional('file', {
          type: 'string',
          array: true,
          demandOption: true,
          describe: 'results files with the shards (patchscopes run --shard K/N)',
        })
        .option('output', { type: 'string', demandOption: true, describe: '-o: results file to write' })
        .example('$0 merge a.db b.db c.db -o all.db', 'three shards'),
    async ({ file: files, output: outputs }) => {
      const output = [outputs].flat().at(-1)!;
      process.once('SIGINT', () => process.exit(EXIT.interrupted));
      const run = await mergeShards(files, output, { onNote: note });
      note(`merged  ${runText(run)} into ${output}`);
      process.exitCode = EXIT.ok;
    },
  );
