import type { Argv } from 'yargs';
import { EXIT, fetchModel, note, print } from '../cli/session.js';
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
        .example('$0 convert smollm2-135m-instruct --to f32 -o smollm2-f32.gguf', 'weights in full precision')
        .example('$0 convert model.gguf --to q4_0 -o model-q4_0.gguf', 'fast on a CPU'),
    async ({ model, to, output, threads: typed }) => {
      process.once('SIGINT', () => process.exit(EXIT.interrupted));
      const threads = wholeNumber(typed, '-t', 1);
      const { types, fallbacks, requantized } = await convertModel(await fetchModel(model), output, {
        to,
        ...(threads !== undefined && { threads }),
      });
      if (requantized !== null) {
        note(
          `Note: the weights of ${model} were quantized already (${requantized}) and are now rounded a second time: convert the full-precision model where you have it.`,
        );
      }
      if (fallbacks > 0) {
        note(
          `Note: matrices that got another type, because the blocks of theirs do not divide their width: ${fallbacks}.`,
        );
      }
      note(`types   ${types.map(({ type, tensors }) => `${tensors} ${type}`).join(', ')}`);
      print(output);
      process.exitCode = EXIT.ok;
    },
  );
