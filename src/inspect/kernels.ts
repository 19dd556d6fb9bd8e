/** Whether products with a model's weights are fast on this CPU. */
import type { ConversionType } from '../convert.js';
import { loadedLibrary } from '../devices.js';
import { blockOf, type Header, sum } from '../gguf.js';
import type { LoadedAddon, NativeDevice, NativeTensor } from '../native.js';

export interface Kernels {
  readonly library: string;
  readonly features: readonly string[];
  /** Bytes of the blocks' quantized matrices; of those that are repacked at load; of those that are fast, so or otherwise. */
  readonly quantizedBytes: number;
  readonly repackedBytes: number;
  readonly fastBytes: number;
  /** Null where most of the weights are fast, or no type of about the same size would be. */
  readonly advice: Advice | null;
}

export interface Advice {
  /** Type of most of the slow matrices. */
  readonly type: string;
  readonly bitsPerWeight: number;
  readonly to: ConversionType;
  readonly toBitsPerWeight: number;
}

type Matrix = Pick<NativeTensor, 'type' | 'shape'>;

/** Quick types and what most of their matrices are; of two that are equally near in size, the first is advised. */
const candidates: readonly (readonly [ConversionType, tensorType: string])[] = [
  ['q4_0', 'q4_0'],
  ['iq4_nl', 'iq4_nl'],
  ['q4_k_m', 'q4_K'],
  ['iq4_xs', 'iq4_xs'],
  ['q5_0', 'q5_0'],
  ['q5_k_m', 'q5_K'],
  ['q6_k', 'q6_K'],
  ['q8_0', 'q8_0'],
];

export function kernelsOf(header: Header, addon: LoadedAddon, cpu: NativeDevice): Kernels {
  const features = addon.cpuFeatures();
  const isRepacked = ({ type, shape }: Matrix) => addon.matrixCost(type, shape).isRepacked;
  const isFast = (matrix: Matrix) => isRepacked(matrix) || hasBatchKernel(matrix.type, features);
  const matrices = header.tensors.filter(
    (tensor) => tensor.isQuantized && tensor.shape.length > 1 && blockOf(tensor) !== null,
  );
  const slow = matrices.filter((matrix) => !isFast(matrix));
  const quantizedBytes = bytesOf(matrices);
  return {
    library: loadedLibrary(cpu.registry),
    features,
    quantizedBytes,
    repackedBytes: bytesOf(matrices.filter(isRepacked)),
    fastBytes: quantizedBytes - bytesOf(slow),
    advice: 2 * bytesOf(slow) > quantizedBytes ? adviceFor(slow, addon, isFast) : null,
  };
}

/** Products of many rows that are fast without repacking. llama.cpp can't be asked for these: so it was in its source. */
function hasBatchKernel(type: string, features: readonly string[]): boolean {
  const has = (feature: string) => features.includes(feature);
  if (/^iq/.test(type)) return has('AVX2');
  if (type === 'q5_0') return has('LLAMAFILE') && has('AVX');
  return /^(q4_0|q8_0)$/.test(type) && has('LLAMAFILE');
}

/** What the slow matrices could be converted to: the fast type nearest in size that loses next to no bits. */
function adviceFor(
  slow: readonly NativeTensor[],
  addon: LoadedAddon,
  isFast: (matrix: Matrix) => boolean,
): Advice | null {
  const weights = sum(slow.map(({ shape }) => shape.reduce((product, n) => product * n, 1)));
  const bitsPerWeight = (8 * bytesOf(slow)) / weights;
  const fitting = candidates.flatMap(([to, type]) => {
    if (!slow.every(({ shape }) => isFast({ type, shape }))) return [];
    const bytes = slow.map(({ shape }) => addon.matrixCost(type, shape).bytes);
    const toBitsPerWeight = (8 * sum(bytes)) / weights;
    const change = toBitsPerWeight - bitsPerWeight;
    const isNear = !bytes.includes(0) && change >= -BITS_LOST && change <= BITS_GAINED;
    return isNear ? [{ to, toBitsPerWeight, distance: Math.abs(change) }] : [];
  });
  const [best] = fitting.sort((a, b) => a.distance - b.distance);
  if (best === undefined) return null;
  const { to, toBitsPerWeight } = best;
  return { type: commonest(slow), bitsPerWeight, to, toBitsPerWeight };
}

const BITS_LOST = 0.6;
const BITS_GAINED = 2;

function commonest(tensors: readonly NativeTensor[]): string {
  const byType = new Map<string, number>();
  for (const { type, bytes } of tensors) byType.set(type, (byType.get(type) ?? 0) + bytes);
  return [...byType].sort(([, a], [, b]) => b - a)[0]![0];
}

const bytesOf = (tensors: readonly NativeTensor[]): number => sum(tensors.map(({ bytes }) => bytes));
