#!/usr/bin/env node
import yargs from 'yargs';
import { bindValues, usageSentence } from './cli/arguments.js';
import { BrokenRunError, EXIT } from './cli/session.js';
import { addBest } from './commands/best.js';
import { addBuild } from './commands/build.js';
import { addConvert } from './commands/convert.js';
import { addDelete } from './commands/delete.js';
import { addDemo } from './commands/demo.js';
import { addDoctor } from './commands/doctor.js';
import { addExplain } from './commands/explain.js';
import { addExport } from './commands/export.js';
import { addFit } from './commands/fit.js';
import { addInspect } from './commands/inspect.js';
import { addLens } from './commands/lens.js';
import { addList } from './commands/list.js';
import { addMerge } from './commands/merge.js';
import { addNew } from './commands/new.js';
import { addPatch } from './commands/patch.js';
import { addPull } from './commands/pull.js';
import { addReport } from './commands/report.js';
import { addRun } from './commands/run.js';
import { addRuns } from './commands/runs.js';
import { addSelftest } from './commands/selftest.js';
import { addShow } from './commands/show.js';
import { addSql } from './commands/sql.js';
import { addWorker } from './commands/worker.js';
import { PatchscopeError, packageVersion } from './index.js';

const argv = bindValues(process.argv.slice(2));
const commands = {
  explain: addExplain,
  run: addRun,
  list: addList,
  new: addNew,
  fit: addFit,
  patch: addPatch,
  lens: addLens,
  demo: addDemo,
  pull: addPull,
  inspect: addInspect,
  convert: addConvert,
  runs: addRuns,
  show: addShow,
  report: addReport,
  best: addBest,
  sql: addSql,
  export: addExport,
  merge: addMerge,
  delete: addDelete,
  doctor: addDoctor,
  selftest: addSelftest,
  worker: addWorker,
  build: addBuild,
};
const names = Object.keys(commands);

try {
  let parser = yargs(argv).scriptName('patchscopes').usage('$0 <command> [options]');
  for (const add of Object.values(commands)) parser = add(parser);
  await parser
    .demandCommand(1, `Name a command: ${names.join(', ')}; patchscopes --help says more.`)
    .strict()
    // the last one counts, and a dot is a dot
    .parserConfiguration({ 'duplicate-arguments-array': false, 'dot-notation': false })
    .version(packageVersion)
    .epilogue(
      'Layer l is the output of block l, counted from 0; embed is the input of block 0; -1 is the last layer.',
    )
    .wrap(Math.min(110, process.stderr.columns ?? 110))
    .exitProcess(false)
    .fail((message, error, usage) => {
      if (error) throw error;
      // yargs hands over an object with the help of the command at hand, other than its types say
      const help = (usage as unknown as { help(): string }).help();
      throw new PatchscopeError('bad_input', usageSentence(message, argv, names, help));
    })
    .parseAsync();
} catch (error) {
  report(error);
}

function complain(sentence: string): void {
  process.stderr.write(`patchscopes: ${sentence}\n`);
}

/** A wrong input is one sentence; anything that is not ours keeps its stack, since it is a bug. */
function report(error: unknown): void {
  if (error instanceof PatchscopeError) {
    complain(error.message);
    process.exitCode = EXIT.badInput;
  } else if (error instanceof BrokenRunError) {
    complain(error.message);
    process.exitCode = EXIT.someFailed;
  } else if ((error as Error).name === 'AbortError') {
    process.exitCode = EXIT.interrupted;
  } else {
    console.error(error);
    process.exitCode = EXIT.someFailed;
  }
}
