import type { Argv } from 'yargs';
import { EXIT, print } from '../cli/session.js';
import { diagnose } from '../index.js';

export const addDoctor = (yargs: Argv) =>
  yargs.command(
    'doctor',
    'Say what is there on this machine, what is missing, and where to get it',
    (command) =>
      command
        .option('json', { type: 'boolean', default: false, describe: 'one JSON object a line' })
        .example('$0 doctor', 'why is my GPU not used?'),
    async ({ json }) => {
      const { checks, usable } = await diagnose();
      for (const check of checks) {
        const { status, check: name, text, advice } = check;
        print(
          json
            ? JSON.stringify(check)
            : `${status.padEnd(8)} ${name.padEnd(11)} ${text}${advice === null ? '' : `: ${advice}`}.`,
        );
      }
      process.exitCode = usable ? EXIT.ok : EXIT.someFailed;
    },
  );
