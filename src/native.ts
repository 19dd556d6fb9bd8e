/**
 * Loads the addon of one backend variant and declares its contract. A process loads one variant: their
 * libraries share names.
 */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { PatchscopeError } from './errors.js';
import type { Site } from './patchscope.js';

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
  readonly encoderLayerCount: number;
  readonly embeddingSize: number;
  readonly vocabularySize: number;
  readonly trainedContext: number;
  /** Positions beyond the trained context do not exist. */
  readonly hasPositionTable: boolean;
  readonly addsBos: boolean;
  readonly bosToken: number;
  readonly eosToken: number;
  readonly padToken: number;
  readonly hasEncoder: boolean;
  readonly hasDecoder: boolean;
  /** -1 where the file names none. */
  readonly decoderStartToken: number;
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
  /** Loads no weights: such a model can split texts and do nothing else. Default: false. */
  readonly vocabularyOnly?: boolean;
}

export interface NativeContextOptions {
  /** Cells of the K/V cache, shared by all sequences; with streams those of each sequence. */
  readonly cells: number;
  /**
   * Each sequence has cells of its own. A decode then takes neighbouring sequences one after the other, each
   * with as many tokens, and a copy of a sequence copies all cells of its stream with the next decode.
   */
  readonly streams?: boolean;
  readonly batchTokens: number;
  readonly sequences: number;
  /** Most tokens of one decode whose logits are computed. */
  readonly outputs: number;
  readonly threads: number;
  readonly flashAttention: boolean;
  readonly typeK: string;
  readonly typeV: string;
  /** By what `addAdapter` gave. */
  readonly adapter?: { readonly index: number; readonly scale: number };
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
  /** 0: the most probable token is chosen, and the two below have no effect. */
  readonly temperature: number;
  readonly sampledTopK: number;
  readonly sampledTopP: number;
}

/** In place of a read's own logits z: own z + difference (z - z'). */
export interface NativeContrast {
  /** Index of the read among `rows`. */
  readonly read: number;
  readonly own: number;
  readonly difference: number;
  /** Tokens whose probability by z is below so many times the largest one are left out: their logit is -Infinity. */
  readonly cutoff: number;
  /** Whose logits z' are: of this row of the batch, or, where it is -1, what the graph's end makes of one of the states. */
  readonly row: number;
  /** Of the same token; the one is taken whose distribution is farthest from that of z (Jensen-Shannon). */
  readonly states: readonly { readonly site: string; readonly layer: number }[];
}

/** `given`: the token chosen, or -1; `seeds`: below 2^31, what it is drawn with. One of each for a row. */
export interface NativeReadRows {
  readonly rows: Int32Array;
  readonly given: Int32Array;
  readonly seeds: Int32Array;
  /** Tokens tracked in one row alone, after those of all rows: row after row, as many as `ownTrackedCounts` says. */
  readonly ownTracked: Int32Array;
  readonly ownTrackedCounts: Int32Array;
  readonly contrasts?: readonly NativeContrast[];
  /** States that go through the graph's end at once, so many whatever there are. */
  readonly lensRows?: number;
}

export interface NativeStateWork {
  readonly captures: readonly NativeSiteRows[];
  /** `alphas`: (rows); `vectors`: (rows, width) row-major, empty where the op has none. */
  readonly edits: readonly (NativeSiteRows & {
    readonly op: string;
    readonly alphas: Float32Array;
    readonly vectors: Float32Array;
  })[];
}

/** One prompt, and the sequences whose decoder attends to it. */
export interface NativeEncodeStep extends NativeStateWork {
  readonly tokens: Int32Array;
  readonly sequences: Int32Array;
}

/** In these layers the rows do not attend to the earlier tokens of their sequences at the positions `keys`. */
export interface NativeCut {
  readonly layers: Int32Array;
  readonly rows: Int32Array;
  readonly keys: Int32Array;
}

export interface NativeStep extends NativeStateWork {
  readonly cuts?: readonly NativeCut[];
  readonly tokens: Int32Array;
  readonly positions: Int32Array;
  readonly sequences: Int32Array;
  readonly outputs: Uint8Array;
  readonly readings: NativeReadings & NativeReadRows;
}

/** Flat lists over the rows read; a row that is not finite has no entries in the others. */
export interface NativeReadingResults {
  readonly finite: Uint8Array;
  readonly topIds: Int32Array;
  readonly topLogprobs: Float32Array;
  readonly trackedRanks: Int32Array;
  readonly trackedLogprobs: Float32Array;
  readonly chosenIds: Int32Array;
  readonly chosenRanks: Int32Array;
  readonly chosenLogprobs: Float32Array;
  /** (rows, vocabulary) */
  readonly logits?: Float32Array;
}

export interface NativeStates {
  /** (rows, width) row-major. */
  readonly states: Float32Array;
  /** 0 where a row holds NaN or infinity. */
  readonly finite: Uint8Array;
}

export interface NativeSite {
  /** Its node in each block's graph, or null; one entry for `embed` and `final_norm`. */
  readonly nodes: readonly (string | null)[];
  /** Why the first one that is missing is missing, as a clause. */
  readonly reason: string | null;
}

export type NativeSites = Readonly<Record<Site, NativeSite>>;

