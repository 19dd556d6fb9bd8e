/**
 * Loads the addon of one backend variant and declares its contract. A process loads one variant: their
 * libraries share names.
 */
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { PatchscopeError } from './errors.js';

export interface NativeDevice {
  readonly name: string;
  readonly description: string;
  readonly kind: 'cpu' | 'gpu' | 'accelerator';
  readonly registry: string;
  readonly freeBytes: number;
  readonly totalBytes: number;
}

export interface NativeModelInfo {
  readonly architecture: string;
  readonly name: string;
  readonly quantization: string;
  readonly layerCount: number;
  readonly embeddingSize: number;
  readonly vocabularySize: number;
  readonly trainedContext: number;
  /** Positions beyond the trained context do not exist. */
  readonly hasPositionTable: boolean;
  readonly addsBos: boolean;
  readonly bosToken: number;
  readonly eosToken: number;
  readonly hasEncoder: boolean;
  readonly hasDecoder: boolean;
  readonly isRecurrent: boolean;
  readonly isDiffusion: boolean;
  readonly chatTemplate: string | null;
}

export interface NativeContextOptions {
  /** Cells of the K/V cache, shared by all sequences. */
  readonly cells: number;
  readonly batchTokens: number;
  readonly sequences: number;
  /** Most tokens of one decode whose logits are computed. */
  readonly outputs: number;
  readonly threads: number;
  readonly flashAttention: boolean;
  readonly typeK: string;
  readonly typeV: string;
}

/** Rows are indexes of tokens in the batch, ascending. */
export interface NativeSiteRows {
  readonly site: string;
  readonly layer: number;
  readonly rows: Int32Array;
}

export interface NativeReadings {
  readonly topK: number;
  readonly tracked: Int32Array;
  readonly logits: boolean;
}

export interface NativeStep {
  readonly tokens: Int32Array;
  readonly positions: Int32Array;
  readonly sequences: Int32Array;
  readonly outputs: Uint8Array;
  readonly captures: readonly NativeSiteRows[];
  /** `vectors`: (rows, width) row-major. */
  readonly edits: readonly (NativeSiteRows & {
    readonly vectors: Float32Array;
  })[];
  readonly readings: NativeReadings & { readonly rows: Int32Array };
}

/** Flat lists over the rows read; a row that is not finite has no entries in the others. */
export interface NativeReadingResults {
  readonly finite: Uint8Array;
  readonly topIds: Int32Array;
  readonly topLogprobs: Float32Array;
  readonly trackedRanks: Int32Array;
  readonly trackedLogprobs: Float32Array;
  /** (rows, vocabulary) */
  readonly logits?: Float32Array;
}

export interface NativeStates {
  /** (rows, width) row-major. */
  readonly states: Float32Array;
  /** 0 where a row holds NaN or infinity. */
  readonly finite: Uint8Array;
}

export type NativeSiteName = 'embed' | 'resid_mid' | 'attn_out' | 'mlp_out' | 'resid_out' | 'final_norm';

export interface NativeSite {
  /** Its node in each block's graph, or null; one entry for `embed` and `final_norm`. */
  readonly nodes: readonly (string | null)[];
  /** Why the first one that is missing is missing, as a clause. */
  readonly reason: string | null;
}

export interface NativeContext {
  describe(): {
    readonly memoryBytes: number;
    readonly sites: { readonly [Name in NativeSiteName]: NativeSite };
    /** What it took to find the sites. */
    readonly labelMilliseconds: number;
  };
  decode(step: NativeStep): Promise<{
    readonly captures: readonly NativeStates[];
    readonly readings: NativeReadingResults;
  }>;
  lens(states: Float32Array, readings: NativeReadings, rows: number): Promise<NativeReadingResults>;
  clear(): void;
  copySequence(from: number, to: number): void;
  removeSequence(sequence: number, firstPosition: number): void;
  close(): void;
}

export interface NativeModel {
  describe(): NativeModelInfo;
  tokenize(text: string, bos: boolean, special: boolean): Int32Array;
  tokenBytes(tokenId: number): Uint8Array;
  isEndOfText(tokenId: number): boolean;
  createContext(options: NativeContextOptions): Promise<NativeContext>;
  close(): void;
}

