/** The jobs that whole runs are timed with, and the files of the model that they run on. */
import fs from 'node:fs';
import path from 'node:path';
import {
  type CaptureRequest,
  type ConversionType,
  convertModel,
  type Experiment,
  makeFolder,
  type ResolvedModel,
  readExperiment,
  resolveModel,
} from '../../src/index.js';
import { cacheFolder } from '../../src/models/cache.js';

export const LAYERS = 30;
/** Patched rows that the engine decodes at once. */
export const BATCH_ROWS = 128;

export interface Workload {
  readonly name: string;
  readonly experiment: Experiment;
  readonly rows: number;
  /** Read of each row. */
  readonly tokens: number;
}

/** 30 x 30 layers of the token-identity prompt, one token each. */
export const W1: Workload = {
  name: 'W1',
  experiment: readExperiment('token-identity', { limit: 1, set: ['target.layers=all'] }).experiment,
  rows: 900,
  tokens: 1,
};

/** 6 names x 10 layers of the entity-description prompt, 20 generated tokens each. */
export const W2: Workload = {
  name: 'W2',
  experiment: readExperiment('entity-description', {
    limit: 6,
    set: ['reading.tokens=20', 'reading.stop=[]'],
  }).experiment,
  rows: 60,
  tokens: 20,
};

/** W3: all layers at all positions of 64 prompts of 128 tokens are captured, some prompts at a time. */
export const W3 = { prompts: 64, promptTokens: 128, promptsAtOnce: 8 };

/** Token ids that are all over the vocabulary. */
export function someTokens(count: number, from: number): number[] {
  return Array.from({ length: count }, (_, i) => 1000 + (((from + i) * 7919) % 20000));
}

/** All layers at all positions of some prompts. */
export function promptsToCapture(count: number, length: number): CaptureRequest[] {
  return Array.from({ length: count }, (_, k) => ({
    tokenIds: someTokens(length, k * length),
    points: Array.from({ length: length * LAYERS }, (_, i) => ({
      site: 'resid_out' as const,
      layer: i % LAYERS,
      tokenIndex: Math.floor(i / LAYERS),
    })),
  }));
}

export const modelName = 'smollm2-135m-instruct';

/** The model with its weights in another type, made once and kept in the cache folder. */
export async function modelAs(type: ConversionType): Promise<ResolvedModel> {
  const file = await resolveModel(modelName);
  const folder = path.join(cacheFolder(), 'bench');
  makeFolder(folder);
  const converted = path.join(folder, `${modelName}-${file.sha256.slice(0, 12)}-${type}.gguf`);
  if (!fs.existsSync(converted)) await convertModel(file, converted, { to: type });
  return resolveModel(converted);
}
