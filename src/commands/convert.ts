import type { Argv } from 'yargs';
import { EXIT, fetchModel, print } from '../cli/session.js';
import { wholeNumber } from '../cli/values.js';
import { conversionTypes, convertModel } from '../index.js';

export const addConvert = (yargs: Argv) =>
  yargs.command(
    'convert <model>',
    'Write a model with its weights in another type',
    (command) =>
      command
        .positional('model', { type: 'string', demandOption: true, describe: 'as -m of the other commands' })
        .option('to', { choices: conversionTypes, demandOption: true, describe: 'type of the weights' })
        .option('output', { type: 'string', demandOption: true, describe: '-o: file to write' })
        .option('threads', { type: 'string', describe: '-t' })
        .example(
          '$0 convert smollm2-135m-instruct --to f32 -o smollm2-f32.gguf',
          'weights in full precision',
        ),
    async ({ model, to, output, threads: typed }) => {
      process.once('SIGINT', () => process.exit(EXIT.interrupted));
      const threads = wholeNumber(typed, '-t', 1);
      await convertModel(await fetchModel(model), output, {
        to,
        ...(threads !== undefined && { threads }),
      });
      print(output);
      process.exitCode = EXIT.ok;
    },
  );
