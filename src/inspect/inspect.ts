/** All that can be told of a model without an experiment. */
import os from 'node:os';
import { type GpuChoice, openDevices } from '../devices.js';
import { blockOf, type Header, readHeader, type TypeShare } from '../gguf.js';
import { type Probe, probeModel } from '../llama/probe.js';
import type { ResolvedModel } from '../models/resolve.js';
import type { NativeTensor } from '../native.js';
import type { Side } from '../patchscope.js';
import { type Kernels, kernelsOf } from './kernels.js';
import { type Fit, fitOf, type Memory, memoryOf } from './memory.js';

export interface Inspection extends Omit<ResolvedModel, 'parts'> {
  readonly parts: number;
  /** Null, here and below, where the file does not say it. */
  readonly architecture: string | null;
  readonly name: string | null;
  /** The decoder's, in an encoder-decoder model. */
  readonly layerCount: number | null;
  /** 0 where there is no encoder. */
  readonly encoderLayerCount: number | null;
  readonly embeddingSize: number | null;
  /** One number, or one for each block where they differ. */
  readonly heads: number | readonly number[] | null;
  readonly kvHeads: number | readonly number[] | null;
  readonly headSize: number | null;
  readonly vocabularySize: number | null;
  readonly tokenizer: string | null;
  readonly bos: SpecialToken | null;
  readonly addsBos: boolean | null;
  readonly eos: SpecialToken | null;
  readonly chatTemplate: string | null;
  readonly trainedContext: number | null;
  /** llama.cpp's name of the file's type. */
  readonly quantization: string | null;
  readonly types: readonly TypeShare[];
  readonly tensors: readonly InspectedTensor[];
  /** The decoder's, in an encoder-decoder model. */
  readonly sites: Probe['sites'];
  /** None where there is no encoder. */
  readonly encoderSites: Probe['encoderSites'];
  /** Why there are none, else null. */
  readonly noSites: string | null;
  readonly memory: Memory;
  readonly fit: Fit;
  readonly kernels: Kernels;
}

/** Side and block are null where it belongs to no block; a block that is not an encoder's is a decoder's. */
export interface InspectedTensor extends Omit<NativeTensor, 'offset'> {
  readonly side: Side | null;
  readonly block: number | null;
}

export interface SpecialToken {
  readonly tokenId: number;
  readonly text: string;
}

/**
 * Reads a model's header, loads it to find its sites, and closes it again. A model that an engine refuses
 * is inspected too, and `noSites` says why.
 *
 * @throws PatchscopeError `bad_model` where the file is no readable GGUF file, `no_device`.
 */
export async function inspectModel(
  file: ResolvedModel,
  options: { readonly gpu?: GpuChoice } = {},
): Promise<Inspection> {
  const { addon, cpu, gpus } = openDevices(options.gpu ?? 'auto');
  const header = await readHeader(file, addon);
  const freeBytes = process.availableMemory?.() ?? os.freemem();
  const probe = header.bytes < freeBytes ? await probeModel(file, addon) : tooLarge(header.bytes, freeBytes);
  const { info } = probe;
  const trainedContext = header.size('context_length');
  const memory = memoryOf(header, info?.isRecurrent ? null : probe.cacheBytesPerToken);
  const heads = perBlock(header, 'attention.head_count');
  return {
    path: file.path,
    sha256: file.sha256,
    bytes: file.bytes,
    parts: file.parts.length,
    architecture: header.architecture,
    name: header.text('general.name'),
    layerCount: info?.layerCount ?? header.blockCount('decoder'),
    encoderLayerCount: info?.encoderLayerCount ?? header.blockCount('encoder'),
    embeddingSize: header.size('embedding_length'),
    heads,
    kvHeads: perBlock(header, 'attention.head_count_kv') ?? heads,
    headSize: header.size('attention.key_length') ?? quotient(header.size('embedding_length'), heads),
    vocabularySize: header.list('tokenizer.ggml.tokens').length || null,
    tokenizer: header.text('tokenizer.ggml.model'),
    bos: specialToken(header, info?.bosToken ?? header.id('tokenizer.ggml.bos_token_id')),
    addsBos: info?.addsBos ?? header.flag('tokenizer.ggml.add_bos_token'),
    eos: specialToken(header, info?.eosToken ?? header.id('tokenizer.ggml.eos_token_id')),
    chatTemplate: header.text('tokenizer.chat_template'),
    trainedContext,
    quantization: info?.quantization ?? header.fileType,
    types: header.types,
    tensors: header.tensors.map(({ offset: _, ...tensor }) => ({
      ...tensor,
      ...(blockOf(tensor) ?? { side: null, block: null }),
    })),
    sites: probe.sites,
    encoderSites: probe.encoderSites,
    noSites: probe.reason,
    memory,
    fit: fitOf(memory, freeBytes, gpus, trainedContext),
    kernels: kernelsOf(header, addon, cpu),
  };
}

function tooLarge(bytes: number, freeBytes: number): Probe {
  const [weights, free] = [bytes, freeBytes].map((count) => (count / 1e9).toFixed(1));
  const reason = `The model was not loaded: its weights take ${weights} GB where ${free} GB are free.`;
  return { info: null, sites: {}, encoderSites: {}, reason, cacheBytesPerToken: null };
}

function perBlock(header: Header, key: string): number | readonly number[] | null {
  const sizes = header.sizes(key);
  if (sizes === null) return null;
  return sizes.every((size) => size === sizes[0]) ? sizes[0]! : sizes;
}

function quotient(width: number | null, heads: Inspection['heads']): number | null {
  return width !== null && typeof heads === 'number' && heads > 0 ? width / heads : null;
}

function specialToken(header: Header, tokenId: number | null): SpecialToken | null {
  const text = tokenId === null ? undefined : header.list('tokenizer.ggml.tokens')[tokenId];
  return text === undefined ? null : { tokenId: tokenId!, text: String(text) };
}
