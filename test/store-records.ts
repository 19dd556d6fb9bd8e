import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { Observation } from '../src/observation.js';
import type { EngineSettings, ModelRecord, RunRecord, SampleRecord } from '../src/store/records.js';
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

export const samples: readonly SampleRecord[] = [
  {
    name: 'Diana',
    source: { text: 'Diana, princess', tokenIds: [1, 20, 300] },
    target: { text: 'cat -> cat; x', tokenIds: [1, 5, 6, 7] },
  },
  {
    name: 'ids',
    source: { text: null, tokenIds: [9] },
    target: { text: null, tokenIds: [10] },
  },
];

export function runOf(modelId: number, changes: Partial<RunRecord> = {}) {
  return {
    name: 'patch',
    command: "patchscopes patch --source 'Diana, princess'",
    experiment: { name: 'patch', sourceLayers: 'all' },
    reading: { topK: 2, maxTokens: 2, stop: [] },
    seed: 7,
    sourceModelId: modelId,
    targetModelId: modelId,
    engine,
    cacheLayout: 'unified' as const,
    tolerance: 0.25,
    cellsPlanned: 4,
    startedAt: new Date(),
    ...changes,
  } satisfies RunRecord;
}

export function cell(changes: Partial<Observation> = {}): Observation {
  return {
    sample: 0,
    variant: '',
    sourceSite: 'attn_out',
    targetSite: 'resid_out',
    op: 'mix',
    alpha: 0.5,
    atGenerated: true,
    sourceLayer: 3,
    targetLayer: 4,
    sourcePosition: 2,
    sourceTokenId: 300,
    sourceToken: ' princess',
    targetPosition: 3,
    targetTokenId: 7,
    targetToken: ' x',
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
    ...changes,
  });
}

/** A run that waits for observations. */
export function begin(store: Store, changes: Partial<RunRecord> = {}): number {
  return store.beginRun(runOf(store.addModel(model), changes), samples);
}
