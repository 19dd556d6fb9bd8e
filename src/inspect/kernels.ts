/** Whether products with the weights are fast on this CPU, as its own library answers for each matrix. */
import { type ConversionType, conversionTypes } from '../convert.js';
import { loadedLibrary } from '../devices.js';
import { blockOf, type Header, sum } from '../gguf.js';
import type { LoadedAddon, NativeDevice, NativeTensor } from '../native.js';

export interface Kernels {
  readonly library: string;
  readonly features: readonly string[];
  /** Bytes of the blocks' quantized matrices, and how many of them are repacked at load. */
  readonly quantizedBytes: number;
  readonly repackedBytes: number;
  /** Null where the weights are fast, or no type of nearly the same size would be. */
  readonly advice: Advice | null;
}

export interface Advice {
  readonly type: string;
  /** Of the quantized matrices' bytes. */
  readonly share: number;
  readonly bitsPerWeight: number;
  readonly to: ConversionType;
  readonly toBitsPerWeight: number;
}

export function kernelsOf(header: Header, addon: LoadedAddon, cpu: NativeDevice): Kernels {
  const matrices = header.tensors.filter(
    (tensor) => tensor.isQuantized && tensor.shape.length > 1 && blockOf(tensor) !== null,
  );
  const slow = matrices.filter(({ type, shape }) => addon.repackedBytes(type, shape) === 0);
  const quantizedBytes = bytesOf(matrices);
  return {
    library: loadedLibrary(cpu.registry),
    features: addon.cpuFeatures(),
    quantizedBytes,
    repackedBytes: quantizedBytes - bytesOf(slow),
    advice: 2 * bytesOf(slow) > quantizedBytes ? adviceFor(slow, quantizedBytes, addon) : null,
  };
}

/** What the slow matrices could be converted to: the repacked type that is nearest in size. */
function adviceFor(slow: readonly NativeTensor[], quantizedBytes: number, addon: LoadedAddon): Advice | null {
  const weights = sum(slow.map(({ shape }) => shape.reduce((product, n) => product * n, 1)));
  const bits = (bytes: number) => (8 * bytes) / weights;
  const bitsPerWeight = bits(bytesOf(slow));
  let best: Pick<Advice, 'to' | 'toBitsPerWeight'> | null = null;
  for (const to of conversionTypes) {
    const bytes = slow.map(({ shape }) => addon.repackedBytes(tensorType(to), shape));
    if (bytes.includes(0)) continue;
    const toBitsPerWeight = bits(sum(bytes));
    const isNearer =
      Math.abs(toBitsPerWeight - bitsPerWeight) < Math.abs((best?.toBitsPerWeight ?? NEVER) - bitsPerWeight);
    if (isNearer) best = { to, toBitsPerWeight };
  }
  if (best === null || Math.abs(best.toBitsPerWeight - bitsPerWeight) > NEAR_BITS) return null;
  return { type: commonest(slow), share: bytesOf(slow) / quantizedBytes, bitsPerWeight, ...best };
}

/** From here on another type is another model rather than a faster one. */
const NEAR_BITS = 1.5;
const NEVER = Number.POSITIVE_INFINITY;

/** The type of most tensors in a file of this type: q4_k_m -> q4_K. */
function tensorType(type: ConversionType): string {
  return type.replace(/_k(_[sml])?$/, '_K');
}

function commonest(tensors: readonly NativeTensor[]): string {
  const byType = new Map<string, number>();
  for (const { type, bytes } of tensors) byType.set(type, (byType.get(type) ?? 0) + bytes);
  return [...byType].sort(([, a], [, b]) => b - a)[0]![0];
}

const bytesOf = (tensors: readonly NativeTensor[]): number => sum(tensors.map(({ bytes }) => bytes));
