import type { CacheLayout, EngineRecord } from '../engine.js';

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

/** What is known of a run before its first cell. */
export interface RunRecord {
  readonly name: string;
  /** As typed. */
  readonly command: string;
  /** Kept as JSON. */
  readonly experiment: object;
  /** Kept as JSON. */
  readonly reading: object;
  readonly seed: number;
  /** Ids that `addModel` gave. */
  readonly sourceModelId: number;
  readonly targetModelId: number;
  readonly engine: EngineSettings;
  /** Of the K/V cache, for the patched rows. */
  readonly cacheLayout: CacheLayout;
  /** Of log-probabilities, by the company of a cell in its batch; null where nothing was measured. */
  readonly tolerance: number | null;
  readonly cellsPlanned: number;
  readonly startedAt: Date;
}

export interface PromptRecord {
  /** Null where the prompt was given as token ids. */
  readonly text: string | null;
  readonly tokenIds: readonly number[];
}

/** One pair of prompts; its place in the list is its index. */
export interface SampleRecord {
  readonly name: string;
  readonly source: PromptRecord;
  readonly target: PromptRecord;
}

export type FinalStatus = 'done' | 'failed' | 'interrupted';
