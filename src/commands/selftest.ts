import type { Argv } from 'yargs';
import { engineArguments } from '../cli/arguments.js';
import { EXIT, interruptSignal, print, withEngine } from '../cli/session.js';
import { numberText, type SelfCheck, selfTest } from '../index.js';

export const addSelftest = (yargs: Argv) =>
  yargs.command(
    'selftest',
    'Check on a model that captures and patches do what they should, before a long run',
    (command) =>
      engineArguments(command)
        .option('json', { type: 'boolean', default: false, describe: 'one JSON object a line' })
        .example('$0 selftest -m my.gguf -ngl all', 'can readings of this model on this GPU be trusted?'),
    async (args) => {
      const signal = interruptSignal();
      process.exitCode = await withEngine(args, signal, async (engine) => {
        let failed = false;
        for await (const check of selfTest(engine, { signal })) {
          failed ||= check.status === 'failed';
          print(args.json ? JSON.stringify(check) : checkLine(check));
        }
        return failed ? EXIT.someFailed : EXIT.ok;
      });
    },
  );

function checkLine({ status, check, text, measured, relation, bound }: SelfCheck): string {
  const numbers =
    measured === null || bound === null ? '' : `${numberText(measured)} (${relation} ${numberText(bound)}): `;
  return `${status.padEnd(8)} ${check.padEnd(11)} ${numbers}${text}.`;
}
