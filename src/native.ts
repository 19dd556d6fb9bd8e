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
  /** `integrated`: a GPU that shares the CPU's memory. */
  readonly kind: 'cpu' | 'gpu' | 'integrated' | 'accelerator';
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

/** `none`: one device takes all blocks; `layer`: each device takes some of them. */
export type SplitMode = 'none' | 'layer';

export interface NativePlacement {
  /** Blocks that go to `devices`, the output counting as one. */
  readonly gpuLayers: number;
  /** Names as `devices()` lists them; without any, or without blocks, the CPU works alone. */
  readonly devices: readonly string[];
  readonly splitMode: SplitMode;
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

export interface NativeContext {
  describe(): {
    readonly memoryBytes: number;
    readonly sites: {
      readonly embed: string;
      readonly resid_out: readonly string[];
    };
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

interface Addon {
  start(librariesFolder: string, verbose: boolean): boolean;
  devices(): NativeDevice[];
  check(paths: readonly string[]): Promise<void>;
  load(path: string, placement: NativePlacement): Promise<NativeModel>;
  convert(from: string, to: string, threads: number): Promise<void>;
}

/** What `native/install.mjs` wrote down; paths are relative to its folder. */
interface Built {
  readonly llamaCpp: string;
  readonly nodeLlamaCpp: string;
  readonly variants: readonly (Pick<BuiltVariant, 'variant' | 'origin'> & {
    readonly addon: string;
    readonly libraries: string;
  })[];
}

export interface LoadedAddon extends Addon {
  readonly variant: string;
  readonly llamaCpp: string;
  readonly librariesFolder: string;
}

export const buildFolder = fileURLToPath(new URL('../build/', import.meta.url));
let loaded: LoadedAddon | undefined;

/** The variant this process uses already, if any. */
export function loadedVariant(): string | undefined {
  return loaded?.variant;
}

/** A variant whose addon was linked on this machine. */
export interface BuiltVariant {
  readonly variant: string;
  /** Where its libraries come from; `local`: compiled on this machine. */
  readonly origin: 'prebuilt' | 'local';
  readonly addonFile: string;
  readonly librariesFolder: string;
}

export function builtVariants(): BuiltVariant[] {
  return readBuilt().variants.map(({ variant, origin, addon, libraries }) => ({
    variant,
    origin,
    addonFile: path.resolve(buildFolder, addon),
    librariesFolder: path.resolve(buildFolder, libraries),
  }));
}

/** The versions that the addon was built from. */
export function builtFrom(): Pick<Built, 'llamaCpp' | 'nodeLlamaCpp'> {
  const { llamaCpp, nodeLlamaCpp } = readBuilt();
  return { llamaCpp, nodeLlamaCpp };
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
  const variants = builtVariants();
  const found = variants.find((entry) => entry.variant === variant);
  if (found === undefined) {
    throw new PatchscopeError(
      'no_device',
      `There are no ${variant} libraries on this machine; available: ${variants.map(({ variant }) => variant).join(', ')}.`,
    );
  }
  const { addonFile, librariesFolder } = found;
  let addon: Addon;
  try {
    addon = createRequire(import.meta.url)(addonFile) as Addon;
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
    llamaCpp: builtFrom().llamaCpp,
    librariesFolder,
  });
  return loaded;
}

function readBuilt(): Built {
  try {
    const built = JSON.parse(fs.readFileSync(path.join(buildFolder, 'built.json'), 'utf8')) as Partial<Built>;
    if (!Array.isArray(built.variants)) throw new TypeError('It lists no variants.');
    return built as Built;
  } catch (cause) {
    throw new PatchscopeError(
      'no_addon',
      'The addon was not built (install scripts may have been switched off): run `npm rebuild patchscopes`, in a checkout `npm run build`.',
      { cause },
    );
  }
}
