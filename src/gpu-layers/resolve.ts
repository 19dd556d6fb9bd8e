/** `-ngl`: blocks on GPU devices, as asked for or as many as fit. */
import { PatchscopeError } from '../errors.js';
import { type EstimateTask, estimateNeeds } from './estimate.js';
import { layersThatFit } from './fit.js';

/** `auto`: as many as fit; `all`: all of them, and the output. */
export type GpuLayers = number | 'auto' | 'all';

/** llama.cpp cuts it to the number of blocks, the output counting as one more. */
export const ALL_LAYERS = 9999;

export interface LayerOptions {
  readonly asked: GpuLayers;
  /** Free bytes of each GPU device that may take blocks; none where GPUs are off or absent. */
  readonly freeBytes: readonly number[];
  readonly gpusAreOff: boolean;
  readonly task: EstimateTask;
  readonly onNote?: ((line: string) => void) | undefined;
  readonly estimate?: typeof estimateNeeds;
}

/**
 * Blocks to be put on GPU devices, the output counting as one. Nothing is estimated where the answer is plain.
 *
 * @throws PatchscopeError `no_device` where blocks are asked to go to a GPU that is not there.
 */
export async function resolveGpuLayers(options: LayerOptions): Promise<number> {
  const { asked, freeBytes, gpusAreOff } = options;
  if (freeBytes.length === 0) {
    if (asked === 'auto' || asked === 0) return 0;
    throw new PatchscopeError(
      'no_device',
      `-ngl ${asked} asks for a GPU, but ${gpusAreOff ? '--gpu is off' : 'none was found'}: use -ngl 0.`,
    );
  }
  if (asked === 'all') return ALL_LAYERS;
  return asked === 'auto' ? estimatedLayers(options) : asked;
}

async function estimatedLayers({
  freeBytes,
  task,
  onNote,
  estimate = estimateNeeds,
}: LayerOptions): Promise<number> {
  const needs = await estimate(task).catch((error: Error) => {
    onNote?.(
      `How many layers fit the GPU could not be estimated (${error.message.replace(/\s+/g, ' ').replace(/\.$/, '')}): all of them go there; -ngl N says otherwise.`,
    );
    return undefined;
  });
  if (needs === undefined) return ALL_LAYERS;
  const all = needs.length - 1;
  const layers = layersThatFit(needs, freeBytes);
  if (layers < all) {
    const free = freeBytes.reduce((sum, bytes) => sum + bytes, 0);
    onNote?.(
      `-ngl auto is ${layers} of ${all}: all would need ${gigabytes(needs[all]!)} GB where the GPU has ${gigabytes(free)} GB free; a smaller -c or -ctk and -ctv q8_0 need less.`,
    );
  }
  return layers;
}

function gigabytes(bytes: number): string {
  return (bytes / 1e9).toFixed(1);
}
