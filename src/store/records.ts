import type { AdapterRecord, EngineRecord } from '../engine.js';
import type { EditOp, FileMapping, MappingRecord, Side } from '../patchscope.js';

/** What is kept of a model file. */
export type ModelRecord = Pick<
  EngineRecord,
  | 'path'
  | 'sha256'
  | 'bytes'
  | 'architecture'
  | 'name'
  | 'quantization'
  | 'layerCount'
  | 'embeddingSize'
  | 'vocabularySize'
>;

/** What is kept of the engine that made a run. */
export type EngineSettings = Pick<
  EngineRecord,
  | 'packageVersion'
  | 'llamaCpp'
  | 'backend'
  | 'devices'
  | 'gpuLayers'
  | 'threads'
  | 'batchTokens'
  | 'batchRows'
  | 'batchOutputs'
  | 'typeK'
  | 'typeV'
  | 'flashAttention'
  | 'exact'
  | 'splitMode'
>;

/** What may be another in the engine of the source's model; all else is the same in both. */
export type SourceEngine = Pick<
  EngineSettings,
  'devices' | 'gpuLayers' | 'batchTokens' | 'batchRows' | 'batchOutputs'
>;

/** What is known of a run before its first cell. */
export interface RunRecord {
  readonly name: string;
  /** As typed. */
  readonly command: string;
  /** As resolved; kept as JSON. */
  readonly experiment: object;
  /** The experiment's file as written; null where there is none. */
  readonly experimentSource: string | null;
  /** The same as it was run, a file of its own; kept as JSON. */
  readonly experimentFile?: object | undefined;
  /** Kept as JSON. */
  readonly reading: object;
  readonly seed: number;
  readonly sourceModel: ModelRecord;
  readonly targetModel: ModelRecord;
  /** Of the target's model. */
  readonly engine: EngineSettings;
  /** Where the source's model is another one; default: null. */
  readonly sourceEngine?: SourceEngine | null;
  /** Of both models; default: none. Kept as JSON. */
  readonly adapters?: readonly AdapterRecord[];
  /** Version of the addon. */
  readonly addon: string;
  /** Of the K/V cache: `unified`, or a stream for each row. */
  readonly cacheLayout: string;
  /** Name of the machine. */
  readonly host: string;
  /** Of log-probabilities, by the company of a cell in its batch; null where nothing was measured. */
  readonly tolerance: number | null;
  /** Identity of the plan: chunks of one index are the same cells where it is the same. */
  readonly planSha256: string;
  readonly cellsPlanned: number;
  readonly chunksPlanned: number;
  /** Part of the plan that this run does, `index` counted from 1; null: all of it. */
  readonly shard: { readonly index: number; readonly count: number } | null;
  readonly startedAt: Date;
}

/** All that the cells of a run name; the place in a list is the index. */
export interface RunContents {
  readonly prompts: readonly PromptRecord[];
  readonly samples: readonly SampleRecord[];
  readonly variants: readonly VariantRecord[];
  /** Default: none. */
  readonly vectors?: readonly VectorRecord[];
  /** Those that cells name beside the identity; default: none. */
  readonly mappings?: readonly MappingRow[];
}

/** What is kept of a mapping's file, or of the files of a chain. */
export interface MappingRow extends Pick<FileMapping, 'name' | 'sha256'> {
  readonly record: MappingRecord | { readonly kind: 'chain'; readonly links: readonly MappingRow[] };
}

export interface PromptRecord {
  /** Null where the prompt was given as token ids. */
  readonly text: string | null;
  readonly tokenIds: readonly number[];
  /** What the decoder reads where an encoder reads the prompt. */
  readonly decoderTokenIds?: readonly number[];
  /** How its text became token ids. */
  readonly reading?: { readonly bos: boolean; readonly chat: boolean; readonly special: boolean };
}

export interface VectorRecord {
  /** What it is, in words. */
  readonly text: string;
  /** Kept as JSON. */
  readonly record: object;
}

export interface SampleRecord {
  readonly name: string;
  /** What samples are taken together by, such as their relation. */
  readonly group?: string;
  /** Any of them is right. */
  readonly answer?: readonly string[];
  /** What it is about, and what of it a probe is to find. */
  readonly subject?: string;
  readonly class?: string;
}

/** Where the states of a sample come from and go to, and what becomes of the states they meet. */
export interface VariantRecord {
  /** Index of the sample. */
  readonly sample: number;
  readonly name: string;
  readonly source: PlaceRecord;
  readonly target: PlaceRecord;
  readonly op: EditOp;
  readonly alpha: number;
  readonly atGenerated: boolean;
  /** Edges of attention that are cut in the target; kept as JSON. */
  readonly cuts?: readonly object[];
  /** Any of them is right, in place of those of the sample; kept as JSON. */
  readonly answer?: readonly string[];
  /** Whether cells go through several source positions, each with moves of its own. Default: false. */
  readonly swept?: boolean;
  /** Default: one, from `source` to `target`. */
  readonly moves?: readonly MoveRecord[];
  /** Index of the vector that stands in place of a source prompt. */
  readonly sourceVector?: number;
  /** What is done to the target's states before the patch; kept as JSON. */
  readonly ownEdits?: readonly object[];
  /** Kept as JSON. */
  readonly contrast?: object;
  readonly decay?: number;
}

/** From which token to which. */
export type MoveRecord = Pick<VariantRecord, 'source' | 'target'>;

/** A token of a prompt. */
export interface PlaceRecord {
  /** Index of the prompt. */
  readonly prompt: number;
  /** Where the position counts, in an encoder-decoder model. */
  readonly side?: Side;
  readonly position: number;
  readonly tokenId: number;
  readonly token: string;
  /** Name of the adapter that the prompt was read with. */
  readonly adapter?: string;
}

export type FinalStatus = 'done' | 'failed' | 'interrupted';
