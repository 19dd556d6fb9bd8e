import type { Argv } from 'yargs';
import { note, print } from '../cli/session.js';
import { wholeNumber } from '../cli/values.js';
import { gpuChoices, isLoopback, serveDevices } from '../index.js';

export const addWorker = (yargs: Argv) =>
  yargs.command(
    'worker',
    "Serve this machine's devices to models that outgrow one machine, until Ctrl-C",
    (command) =>
      command
        .option('listen', {
          type: 'string',
          default: '127.0.0.1:50052',
          describe: 'HOST:PORT of this machine',
        })
        .option('gpu', {
          choices: gpuChoices,
          default: 'auto' as const,
          describe: 'kind of GPU; off: the CPU',
        })
        .option('threads', { type: 'string', describe: '-t: as of the other commands' })
        .example(
          '$0 worker --listen 192.168.0.7:50052',
          'and elsewhere: patchscopes patch --rpc 192.168.0.7:50052 ...',
        ),
    async ({ listen, gpu, threads: typed }) => {
      const threads = wholeNumber(typed, '-t', 1);
      await serveDevices({
        listen,
        gpu,
        ...(threads !== undefined && { threads }),
        onReady: () => {
          if (!isLoopback(listen)) {
            note(
              `Warning: whoever reaches ${listen} can use this machine's devices and see what lies on them, since the protocol has no authentication and no encryption: never open it to a network you don't trust.`,
            );
          }
          print(`listening on ${listen}`);
        },
      });
    },
  );
