/**
 * The only seam between experiments and a language model: tokens, layers, rows and floats.
 * An engine does not know what a Patchscope is.
 */
import type { Layer, Site } from './patchscope.js';

/** Splits text into token ids and gives the bytes back. */
export interface Tokenizer {
  readonly vocabularySize: number;
  /** `bos`: put the beginning-of-sequence token first where the model asks for one; `special`: parse special tokens. */
  tokenize(text: string, options: { readonly bos: boolean; readonly special: boolean }): number[];
  /** The bytes of one token; special tokens give their written form. */
  tokenBytes(tokenId: number): Uint8Array;
  isEndOfText(tokenId: number): boolean;
  /** The beginning-of-sequence token, where `tokenize` puts one first. */
  readonly bosToken: number | undefined;
  /**
   * The prompt of one user turn in the model's own chat template, with the beginning-of-sequence token
   * where the template writes one and `bos` is true. Throws where the model has no template.
   */
  chat(userText: string, options: { readonly bos: boolean }): string;
}

/** What an engine says of its model and of itself, kept with each run. */
export interface EngineRecord {
  readonly path: string;
  readonly sha256: string;
  readonly bytes: number;
  readonly architecture: string;
  readonly name: string;
  readonly quantization: string;
  readonly layerCount: number;
  /** Width of a hidden state, in floats. */
  readonly embeddingSize: number;
  readonly vocabularySize: number;
  readonly trainedContext: number;
  readonly llamaCpp: string;
  readonly packageVersion: string;
  /** Variant of the prebuilt libraries: cpu, cuda, vulkan or metal. */
  readonly backend: string;
  /** Library files of the devices in use, and their names. */
  readonly devices: readonly {
    readonly name: string;
    readonly description: string;
    readonly library: string;
  }[];
  readonly gpuLayers: number;
  /** `none`: one GPU device takes all of these blocks; `layer`: each of the GPU devices takes some. */
  readonly splitMode: 'none' | 'layer';
  readonly threads: number;
  readonly flashAttention: boolean;
  readonly typeK: string;
  readonly typeV: string;
  readonly exact: boolean;
  /** Most tokens in one decode, most patched rows, most tokens whose logits are computed at once. */
  readonly batchTokens: number;
  readonly batchRows: number;
  readonly batchOutputs: number;
  /** `unified`: all sequences share the cells of the K/V cache. */
  readonly cacheLayout: 'unified';
  /** Most tokens of a prompt and its continuation. */
  readonly promptTokens: number;
}

export interface CapturePoint {
  readonly site: Site;
  /** Block, or `embed` for the site of that name. */
  readonly layer: Layer;
  /** Index of a token of the prompt. */
  readonly tokenIndex: number;
}

export interface CaptureRequest {
  readonly tokenIds: readonly number[];
  readonly points: readonly CapturePoint[];
}

/** One replaced state: `vector` has the width of the model. */
export interface Edit extends CapturePoint {
  readonly vector: Float32Array;
}

/** One patched run. */
export interface PatchRow {
  readonly tokenIds: readonly number[];
  readonly edits: readonly Edit[];
}

export interface RowReading {
  readonly topK: number;
  /** Tokens generated for each row, greedily; 0 reads the prompt only. */
  readonly maxTokens: number;
  readonly stop?: readonly string[];
  /** Log-probability and rank of these tokens are read at each position read. */
  readonly trackedTokens?: readonly number[];
  /** Prompt positions that are read beside the last one. */
  readonly tokenIndexes?: readonly number[];
  /** Keep all logits of each position read. */
  readonly logits?: boolean;
}

/** The next-token distribution at one position. Log-probabilities are natural. */
export interface TokenReading {
  readonly top: readonly {
    readonly tokenId: number;
    readonly logprob: number;
  }[];
  /** Rank 0 is the most probable token. */
  readonly tracked: readonly {
    readonly tokenId: number;
    readonly logprob: number;
    readonly rank: number;
  }[];
  readonly logits?: Float32Array;
}

export type RowResult =
  | {
      readonly status: 'ok';
      readonly tokenIds: readonly number[];
      /** Decoded continuation, cut at a stop string. */
      readonly text: string;
      /** One for each generated token, the first being the one after the prompt. */
      readonly steps: readonly TokenReading[];
      /** Readings at `tokenIndexes`, in their order. */
      readonly positions: readonly TokenReading[];
    }
  | {
      readonly status: 'failed';
      readonly code: string;
      readonly error: string;
    };

export interface LensReading extends Pick<RowReading, 'topK' | 'trackedTokens' | 'logits'> {
  /**
   * `fast` computes the end of the model's graph alone, `slow` a whole run with the state in the last
   * block's place. Default: fast where it agrees with slow on this model.
   */
  readonly way?: 'fast' | 'slow';
}

export type LensResult =
  | ({ readonly status: 'ok' } & TokenReading)
  | { readonly status: 'failed'; readonly code: string; readonly error: string };

/** States of one request, in the order of its points; width floats each. */
export type CaptureResult =
  | { readonly status: 'ok'; readonly states: readonly Float32Array[] }
  | {
      readonly status: 'failed';
      readonly code: string;
      readonly error: string;
    };

export interface Engine {
  readonly record: EngineRecord;
  readonly tokenizer: Tokenizer;
  capture(requests: readonly CaptureRequest[]): Promise<CaptureResult[]>;
  patch(rows: readonly PatchRow[], reading: RowReading): Promise<RowResult[]>;
  /** Final norm and unembedding of states: (n, width) row-major -> one result each. */
  lens(states: Float32Array, reading: LensReading): Promise<LensResult[]>;
  /** Idempotent; work under way ends with code `closed`. */
  close(): Promise<void>;
}