export type NativeValue = string | number | boolean;

export interface NativeTensor {
  readonly name: string;
  /** As ggml writes it: q4_K, f32, ... */
  readonly type: string;
  readonly isQuantized: boolean;
  /** Innermost dimension first: a matrix is [inputs, outputs]. */
  readonly shape: readonly number[];
  readonly bytes: number;
}

/** A file as it stands, of all its parts. */
export interface NativeHeader {
  /** llama.cpp's name of the file's quantization; null where the file does not say it. */
  readonly fileType: string | null;
  readonly metadata: readonly (readonly [key: string, value: NativeValue | readonly NativeValue[]])[];
  readonly tensors: readonly NativeTensor[];
}

/** What a matrix is to the CPU library. */
export interface NativeMatrixCost {
  /** 0 where the type does not exist or can't hold rows of this length. */
  readonly bytes: number;
  /** Whether it gets another layout at load, in which products are fast. */
  readonly isRepacked: boolean;
}

interface Addon {
  start(librariesFolder: string, verbose: boolean): boolean;
  devices(): NativeDevice[];
  check(paths: readonly string[]): Promise<void>;
  load(path: string, gpuLayers: number): Promise<NativeModel>;
  /** `type`: a file type such as q4_k_m. @returns how many matrices got another type because of their width. */
  convert(from: string, to: string, type: string, threads: number): Promise<number>;
  header(paths: readonly string[]): Promise<NativeHeader>;
  matrixCost(type: string, shape: readonly number[]): NativeMatrixCost;
  cpuFeatures(): string[];
}

/** What `native/install.mjs` wrote down; paths are relative to its folder. */
interface Built {
  readonly llamaCpp: string;
  readonly nodeLlamaCpp: string;
  readonly variants: readonly {
    readonly variant: string;
    readonly addon: string;
    readonly libraries: string;
  }[];
}

export interface LoadedAddon extends Addon {
  readonly variant: string;
  readonly llamaCpp: string;
  readonly librariesFolder: string;
}

const buildFolder = fileURLToPath(new URL('../build/', import.meta.url));
let loaded: LoadedAddon | undefined;

/** The variant this process uses already, if any. */
export function loadedVariant(): string | undefined {
  return loaded?.variant;
}

/** The variants that were built on this machine. */
export function builtVariants(): string[] {
  return readBuilt().variants.map(({ variant }) => variant);
}

/** Loads the addon of `variant`, once; a second variant in one process is refused. */
export function loadAddon(variant: string): LoadedAddon {
  if (loaded !== undefined) {
    if (loaded.variant === variant) return loaded;
    throw new PatchscopeError(
      'no_device',
      `This process already uses the ${loaded.variant} libraries: start another one for ${variant}.`,
    );
  }
  const built = readBuilt();
  const found = built.variants.find((entry) => entry.variant === variant);
  if (found === undefined) {
    throw new PatchscopeError(
      'no_device',
      `There are no ${variant} libraries on this machine; available: ${builtVariants().join(', ')}.`,
    );
  }
  const librariesFolder = path.resolve(buildFolder, found.libraries);
  let addon: Addon;
  try {
    addon = createRequire(import.meta.url)(path.resolve(buildFolder, found.addon)) as Addon;
  } catch (cause) {
    throw new PatchscopeError(
      'no_addon',
      `The ${variant} addon could not be loaded (${(cause as Error).message}): run \`npm rebuild patchscopes\`, or take another --gpu.`,
      { cause },
    );
  }
  addon.start(librariesFolder, process.env.PATCHSCOPES_LOG === 'debug');
  loaded = Object.assign(Object.create(addon) as Addon, {
    variant,
    llamaCpp: built.llamaCpp,
    librariesFolder,
  });
  return loaded;
}

function readBuilt(): Built {
  try {
    return JSON.parse(fs.readFileSync(path.join(buildFolder, 'built.json'), 'utf8')) as Built;
  } catch (cause) {
    throw new PatchscopeError(
      'no_addon',
      'The addon was not built (install scripts may have been switched off): run `npm rebuild patchscopes`, in a checkout `npm run build`.',
      { cause },
    );
  }
}
