/**
 * The only seam between experiments and a language model: tokens, layers, rows and floats.
 * An engine does not know what a Patchscope is.
 */
import type { Adapter, EditOp, Layer, Sampling, Side, Site } from './patchscope.js';

/** Splits text into token ids and gives the bytes back. */
export interface Tokenizer {
  readonly vocabularySize: number;
  /** `bos`: put the beginning-of-sequence token first where the model asks for one; `special`: parse special tokens. */
  tokenize(text: string, options: { readonly bos: boolean; readonly special: boolean }): number[];
  /** The bytes of one token; special tokens give their written form. */
  tokenBytes(tokenId: number): Uint8Array;
  isEndOfText(tokenId: number): boolean;
  /** The token that the decoder of an encoder-decoder model begins with; other models have none. */
  readonly decoderStartToken?: number | undefined;
  /** The beginning-of-sequence token, where `tokenize` puts one first. */
  readonly bosToken: number | undefined;
  /** What prompts are filled up with: the model's padding token, or where it has none its end of text. */
  readonly padToken?: number | undefined;
  /** The token that ends a text. */
  readonly endToken?: number | undefined;
  /**
   * The prompt of one user turn in the model's own chat template, with the beginning-of-sequence token
   * where the template writes one and `bos` is true. Throws where the model has no template.
   */
  chat(userText: string, options: { readonly bos: boolean }): string;
}

/** `unified`: all rows share the cells of the K/V cache; `streams`: each row has cells of its own. */
export type CacheLayout = 'unified' | 'streams';

/** An adapter as it was loaded. */
export interface AdapterRecord extends Adapter {
  readonly bytes: number;
  /** What it adds is also multiplied by this, divided by its rank; 0 where its file says none, and the scale alone counts. */
  readonly alpha: number;
}

/** What an engine says of its model and of itself, kept with each run. */
export interface EngineRecord {
  readonly path: string;
  readonly sha256: string;
  readonly bytes: number;
  readonly architecture: string;
  readonly name: string;
  readonly quantization: string;
  /** Blocks, in an encoder-decoder model those of its decoder. */
  readonly layerCount: number;
  /** Blocks of the encoder; 0 where there is none. */
  readonly encoderLayerCount: number;
  /** Width of a hidden state, in floats. */
  readonly embeddingSize: number;
  readonly vocabularySize: number;
  readonly trainedContext: number;
  readonly llamaCpp: string;
  readonly packageVersion: string;
  /** First digits of the sha256 of the compiled addon. */
  readonly addon: string;
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
  /** What its model may be read with. Default: none. */
  readonly adapters?: readonly AdapterRecord[];
  readonly threads: number;
  readonly flashAttention: boolean;
  readonly typeK: string;
  readonly typeV: string;
  readonly exact: boolean;
  /** Most tokens in one decode, most patched rows, most tokens whose logits are computed at once. */
  readonly batchTokens: number;
  readonly batchRows: number;
  readonly batchOutputs: number;
  /** Bytes that one token takes in the K/V cache. */
  readonly cacheTokenBytes: number;
  /** Why the K/V cache can't have the layout `streams`, as a clause; null where it can. */
  readonly noStreams: string | null;
  /** Most tokens of a prompt and its continuation. */
  readonly promptTokens: number;
}

/** What is said of the models of an experiment. */
export interface ModelRecords {
  /** Of the target's. */
  readonly record: EngineRecord;
  /** Default: the same. */
  readonly sourceRecord?: EngineRecord;
}

/** What a model reads. */
export interface TokenInput {
  /** In an encoder-decoder model the decoder's. */
  readonly tokenIds: readonly number[];
  /** Needed by an encoder-decoder model, and refused by any other. */
  readonly encoderTokenIds?: readonly number[];
  /** Name of one of the engine's adapters, with which the model reads this, and goes on. Default: none. */
  readonly adapter?: string;
}

export interface CapturePoint {
  /** Of an encoder-decoder model; layer and token index count in it. Default: `decoder`. */
  readonly side?: Side;
  readonly site: Site;
  /** Block, or `embed` for the site of that name. */
  readonly layer: Layer;
  /** Index of a token of the prompt. */
  readonly tokenIndex: number;
}

export interface CaptureRequest extends TokenInput {
  readonly points: readonly CapturePoint[];
}

/** One edited state. */
export interface Edit extends CapturePoint {
  /** Default: `replace`. */
  readonly op?: EditOp;
  /** Default: 1. */
  readonly alpha?: number;
  /** As wide as the model; left out with `scale`, which has none. */
  readonly vector?: Float32Array;
  /** Also at each generated token that is read on. Default: at the prompt's token alone. */
  readonly atGenerated?: boolean;
  /**
   * With `atGenerated`: at the k-th generated token (1 is the first) alpha is decay^k times as large; 0 leaves these
   * tokens as they are. Of ops that do nothing with an alpha of 0. Default: 1.
   */
  readonly decay?: number;
}

/**
 * What the logits z of a row are contrasted with wherever they are read. A token whose probability by z is below
 * `cutoff` (from 0 to 1) times the largest one is left out: its log-probability is -Infinity, and it is none of the
 * most probable tokens.
 */
export type Contrast = StreamContrast | LayerContrast;

