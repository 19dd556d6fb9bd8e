/** This machine's devices for the models of other processes. */
import net from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { type GpuChoice, openDevices } from './devices.js';
import { asPatchscopeError, PatchscopeError } from './errors.js';
import type { LoadedAddon } from './native.js';
import { defaultThreads } from './threads.js';
import { type Address, greet, parseAddress, resolveHost, rpcPlugin } from './workers.js';

export interface ServeOptions {
  /** HOST:PORT; an address of this machine. */
  readonly listen: string;
  readonly gpu?: GpuChoice;
  readonly threads?: number;
  readonly onReady: () => void;
}

/**
 * Serves GPUs where there are any, else the CPU, until the process ends. Whoever reaches the address may use
 * them, and read and write what lies on them.
 *
 * @throws PatchscopeError `bad_input` for an address that can't be listened on.
 */
export async function serveDevices({ listen, gpu, threads, onReady }: ServeOptions): Promise<never> {
  const address = await resolveHost(parseAddress(listen, '--listen'));
  await checkFree(address, listen);
  const { addon, gpus, cpu } = openDevices(gpu ?? 'auto');
  const devices = (gpus.length > 0 ? gpus : [cpu]).map(({ name }) => name);
  try {
    const serving = addon.serve(
      rpcPlugin(addon),
      `${address.host}:${address.port}`,
      threads ?? defaultThreads(),
      devices,
    );
    await Promise.race([serving, answered(address, addon)]);
    onReady();
    return await serving;
  } catch (error) {
    throw asPatchscopeError(error);
  }
}

export function isLoopback(listen: string): boolean {
  const { host } = parseAddress(listen, '--listen');
  return host === 'localhost' || /^127\.\d+\.\d+\.\d+$/.test(host);
}

/** ggml's server does not say why it can't listen. */
function checkFree({ host, port }: Address, listen: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const server = net.createServer();
    server.once('error', (cause: NodeJS.ErrnoException) => {
      const reason = cause.code === 'EADDRINUSE' ? 'is in use' : `can't be listened on (${cause.code})`;
      reject(
        new PatchscopeError(
          'bad_input',
          `${listen} ${reason}: take another port, or an address of this machine.`,
          {
            cause,
          },
        ),
      );
    });
    server.listen({ host, port }, () => server.close(() => resolve()));
  });
}

async function answered({ host, port }: Address, addon: LoadedAddon): Promise<void> {
  const reached = { host: host === '0.0.0.0' ? '127.0.0.1' : host, port };
  for (let tries = 0; ; tries++) {
    try {
      return await greet(reached, addon);
    } catch (error) {
      if (tries === 100) throw error;
      await delay(50);
    }
  }
}
