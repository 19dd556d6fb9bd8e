/** Each variant of the libraries: whether it loads, what it shows, and what it lacks. */
import { fork } from 'node:child_process';
import { type BuiltVariant, builtVariants, type NativeDevice } from '../native.js';
import { type Check, gigabytes } from './check.js';
import type { DevicesMessage } from './devices-child.js';
import { adviceFor, missingLibraries } from './libraries.js';

export interface VariantCheck extends Check {
  readonly variant: string;
  readonly origin: BuiltVariant['origin'];
  readonly devices: readonly NativeDevice[];
  /** Shared libraries that were not found. */
  readonly missing: readonly string[];
}

export async function checkVariants(): Promise<VariantCheck[]> {
  const checks: VariantCheck[] = [];
  for (const built of builtVariants()) checks.push(await checkVariant(built));
  return checks;
}

/** Variants for this system that no libraries are there for. */
export function checkAbsent(): Check[] {
  const there = builtVariants().map(({ variant }) => variant);
  return (process.platform === 'darwin' ? ['metal'] : ['cuda', 'vulkan'])
    .filter((variant) => !there.includes(variant))
    .map((variant) => ({
      check: variant,
      status: 'missing',
      text: 'there are no libraries',
      advice: `\`patchscopes build --gpu ${variant}\` compiles them on this machine`,
    }));
}

async function checkVariant({ variant, origin, librariesFolder }: BuiltVariant): Promise<VariantCheck> {
  const told = await devicesOf(variant);
  const missing = missingLibraries(librariesFolder);
  const devices = told.kind === 'done' ? told.devices : [];
  const where = origin === 'local' ? 'built here' : 'prebuilt';
  const shown = devices.map(
    ({ name, description, freeBytes, totalBytes }) =>
      `${name} (${description.trim()}, ${gigabytes(freeBytes)} of ${gigabytes(totalBytes)} free)`,
  );
  const common = { check: variant, variant, origin, devices, missing };
  if (told.kind === 'failed' || !devices.some(({ kind }) => kind === 'cpu')) {
    return {
      ...common,
      status: 'missing',
      text: `${where}, can't be used: ${told.kind === 'failed' ? told.reason.replace(/\.$/, '') : 'it has no CPU backend'}`,
      advice:
        missing.length > 0 ? lacks(missing) : 'run `npm rebuild patchscopes`, in a checkout `npm run build`',
    };
  }
  const text = `${where}, shows ${shown.join(' and ')}`;
  if (variant === 'cpu' || devices.some(({ kind }) => kind === 'gpu' || kind === 'integrated')) {
    return { ...common, status: 'ok', text, advice: null };
  }
  return {
    ...common,
    status: 'missing',
    text,
    advice: missing.length > 0 ? lacks(missing) : noDevice(variant),
  };
}

function lacks(missing: readonly string[]): string {
  return `not found: ${missing.join(', ')}; ${adviceFor(missing)}`;
}

function noDevice(variant: string): string {
  return variant === 'vulkan'
    ? "no GPU with a Vulkan driver: install the GPU's (Debian: apt install mesa-vulkan-drivers, or NVIDIA's driver); GGML_VK_VISIBLE_DEVICES=0 shows Mesa's driver in software too"
    : `no ${variant} device: check the driver`;
}

function devicesOf(variant: string): Promise<DevicesMessage> {
  return new Promise((resolve) => {
    const child = fork(new URL('./devices-child.js', import.meta.url), [variant], {
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
      timeout: 30_000,
      killSignal: 'SIGKILL',
    });
    let message: DevicesMessage | undefined;
    child.on('message', (told: DevicesMessage) => {
      message = told;
      child.kill();
    });
    child.on('error', ({ message: reason }) => resolve({ kind: 'failed', reason }));
    child.on('close', (code, signal) =>
      resolve(
        message ?? { kind: 'failed', reason: `the process that loads it ended with ${signal ?? code}` },
      ),
    );
  });
}