/** z + alpha (z - z'): z' are the logits of the same tokens and cuts with other edits, generated tokens included. */
export interface StreamContrast {
  readonly edits: readonly Edit[];
  readonly alpha: number;
  readonly cutoff: number;
}

/**
 * z - z': z' is what final norm and unembedding make of the same token's state at one of these layers, of the one
 * whose distribution is farthest from that of z (Jensen-Shannon divergence).
 */
export interface LayerContrast {
  /** Before the last. */
  readonly layers: readonly Layer[];
  readonly cutoff: number;
}

/**
 * Edges of attention that are cut: in these layers the tokens `from` do not attend to the tokens `to`. Only
 * earlier tokens can be cut off; a token always attends to itself. In an encoder-decoder model all of it is of
 * the decoder, among its own tokens.
 */
export interface AttentionCut {
  /** Indexes of tokens of the prompt. */
  readonly from: readonly number[];
  readonly to: readonly number[];
  readonly layers: readonly number[];
  /** Also from each generated token that is read on. Default: from the prompt's tokens alone. */
  readonly atGenerated?: boolean;
}

/** One patched run. */
export interface PatchRow extends TokenInput {
  readonly edits: readonly Edit[];
  /** Done before `edits`, which meet what these have made of a state that both write. Default: none. */
  readonly ownEdits?: readonly Edit[];
  readonly cuts?: readonly AttentionCut[];
  /** Default: logits are read as they are. */
  readonly contrast?: Contrast;
  /** Tokens that follow the prompt instead of generated ones: each is scored, none is left out. */
  readonly continuation?: readonly number[];
  /** Tokens generated for this row. Default: the reading's. */
  readonly maxTokens?: number;
  /** What the row's tokens are drawn with, where they are drawn. Default: the row's place in the list. */
  readonly seed?: number;
  /** Tracked in this row alone, after the reading's own. */
  readonly trackedTokens?: readonly number[];
  /**
   * Generation ends once the text holds one of these; the text is kept whole. A stop string is looked for
   * first, and a given continuation goes on to its end.
   */
  readonly until?: readonly string[];
}

export interface RowReading {
  readonly topK: number;
  /** Tokens generated for each row; 0 reads the prompt only. */
  readonly maxTokens: number;
  readonly stop?: readonly string[];
  /** Default: the most probable token follows. */
  readonly sampling?: Sampling;
  /** Log-probability and rank of these tokens are read at each position read, in each row. */
  readonly trackedTokens?: readonly number[];
  /** Prompt positions that are read beside the last one. */
  readonly tokenIndexes?: readonly number[];
  /** Keep all logits of each position read. */
  readonly logits?: boolean;
}

/** A token under a distribution. The log-probability is natural, over the whole vocabulary; rank 0 is the most probable token. */
export interface ScoredToken {
  readonly tokenId: number;
  readonly logprob: number;
  readonly rank: number;
}

/** The next-token distribution at one position. Log-probabilities are natural. */
export interface TokenReading {
  readonly top: readonly {
    readonly tokenId: number;
    readonly logprob: number;
  }[];
  /** The reading's tokens, then the row's own. */
  readonly tracked: readonly ScoredToken[];
  readonly logits?: Float32Array;
}

/** The distribution that a token of the continuation came from, and that token. */
export interface StepReading extends TokenReading {
  readonly chosen: ScoredToken;
}

export type RowResult =
  | {
      readonly status: 'ok';
      readonly tokenIds: readonly number[];
      /** Decoded continuation, cut at a stop string. */
      readonly text: string;
      /** One for each token of the continuation, the first being the one after the prompt. */
      readonly steps: readonly StepReading[];
      /** Readings at `tokenIndexes`, in their order. */
      readonly positions: readonly TokenReading[];
    }
  | {
      readonly status: 'failed';
      readonly code: string;
      readonly error: string;
    };

export interface LensReading extends Pick<RowReading, 'topK' | 'trackedTokens' | 'logits'> {
  /** As in `TokenInput`. */
  readonly adapter?: string | undefined;
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

export interface WorkOptions {
  /** Ends the work between two decodes: the promise rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** Default: `unified`. Bits depend on it, as they do on the batches. */
  readonly cacheLayout?: CacheLayout;
}

export interface Engine {
  readonly record: EngineRecord;
  readonly tokenizer: Tokenizer;
  capture(requests: readonly CaptureRequest[], options?: WorkOptions): Promise<CaptureResult[]>;
  /** Rows go on together; one that is done makes room for the next. */
  patch(rows: readonly PatchRow[], reading: RowReading, options?: WorkOptions): Promise<RowResult[]>;
  /** Final norm and unembedding of states: (n, width) row-major -> one result each. */
  lens(
    states: Float32Array,
    reading: LensReading,
    options?: Pick<WorkOptions, 'signal'>,
  ): Promise<LensResult[]>;
  /**
   * Largest difference of a log-probability (natural) that the company of a row made, as measured on this
   * model, backend and settings with up to `rows` rows at once, by default `unified`; 0 in exact mode, null where the model's own
   * states are not finite.
   */
  tolerance(rows: number, cacheLayout?: CacheLayout): Promise<number | null>;
  /** Idempotent; work under way ends with code `closed`. */
  close(): Promise<void>;
}
