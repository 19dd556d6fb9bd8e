/**
 * Workers: processes, on other machines or this one, whose devices take blocks of a model through
 * llama.cpp's RPC backend. llama.cpp's own client ends the process where a worker can't be used, so each is
 * tried here first.
 */
import dns from 'node:dns/promises';
import net from 'node:net';
import { PatchscopeError } from './errors.js';
import type { LoadedAddon, NativeDevice } from './native.js';

export interface Address {
  readonly host: string;
  readonly port: number;
}

export interface Workers {
  readonly devices: readonly NativeDevice[];
  /** Idempotent; to be called when no model lies on them any more. */
  release(): void;
}

/** A worker serves one process at a time and would leave a second one waiting. */
const PATIENCE_MS = 5000;

/** How many models of this process each worker holds. Its connection is shared by them. */
const held = new Map<string, number>();

/** @throws PatchscopeError `bad_input` */
export function parseAddress(text: string, where: string): Address {
  const [, host, port] = /^([\w.-]+):(\d{1,5})$/.exec(text) ?? [];
  if (host === undefined || Number(port) < 1 || Number(port) > 65535) {
    throw new PatchscopeError(
      'bad_input',
      `${where} holds '${text}' where HOST:PORT is needed, with a name or IPv4 address and a port of 1 to 65535, such as 127.0.0.1:50052.`,
    );
  }
  return { host, port: Number(port) };
}

/**
 * Adds the devices of workers, each named once.
 *
 * @throws PatchscopeError `bad_input` for what is no address, `no_device` for a worker that can't be used.
 */
export async function connectWorkers(addon: LoadedAddon, addresses: readonly string[]): Promise<Workers> {
  if (addresses.length === 0) return { devices: [], release: () => undefined };
  const plugin = rpcPlugin(addon);
  const resolved: string[] = [];
  for (const text of addresses) {
    const address = await resolveHost(parseAddress(text, 'The list of workers'));
    const { host, port } = address;
    if (resolved.includes(`${host}:${port}`)) {
      throw new PatchscopeError('bad_input', `The worker ${text} is named twice: name each one once.`);
    }
    resolved.push(`${host}:${port}`);
    if (!held.has(`${host}:${port}`)) await greet(address, addon);
  }
  const devices = await addon.addWorkers(plugin, resolved);
  for (const address of resolved) held.set(address, (held.get(address) ?? 0) + 1);
  let released = false;
  return {
    devices,
    release() {
      if (released) return;
      released = true;
      for (const address of resolved) {
        const left = held.get(address)! - 1;
        if (left === 0) held.delete(address);
        else held.set(address, left);
      }
    },
  };
}

/** @throws PatchscopeError `no_addon` where it could not be compiled. */
export function rpcPlugin({ rpcPlugin: plugin }: LoadedAddon): string {
  if (plugin === null) {
    throw new PatchscopeError(
      'no_addon',
      "llama.cpp's RPC backend could not be compiled when this package was installed: workers can't be used or served on this machine.",
    );
  }
  return plugin;
}

/** Does once what llama.cpp's client does first. */
export async function greet({ host, port }: Address, { rpcVersion, llamaCpp }: LoadedAddon): Promise<void> {
  const refuse = (reason: string) => {
    throw new PatchscopeError('no_device', `The worker at ${host}:${port} ${reason}.`);
  };
  const answer = await exchange({ host, port }, HELLO, HELLO_ANSWER_BYTES).catch(
    ({ code }: NodeJS.ErrnoException) =>
      code === 'ETIMEDOUT'
        ? refuse('does not answer: it serves one process at a time, and may be busy')
        : refuse(`can't be reached (${code}): start one there with patchscopes worker --listen HOST:PORT`),
  );
  const [major, minor] = rpcVersion;
  const ours = `llama.cpp ${llamaCpp}, protocol ${major}.${minor}`;
  if (answer === undefined || answer.readBigUInt64LE(0) !== BigInt(HELLO_ANSWER_BYTES - 8)) {
    return refuse(`is no worker of this version (${ours}): start one with patchscopes worker`);
  }
  if (answer[8] !== major || answer[9]! > minor) {
    refuse(
      `speaks protocol ${answer[8]}.${answer[9]}, not that of ${ours}: use the same version on both sides`,
    );
  }
}

/** A command of 1 byte, its length in 8, then 24 zeros, which say that nothing but TCP is to be used. */
const HELLO = Buffer.alloc(1 + 8 + 24);
HELLO[0] = 14;
HELLO.writeBigUInt64LE(24n, 1);
/** A length in 8 bytes, three numbers of the version and a filler, then 24 bytes as above. */
const HELLO_ANSWER_BYTES = 8 + 4 + 24;

/** Sends and waits for so many bytes; undefined where the other side closes before. */
function exchange({ host, port }: Address, message: Buffer, wanted: number): Promise<Buffer | undefined> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ host, port, family: 4 }, () => socket.write(message));
    let received = Buffer.alloc(0);
    const timer = setTimeout(
      () => socket.destroy(Object.assign(new Error('no answer'), { code: 'ETIMEDOUT' })),
      PATIENCE_MS,
    );
    socket.on('data', (data) => {
      received = Buffer.concat([received, data]);
      if (received.length >= wanted) socket.destroy();
    });
    socket.on('error', reject);
    socket.on('close', () => {
      clearTimeout(timer);
      resolve(received.length >= wanted ? received : undefined);
    });
  });
}

/** ggml's server needs IPv4, and a long name would be cut off in the names that ggml gives to tensors. */
export async function resolveHost({ host, port }: Address): Promise<Address> {
  try {
    return { host: (await dns.lookup(host, { family: 4 })).address, port };
  } catch (cause) {
    throw new PatchscopeError('bad_input', `There is no host '${host}': name one, or an IPv4 address.`, {
      cause,
    });
  }
}
