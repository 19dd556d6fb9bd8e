import type { Argv } from 'yargs';
import { runText } from '../cli/run-facts.js';
import { EXIT, note } from '../cli/session.js';
import { mergeShards } from '../index.js';

export const addMerge = (yargs: Argv) =>
  yargs.command(
    'merge <files..>',
    'Join the shards of a run into one results file',
    (command) =>
      command
        .positional('files', {
          type: 'string',
          array: true,
          demandOption: true,
          describe: 'results files with the shards (patchscopes run --shard K/N)',
        })
        .option('output', { type: 'string', demandOption: true, describe: '-o: results file to write' })
        .example('$0 merge a.db b.db c.db -o all.db', 'three shards'),
    async ({ files, output }) => {
      process.once('SIGINT', () => process.exit(EXIT.interrupted));
      const run = await mergeShards(files, output, { onNote: note });
      note(`merged  ${runText(run)} into ${output}`);
      process.exitCode = EXIT.ok;
    },
  );
