import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { Observation } from '../src/observation.js';
import type { EngineSettings, ModelRecord, RunContents, RunRecord } from '../src/store/records.js';
import type { Store } from '../src/store/store.js';

/** A folder that goes with the test. */
export function folder(test: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), 'patchscopes-store-'));
  test.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

export const model: ModelRecord = {
  path: 'models/tiny.gguf',
  sha256: 'ab'.repeat(32),
  bytes: 123456789012,
  architecture: 'llama',
  name: 'Tiny',
  quantization: 'Q4_1',
  layerCount: 30,
  embeddingSize: 576,
  vocabularySize: 49152,
};

export const engine: EngineSettings = {
  packageVersion: '0.1.0',
  llamaCpp: 'b1',
  backend: 'cpu',
  devices: [{ name: 'CPU', description: 'a CPU', library: 'libggml-cpu.so' }],
  gpuLayers: 0,
  threads: 2,
  batchTokens: 512,
  batchRows: 128,
  batchOutputs: 256,
  typeK: 'f16',
  typeV: 'f32',
  flashAttention: true,
  exact: false,
  splitMode: 'layer',
};

const target = { prompt: 1, position: 3, tokenId: 7, token: ' x' };

/** Two samples, of which the second has a second variant too. */
export const contents: RunContents = {
  prompts: [
    {
      text: 'Diana, princess',
      reading: { bos: true, chat: false, special: false },
      tokenIds: [1, 20, 300],
    },
    { text: 'cat -> cat; x', reading: { bos: true, chat: true, special: false }, tokenIds: [1, 5, 6, 7] },
    { text: null, tokenIds: [9], decoderTokenIds: [0] },
  ],
  samples: [
    { name: 'Diana', group: 'title', answer: ['queen', 'princess'], subject: 'her', class: 'royal' },
    { name: 'ids' },
  ],
  variants: [
    {
      sample: 0,
      name: 'default',
      source: { prompt: 0, position: 2, tokenId: 300, token: ' princess' },
      target,
      op: 'mix',
      alpha: 0.5,
      atGenerated: true,
    },
    ...['default', 'other'].map((name) => ({
      sample: 1,
      name,
      source: { prompt: 2, side: 'encoder' as const, position: 0, tokenId: 9, token: 'nine' },
      target,
      op: 'replace' as const,
      alpha: 1,
      atGenerated: false,
    })),
  ],
};

export function runOf(changes: Partial<RunRecord> = {}) {
  return {
    name: 'patch',
    command: "patchscopes patch --source 'Diana, princess'",
    experiment: { name: 'patch', sourceLayers: 'all' },
    experimentSource: 'name: patch # as typed',
    experimentFile: { name: 'patch' },
    reading: { topK: 2, maxTokens: 2, stop: [] },
    seed: 7,
    sourceModel: model,
    targetModel: model,
    engine,
    addon: '0.2.0',
    cacheLayout: 'unified',
    host: 'here',
    tolerance: 0.25,
    planSha256: 'ef'.repeat(32),
    cellsPlanned: 4,
    chunksPlanned: 2,
    shard: null,
    startedAt: new Date(),
    ...changes,
  } satisfies RunRecord;
}

export function cell(changes: Partial<Observation> = {}): Observation {
  return {
    sample: 0,
    variant: 'default',
    sourceSite: 'attn_out',
    targetSite: 'resid_out',
    sourceLayer: 3,
    targetLayer: 4,
    mapping: 'identity',
    control: 'none',
    draw: 0,
    status: 'ok',
    error: null,
    text: ' queen of',
    tokenIds: [11, 12],
    steps: [
      [
        { tokenId: 11, token: ' queen', logprob: -0.5, rank: 0 },
        { tokenId: 13, token: '"\n', logprob: -2.25, rank: 1 },
      ],
      [
        { tokenId: 12, token: ' of', logprob: -0.125, rank: 0 },
        { tokenId: 11, token: ' queen', logprob: -3, rank: 1 },
      ],
    ],
    scores: { 'answer-found': 1, 'answer-rank': 0 },
    ...changes,
  };
}

export function failedCell(changes: Partial<Observation> = {}): Observation {
  return cell({
    status: 'failed',
    error: 'not_finite: a logit is NaN',
    text: null,
    tokenIds: [],
    steps: [],
    scores: {},
    ...changes,
  });
}

/** A run that waits for chunks. */
export function begin(store: Store, changes: Partial<RunRecord> = {}): number {
  return store.beginRun(runOf(changes), contents);
}
