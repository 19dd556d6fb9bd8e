import type { Argv } from 'yargs';
import { EXIT, note, print } from '../cli/session.js';
import { wholeNumber } from '../cli/values.js';
import { buildChoices, buildLibraries } from '../index.js';

export const addBuild = (yargs: Argv) =>
  yargs.command(
    'build',
    'Compile llama.cpp on this machine, for a GPU without a fitting prebuilt library',
    (command) =>
      command
        .option('gpu', {
          choices: buildChoices,
          demandOption: true,
          describe: 'kind of GPU; off builds for the CPU alone',
        })
        .option('arch', {
          type: 'string',
          describe: 'CUDA architectures as CMake names them: 86, native, ...',
        })
        .option('threads', { type: 'string', describe: '-t: compilers that run at once' })
        .example('$0 build --gpu cuda --arch 86', 'for an RTX 30 GPU'),
    ({ gpu, arch, threads }) => {
      const jobs = wholeNumber(threads, '-t', 1);
      const { variant, folder } = buildLibraries({ gpu, arch, jobs, onNote: note });
      note(
        `The ${variant} libraries built here are used from now on; to go back remove their folder and run \`npm rebuild patchscopes\`, in a checkout \`npm run build\`.`,
      );
      print(folder);
      process.exitCode = EXIT.ok;
    },
  );
