/**
 * Where the tests compute: PATCHSCOPES_TEST_DEVICE is cpu (default), vulkan:all, vulkan:2, rpc:all or rpc:2, the
 * number being that of the layers there. PATCHSCOPES_TEST_WORKERS lists the workers of rpc.
 */
import assert from 'node:assert/strict';
import { openDevices } from '../src/devices.js';
import type { EngineOptions } from '../src/llama/llama-engine.js';
import type { NativeModel } from '../src/native.js';
import { connectWorkers } from '../src/workers.js';

const name = process.env.PATCHSCOPES_TEST_DEVICE ?? 'cpu';
const [, kind, layers] = /^(cpu|vulkan|rpc)(?::(all|\d+))?$/.exec(name) ?? [];
assert.ok(
  kind !== undefined && (kind === 'cpu') === (layers === undefined),
  `there is no test device ${name}`,
);

const workers = kind === 'rpc' ? process.env.PATCHSCOPES_TEST_WORKERS!.split(',') : [];

const options: EngineOptions = {
  gpu: kind === 'vulkan' ? 'vulkan' : kind === 'rpc' ? 'off' : 'auto',
  ...(layers !== undefined && { gpuLayers: layers === 'all' ? ('all' as const) : Number(layers) }),
  ...(workers.length > 0 && { rpc: workers }),
};

/** Adds nothing on the CPU, so that tests there ask for what users ask for. */
export const device = {
  name,
  isCpu: kind === 'cpu',
  options: kind === 'cpu' ? {} : options,
  /** Its kernels differ by the number of rows, so only decodes of one shape give the same bits. */
  roundsByShape: kind === 'vulkan',
  /** A software driver compiles its shaders for each shape, which takes seconds a piece. */
  oneModel: kind === 'vulkan',
};

/** A model of the addon itself, without an engine. */
export async function loadNative(path: string): Promise<NativeModel> {
  const { addon, gpus } = openDevices(options.gpu!);
  const remote = await connectWorkers(addon, workers);
  const devices = device.isCpu ? [] : [...remote.devices, ...gpus].map((one) => one.name);
  const asked = layers === 'all' ? 9999 : Number(layers);
  const gpuLayers = device.isCpu ? 0 : asked;
  return addon.load(path, { gpuLayers, devices, splitMode: 'layer' });
}