export interface NativeContext {
  describe(): {
    readonly memoryBytes: number;
    readonly sites: NativeSites;
    /** In an encoder-decoder model. */
    readonly encoderSites?: NativeSites;
    /** For each block why no edge of its attention can be cut, as a clause; null where each can. */
    readonly uncuttable: readonly (string | null)[];
    /** What it took to find the sites. */
    readonly labelMilliseconds: number;
  };
  decode(step: NativeStep): Promise<{
    readonly captures: readonly NativeStates[];
    readonly readings: NativeReadingResults;
  }>;
  encode(step: NativeEncodeStep): Promise<readonly NativeStates[]>;
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
  /** For contexts that are made from then on. @param modelParts files of the model. */
  addAdapter(
    path: string,
    modelParts: readonly string[],
  ): Promise<{ readonly index: number; readonly alpha: number }>;
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
  /** From the beginning of its file, in bytes. */
  readonly offset: number;
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

/** The affine map nearest to all pairs of rows; see native/least_squares.h. */
export interface NativeAffineMap {
  /** (outputs, inputs) row-major. */
  readonly weights: Float32Array;
  /** (outputs); empty where the map is linear. */
  readonly bias: Float32Array;
  /** As asked for, or more where that left several maps. */
  readonly ridge: number;
  readonly condition: number;
}

/** As an affine map, of a given rank: x -> up (down x) + bias. */
export interface NativeLowRankMap {
  /** (targets, rank, inputs) */
  readonly down: Float32Array;
  /** (targets, outputs of one, rank) */
  readonly up: Float32Array;
  readonly bias: Float32Array;
  readonly ridge: number;
  readonly condition: number;
}

export interface NativeLeastSquares {
  /** Rows (n, inputs) and what they are to become, (n, outputs). */
  add(x: Float32Array, y: Float32Array): Promise<void>;
  /** The last thing that is asked of it. `ridge`: a part of the median sum of squares of a float of x. */
  solve(ridge: number): Promise<NativeAffineMap>;
  /** Instead. The outputs are those of so many targets side by side. */
  solveLowRank(ridge: number, rank: number, targets: number): Promise<NativeLowRankMap>;
}

/** A map with one hidden layer; see native/mlp.h. */
export interface NativeMlp {
  /** Rows (n, inputs) and what they are to become, (n, outputs), in whole batches. @returns the mean loss before the steps. */
  train(x: Float32Array, y: Float32Array, rate: number, epsilon: number): Promise<number>;
  /** Weights (hidden, inputs), bias (hidden), weights (outputs, hidden), bias (outputs). */
  parameters(): Promise<Float32Array>;
}

interface Addon {
  start(librariesFolder: string, verbose: boolean): boolean;
  /** This machine's. */
  devices(): NativeDevice[];
  check(paths: readonly string[]): Promise<void>;
  load(path: string, placement: NativePlacement): Promise<NativeModel>;
  /** `type`: a file type such as q4_k_m. @returns how many matrices got another type because of their width. */
  convert(from: string, to: string, type: string, threads: number): Promise<number>;
  header(paths: readonly string[]): Promise<NativeHeader>;
  matrixCost(type: string, shape: readonly number[]): NativeMatrixCost;
  cpuFeatures(): string[];
  leastSquares(inputs: number, outputs: number, hasBias: boolean, threads: number): NativeLeastSquares;
  /** `parameters`: those to begin with. The bits that come of training may depend on the threads. */
  mlp(
    inputs: number,
    hidden: number,
    outputs: number,
    activation: 'relu' | 'silu',
    batch: number,
    parameters: Float32Array,
    threads: number,
  ): NativeMlp;
  /** @returns (n, outputs) row-major; the bits of a row do not depend on the others. */
  applyAffine(
    weights: Float32Array,
    bias: Float32Array,
    x: Float32Array,
    inputs: number,
    threads: number,
  ): Promise<Float32Array>;
  /** Cosines of such rows, each rounded once. */
  applyWaves(
    frequencies: Float32Array,
    phases: Float32Array,
    x: Float32Array,
    inputs: number,
    threads: number,
  ): Promise<Float32Array>;
  /** The process ends where a worker can't be reached or speaks another version: try them before. */
  addWorkers(plugin: string, addresses: readonly string[]): Promise<NativeDevice[]>;
  /** Ends only where the address can't be listened on. */
  serve(plugin: string, address: string, threads: number, devices: readonly string[]): Promise<never>;
  /** Major and minor number of the protocol between machines. */
  readonly rpcVersion: readonly [number, number];
}

/** What `native/install.mjs` wrote down; paths are relative to its folder. */
interface Built {
  readonly llamaCpp: string;
  readonly nodeLlamaCpp: string;
  readonly variants: readonly (Pick<BuiltVariant, 'variant' | 'origin'> & {
    readonly addon: string;
    readonly libraries: string;
  })[];
  /** llama.cpp's RPC backend; null where it could not be compiled. */
  readonly rpc: string | null;
}

export interface LoadedAddon extends Addon {
  readonly variant: string;
  readonly llamaCpp: string;
  /** Of the addon's file. */
  readonly sha256: string;
  readonly librariesFolder: string;
  /** File of llama.cpp's RPC backend; null where it could not be compiled. */
  readonly rpcPlugin: string | null;
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
  const { llamaCpp, rpc } = readBuilt();
  loaded = Object.assign(Object.create(addon) as Addon, {
    variant,
    llamaCpp,
    sha256: createHash('sha256').update(fs.readFileSync(addonFile)).digest('hex'),
    librariesFolder,
    rpcPlugin: rpc === null ? null : path.resolve(buildFolder, rpc),
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
