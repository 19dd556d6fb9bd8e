import type { Argv } from 'yargs';
import { inspectionText } from '../cli/facts.js';
import { EXIT, fetchModel, print } from '../cli/session.js';
import { gpuChoices, inspectModel } from '../index.js';

export const addInspect = (yargs: Argv) =>
  yargs.command(
    'inspect <model>',
    'What a model is, where its states lie, what fits this machine',
    (command) =>
      command
        .positional('model', { type: 'string', demandOption: true, describe: 'as -m of the other commands' })
        .option('gpu', { choices: gpuChoices, default: 'auto' as const, describe: 'kind of GPU' })
        .option('json', { type: 'boolean', default: false, describe: 'one JSON object, with every tensor' })
        .example('$0 inspect smollm2-135m-instruct', 'the default model'),
    async ({ model, gpu, json }) => {
      process.once('SIGINT', () => process.exit(EXIT.interrupted));
      const inspection = await inspectModel(await fetchModel(model), { gpu });
      print(
        json
          ? JSON.stringify(snakeCase(inspection))
          : inspectionText(inspection, model, process.stdout.columns),
      );
      process.exitCode = EXIT.ok;
    },
  );

/** Keys as in the other commands' JSON. */
function snakeCase(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(snakeCase);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, entry]) => [
      key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
      snakeCase(entry),
    ]),
  );
}
