/** Where the bytes of a model lie, and what fits beside them. Simple sums: what llama.cpp computes in is left out. */
import { blockOf, type Header, sum } from '../gguf.js';
import type { NativeDevice } from '../native.js';
import type { Side } from '../patchscope.js';

export interface Memory {
  /** Of all weights. */
  readonly bytes: number;
  readonly embeddingBytes: number;
  /** 0 where the embedding is used again. */
  readonly outputBytes: number;
  /** Weights that belong to no block and are neither embedding nor output, such as the last norm. */
  readonly otherBytes: number;
  /** Of the decoder, in an encoder-decoder model. */
  readonly blockBytes: readonly number[];
  /** None where there is no encoder. */
  readonly encoderBlockBytes: readonly number[];
  /** Of a K/V cache in f16; null where it can't be told. */
  readonly cacheBytesPerToken: number | null;
  readonly cacheBytesPerTokenByBlock: readonly number[] | null;
}

export interface Fit {
  readonly freeBytes: number;
  /** Tokens whose K/V fit into free memory beside the weights; null where K/V are not known or not kept. */
  readonly tokens: number | null;
  readonly gpus: readonly GpuFit[];
}

export interface GpuFit {
  readonly name: string;
  readonly freeBytes: number;
  /** As -ngl counts: the output, then blocks from the last. */
  readonly gpuLayers: number;
  /** Tokens of context whose K/V were counted with them. */
  readonly contextTokens: number;
}

/** @param measured bytes of K/V for each token, as a context of the loaded model takes them. */
export function memoryOf(header: Header, measured: number | null): Memory {
  const zeros = (side: Side): number[] => Array.from({ length: header.blockCount(side) ?? 0 }, () => 0);
  const bytesBySide = { encoder: zeros('encoder'), decoder: zeros('decoder') };
  let [embeddingBytes, outputBytes, otherBytes] = [0, 0, 0];
  for (const tensor of header.tensors) {
    const { side, block } = blockOf(tensor) ?? { side: 'decoder', block: Number.POSITIVE_INFINITY };
    const blockBytes = bytesBySide[side];
    if (block < blockBytes.length) blockBytes[block]! += tensor.bytes;
    else if (/^(token_|position_)/.test(tensor.name)) embeddingBytes += tensor.bytes;
    else if (tensor.name.startsWith('output.')) outputBytes += tensor.bytes;
    else otherBytes += tensor.bytes;
  }
  const byBlock = cacheByBlock(header);
  const stated = byBlock && sum(byBlock);
  return {
    bytes: header.bytes,
    embeddingBytes,
    outputBytes,
    otherBytes,
    blockBytes: bytesBySide.decoder,
    encoderBlockBytes: bytesBySide.encoder,
    cacheBytesPerToken: measured ?? stated,
    // some architectures keep other K/V than their heads say
    cacheBytesPerTokenByBlock: measured === null || measured === stated ? byBlock : null,
  };
}

/** K and V of each block in f16, by the heads that the file states. */
function cacheByBlock(header: Header): number[] | null {
  const heads = header.sizes('attention.head_count');
  const keepsNone = header.flag(`${header.architecture}.attention.causal`) === false;
  if (heads === null || keepsNone) return null;
  const kvHeads = header.sizes('attention.head_count_kv') ?? heads;
  const width = header.size('embedding_length') ?? 0;
  const bytes = kvHeads.map((count, block) => {
    const size = count === 0 ? 0 : Math.floor(width / heads[block]!);
    const [k, v] = ['key', 'value'].map((name) => header.size(`attention.${name}_length`) ?? size);
    return 2 * count * (k! + v!);
  });
  return bytes.every(Number.isFinite) ? bytes : null;
}

export function fitOf(
  memory: Memory,
  freeBytes: number,
  gpus: readonly NativeDevice[],
  trainedContext: number | null,
): Fit {
  const { bytes, cacheBytesPerToken } = memory;
  const contextTokens = Math.min(trainedContext ?? USUAL_CONTEXT, USUAL_CONTEXT);
  return {
    freeBytes,
    tokens: cacheBytesPerToken ? Math.max(0, Math.floor((freeBytes - bytes) / cacheBytesPerToken)) : null,
    gpus: gpus.map((gpu) => ({
      name: `${gpu.name} (${gpu.description})`,
      freeBytes: gpu.freeBytes,
      gpuLayers: gpuLayers(memory, gpu.freeBytes, contextTokens),
      contextTokens,
    })),
  };
}

const USUAL_CONTEXT = 4096;

function gpuLayers(memory: Memory, freeBytes: number, contextTokens: number): number {
  const { blockBytes, encoderBlockBytes, outputBytes, embeddingBytes, cacheBytesPerToken } = memory;
  // blocks of one number go together, whatever their side
  const numbered = Array.from(
    { length: Math.max(blockBytes.length, encoderBlockBytes.length) },
    (_, block) => (blockBytes[block] ?? 0) + (encoderBlockBytes[block] ?? 0),
  );
  const cache = ((cacheBytesPerToken ?? 0) * contextTokens) / Math.max(1, numbered.length);
  const costs = [outputBytes || embeddingBytes, ...numbered.map((bytes) => bytes + cache).reverse()];
  let rest = freeBytes;
  const first = costs.findIndex((cost) => {
    rest -= cost;
    return rest < 0;
  });
  return first === -1 ? costs.length : first;
}
