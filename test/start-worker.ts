/** A worker of its own process on this machine, as users start it. */
import { type ChildProcess, spawn } from 'node:child_process';
import net from 'node:net';
import { fileURLToPath } from 'node:url';

const command = fileURLToPath(new URL('../dist/cli.js', import.meta.url));

export interface StartedWorker {
  readonly address: string;
  readonly process: ChildProcess;
  readonly stdout: () => string;
  readonly stderr: () => string;
  /** Resolves when it has ended. */
  stop(signal?: NodeJS.Signals): Promise<void>;
}

export async function startWorker(host = '127.0.0.1', at?: number): Promise<StartedWorker> {
  const port = at ?? (await freePort());
  const address = `${host}:${port}`;
  const child = spawn(process.execPath, [command, 'worker', '-t', '1', '--gpu', 'off', '--listen', address]);
  let stdout = '';
  let stderr = '';
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const killWithUs = () => child.kill('SIGKILL');
  process.once('exit', killWithUs);
  await new Promise<void>((resolve, reject) => {
    child.stderr.on('data', (data: Buffer) => {
      stderr += data;
    });
    child.stdout.on('data', (data: Buffer) => {
      stdout += data;
      if (stdout.includes('\n')) resolve();
    });
    child.once('exit', (code) => reject(new Error(`the worker at ${address} ended with ${code}: ${stderr}`)));
  });
  return {
    address,
    process: child,
    stdout: () => stdout,
    stderr: () => stderr,
    async stop(signal = 'SIGKILL') {
      child.kill(signal);
      await ended;
      process.off('exit', killWithUs);
    },
  };
}

export function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = net.createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as net.AddressInfo;
      server.close(() => resolve(port));
    });
  });
}
