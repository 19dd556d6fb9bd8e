import { createInterface } from 'node:readline/promises';
import type { Argv } from 'yargs';
import { runText } from '../cli/run-facts.js';
import { EXIT, note, print } from '../cli/session.js';
import { chosenRunOf, deleteRun, PatchscopeError } from '../index.js';

export const addDelete = (yargs: Argv) =>
  yargs.command(
    'delete <run>',
    'Delete a run with all that is its own, and make the file smaller',
    (command) =>
      command
        .positional('run', {
          type: 'string',
          demandOption: true,
          describe: 'id, or name: its newest run (patchscopes runs lists them)',
        })
        .option('db', { type: 'string', default: 'results/patchscopes.db', describe: 'results file' })
        .option('yes', { type: 'boolean', default: false, describe: 'do not ask' })
        .example('$0 delete 3', 'delete run 3, once you have said yes'),
    async ({ run: spec, db, yes }) => {
      const run = chosenRunOf(db, spec);
      if (!yes && !(await agreed(`Delete ${runText(run)} from ${db}?`))) {
        note('Nothing was deleted.');
        process.exitCode = EXIT.ok;
        return;
      }
      const { rows, bytesBefore, bytesAfter, kept } = deleteRun(db, run.runId);
      print(`deleted ${runText(run)}`);
      print(
        `rows    ${Object.entries(rows)
          .map(([table, count]) => `${count} ${table}`)
          .join(', ')}`,
      );
      print(`file    ${megabytes(bytesBefore)} before, ${megabytes(bytesAfter)} now`);
      if (kept !== null) {
        note(
          `The file could not be made smaller, and runs that follow take the room: ${kept} Later, sqlite3 ${db} VACUUM does it.`,
        );
      }
      process.exitCode = EXIT.ok;
    },
  );

async function agreed(question: string): Promise<boolean> {
  if (!process.stdin.isTTY) {
    throw new PatchscopeError('bad_input', 'Without a terminal nobody can be asked: give --yes to delete.');
  }
  const asking = createInterface({ input: process.stdin, output: process.stderr });
  asking.on('SIGINT', () => process.exit(EXIT.interrupted));
  try {
    return /^y(es)?$/i.test((await asking.question(`${question} [y/N] `)).trim());
  } finally {
    asking.close();
  }
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
