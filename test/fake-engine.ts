/**
 * An engine without a model, opened in a child process: what it computes depends on the row alone, and words
 * in a row's prompt end the process.
 */
import fs from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import type { CaptureRequest, Engine, EngineRecord, PatchRow, RowReading, RowResult } from '../src/engine.js';
import { PatchscopeError } from '../src/errors.js';
import type { EngineOptions } from '../src/llama/llama-engine.js';
import type { ResolvedModel } from '../src/models/resolve.js';

const words = [
  ...['<s>', 'abort', 'segv', 'exit', 'kill-once', 'slow', 'stderr-first', 'throw'],
  ...Array.from({ length: 5000 }, (_, i) => `w${i}`),
];
const WIDTH = 4;

/** Keeps a log beside the model's file of what happened in all processes. */
export async function openEngine(model: ResolvedModel, options: EngineOptions): Promise<Engine> {
  const log = `${model.path}.log`;
  fs.appendFileSync(log, 'opened\n');
  options.onNote?.('the fake engine is open');
  if (options.typeK === 'refused')
    throw new PatchscopeError('bad_model', 'The fake engine refuses this model.');
  if (options.typeK === 'abort') end('abort');
  const record = { ...fakeRecord, path: model.path, threads: options.threads ?? 1 };
  return {
    record,
    tokenizer: {
      vocabularySize: words.length,
      bosToken: 0,
      tokenize: (text, { bos }) => {
        const ids = text.split(' ').map((word) => words.indexOf(word));
        if (options.typeK === 'abort-in-plan') end('abort');
        if (ids.includes(-1))
          throw new PatchscopeError('bad_input', `The fake engine has no word for '${text}'.`);
        return [...(bos ? [0] : []), ...ids];
      },
      tokenBytes: (id) => Buffer.from(words[id]!),
      isEndOfText: () => false,
      chat: () => {
        throw new Error('it has no chat template');
      },
    },
    capture: async (requests: readonly CaptureRequest[]) =>
      requests.map(({ tokenIds, points }) => ({
        status: 'ok' as const,
        states: points.map(({ layer }) =>
          Float32Array.from({ length: WIDTH }, (_, i) => wave(tokenIds, layer, i)),
        ),
      })),
    async patch(rows, reading, { signal } = {}) {
      for (const { tokenIds } of rows) {
        const marks = tokenIds.map((id) => words[id]!);
        if (marks.includes('kill-once')) endOnce(log);
        if (marks.includes('throw')) throw new RangeError('The fake engine throws.');
        if (marks.includes('slow')) {
          fs.appendFileSync(log, 'slow\n');
          await delay(60_000, undefined, signal && { signal });
        }
        if (marks.includes('stderr-first'))
          fs.writeSync(2, `${'x'.repeat(100_000)}\nGGML_ASSERT(fake) failed\n`);
        for (const how of ['abort', 'segv', 'exit']) if (marks.includes(how)) end(how);
      }
      return rows.map((row) => read(row, reading));
    },
    lens: async () => [],
    tolerance: async (rows) => (rows === 1 ? null : 0.5 / rows),
    close: async () => undefined,
  };
}

function read({ tokenIds, edits }: PatchRow, { topK, maxTokens }: RowReading): RowResult {
  const about = [...edits].map(({ layer, vector }) => `${layer} ${vector?.join(' ')}`);
  const tokenIdsRead = Array.from({ length: maxTokens }, (_, i) => 8 + ((tokenIds.at(-1)! + i) % 5000));
  return {
    status: 'ok',
    tokenIds: tokenIdsRead,
    text: tokenIdsRead.map((id) => words[id]).join(' '),
    steps: tokenIdsRead.map((tokenId, step) => ({
      top: Array.from({ length: topK }, (_, rank) => ({
        tokenId: tokenId + rank,
        logprob: Math.fround(-rank - Math.abs(wave(tokenIds, about.join(), step + rank))),
      })),
      tracked: [],
      chosen: { tokenId, logprob: Math.fround(wave(tokenIds, about.join(), step)), rank: 0 },
    })),
    positions: [],
  };
}

/** Some number that depends on all of these. */
function wave(tokenIds: readonly number[], about: number | string, i: number): number {
  return [...tokenIds, ...Buffer.from(String(about))].reduce(
    (sum, id, k) => Math.sin(sum * 3 + id * (k + 1) + i),
    0,
  );
}

function end(how: string): void {
  if (how === 'exit') process.exit(3);
  fs.writeSync(2, `the fake engine is about to ${how}\n`);
  if (how === 'abort') process.abort();
  process.kill(process.pid, 'SIGSEGV');
}

function endOnce(log: string): void {
  if (fs.readFileSync(log, 'utf8').includes('killed')) return;
  fs.appendFileSync(log, 'killed\n');
  process.kill(process.pid, 'SIGKILL');
}

const fakeRecord: EngineRecord = {
  path: '',
  sha256: 'fake',
  bytes: 1,
  architecture: 'fake',
  name: 'fake',
  quantization: 'none',
  layerCount: 4,
  encoderLayerCount: 0,
  embeddingSize: WIDTH,
  vocabularySize: words.length,
  trainedContext: 4096,
  llamaCpp: 'none',
  packageVersion: 'none',
  addon: 'none',
  backend: 'cpu',
  devices: [],
  gpuLayers: 0,
  splitMode: 'layer',
  threads: 1,
  flashAttention: false,
  typeK: 'f16',
  typeV: 'f16',
  exact: true,
  batchTokens: 512,
  batchRows: 64,
  batchOutputs: 64,
  cacheTokenBytes: 1,
  noStreams: null,
  promptTokens: 4096,
};
