/** Which variant of the prebuilt libraries to load, and which devices it then has. */
import fs from 'node:fs';
import { PatchscopeError } from './errors.js';
import {
  builtVariants,
  type LoadedAddon,
  loadAddon,
  loadedVariant,
  type NativeDevice,
  type SplitMode,
} from './native.js';

export const gpuChoices = ['auto', 'off', 'cuda', 'vulkan', 'metal'] as const;
export type GpuChoice = (typeof gpuChoices)[number];

const splitModes: readonly SplitMode[] = ['none', 'layer'];

export interface Devices {
  readonly addon: LoadedAddon;
  /** None where GPUs are switched off. */
  readonly gpus: readonly NativeDevice[];
  readonly cpu: NativeDevice;
}

/**
 * Loads the libraries for `choice`. `auto` takes a GPU's where its driver shows one, else the CPU's.
 *
 * @throws PatchscopeError `no_device` where the kind that was asked for is not there.
 */
export function openDevices(choice: GpuChoice): Devices {
  // every variant can use the CPU alone, and a process loads one
  const any = choice === 'auto' || choice === 'off' ? loadedVariant() : choice;
  const addon = loadAddon(any ?? (choice === 'auto' ? autoVariant().variant : 'cpu'));
  const devices = addon.devices();
  const cpu = devices.find(({ kind }) => kind === 'cpu');
  if (cpu === undefined) {
    throw new PatchscopeError(
      'no_device',
      `No CPU backend was found in ${addon.librariesFolder}: install again.`,
    );
  }
  const own = devices.filter(({ kind }) => kind === 'gpu');
  // one that shares the CPU's memory would only slow down those that have their own
  const gpus = own.length > 0 ? own : devices.filter(({ kind }) => kind === 'integrated');
  if (choice !== 'auto' && choice !== 'off' && gpus.length === 0) {
    throw new PatchscopeError(
      'no_device',
      `No ${choice} device was found on this machine: check its driver, or use --gpu off.`,
    );
  }
  return { addon, gpus: choice === 'off' ? [] : gpus, cpu };
}

/** What `auto` takes where no variant is loaded yet, and the sign it goes by. */
export function autoVariant(): { readonly variant: string; readonly reason: string } {
  const built = builtVariants().map(({ variant }) => variant);
  if (built.includes('metal')) return { variant: 'metal', reason: 'every Mac has it' };
  for (const [variant, sign] of driverSigns) {
    if (built.includes(variant) && fs.existsSync(sign)) return { variant, reason: `${sign} is there` };
  }
  const signs = driverSigns.map(([, sign]) => sign).join(' nor ');
  return { variant: 'cpu', reason: `no driver has made ${signs}` };
}

const driverSigns = [
  ['cuda', '/dev/nvidiactl'],
  ['vulkan', '/dev/dri'],
] as const;

/** The GPU devices that may take blocks. */
export function blockDevices({ gpus }: Devices, splitMode: SplitMode): readonly NativeDevice[] {
  return splitMode === 'layer' ? gpus : gpus.slice(0, 1);
}

/** @throws PatchscopeError `bad_input` where llama.cpp has no such split mode, or none that lets states be read. */
export function checkSplitMode(splitMode: string): SplitMode {
  const known = splitModes.find((mode) => mode === splitMode);
  if (known !== undefined) return known;
  throw new PatchscopeError(
    'bad_input',
    splitMode === 'row' || splitMode === 'tensor'
      ? `-sm ${splitMode} cuts hidden states into pieces, and llama.cpp ends the process where one is read: use -sm layer or none.`
      : `-sm is '${splitMode}' where one of ${splitModes.join(', ')} is needed.`,
  );
}

/** File names of the device libraries this process has loaded, by their registry's name in lower case. */
export function loadedLibrary(registry: string): string {
  const pattern = new RegExp(`/(lib(?:ggml-)${registry.toLowerCase()}[^/]*)$`, 'm');
  try {
    return pattern.exec(fs.readFileSync('/proc/self/maps', 'utf8'))?.[1] ?? registry;
  } catch {
    return registry; // no /proc: macOS
  }
}
