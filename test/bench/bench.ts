/**
 * What patching and capturing cost, as ratios of two things measured in turn in one run, model load
 * excluded: `npm run bench`, or `npm run bench -- WORD` for the measures whose names hold WORD. The machine
 * must have nothing else to do.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  type Contrast,
  type Edit,
  type Engine,
  openEngine,
  type PatchRow,
  resolveModel,
} from '../../src/index.js';
import type { ModelKind } from '../fixtures/models.js';
import { Comparison, middle, ROUNDS } from './comparison.js';
import { measureExtraction } from './extraction.js';
import { labelMilliseconds } from './labelling.js';
import { measureLayouts } from './layouts.js';
import { startRawLoop } from './raw-loop.js';
import { measureRuns } from './run-measures.js';
import { REST, tracingRows } from './tracing.js';
import { BATCH_ROWS, LAYERS, modelName, promptsToCapture, someTokens, W3 } from './workloads.js';

const comparison = new Comparison(process.argv[2] ?? '');
const PREFIX = 19;
const READ_ONE = { topK: 5, maxTokens: 1 };
const READ_EIGHT = { topK: 5, maxTokens: 8 };

const file = await resolveModel(modelName);
const engine = await openEngine(file, { gpu: 'off' });
const { threads, embeddingSize } = engine.record;
const raw = await startRawLoop(file.path, threads);

const target = someTokens(PREFIX + 1, 0);
const states = await sourceStates(engine);

await comparison.compare(
  '128 rows patched : the same rows unpatched',
  { atLeast: 0.95 },
  {
    ours: () => timed(() => engine.patch(patchRows(128), READ_ONE)),
    theirs: () => timed(() => engine.patch(plainRows(128), READ_ONE)),
  },
);
await comparison.compare(
  '256 rows patched : the same rows unpatched',
  { atLeast: 0.95 },
  {
    ours: () => timed(() => engine.patch(patchRows(256), READ_ONE)),
    theirs: () => timed(() => engine.patch(plainRows(256), READ_ONE)),
  },
);
await comparison.compare(
  '30 rows patched : the same rows unpatched',
  { atLeast: 0.92 },
  {
    ours: () => timed(() => engine.patch(patchRows(30), READ_ONE)),
    theirs: () => timed(() => engine.patch(plainRows(30), READ_ONE)),
  },
);
await comparison.compare(
  '128 rows with norm-matched adds : the same rows unpatched',
  { atLeast: 0.9 },
  {
    ours: () => timed(() => engine.patch(patchRows(128, { op: 'norm-matched-add' }), READ_ONE)),
    theirs: () => timed(() => engine.patch(plainRows(128), READ_ONE)),
  },
);
await comparison.compare(
  '128 rows edited at each of 8 generated tokens : the same rows unpatched',
  { atLeast: 0.9 },
  {
    ours: () =>
      timed(() => engine.patch(patchRows(128, { op: 'add', alpha: 0.1, atGenerated: true }), READ_EIGHT)),
    theirs: () => timed(() => engine.patch(plainRows(128), READ_EIGHT)),
  },
);
await comparison.compare(
  '128 rows of 8 drawn tokens : of the most probable tokens',
  { atLeast: 0.9 },
  {
    ours: () => timed(() => engine.patch(plainRows(128), { ...READ_EIGHT, sampling: { temperature: 1 } })),
    theirs: () => timed(() => engine.patch(plainRows(128), READ_EIGHT)),
  },
);
await comparison.compare(
  '128 rows of 8 tokens drawn from 40 and 0.95 : of the most probable tokens',
  { atLeast: 0.9 },
  {
    ours: () =>
      timed(() =>
        engine.patch(plainRows(128), { ...READ_EIGHT, sampling: { temperature: 0.8, topK: 40, topP: 0.95 } }),
      ),
    theirs: () => timed(() => engine.patch(plainRows(128), READ_EIGHT)),
  },
);
await comparison.compare(
  '64 rows of 8 tokens contrasted with unpatched ones : 128 rows as they are',
  { atLeast: 0.8 },
  {
    ours: () => timed(() => engine.patch(contrasted(64, { edits: [], alpha: 1, cutoff: 0.1 }), READ_EIGHT)),
    theirs: () => timed(() => engine.patch(plainRows(128), READ_EIGHT)),
  },
);
await comparison.compare(
  '128 rows of 8 tokens contrasted with 4 layers : the same rows as they are',
  {},
  {
    ours: () =>
      timed(() => engine.patch(contrasted(128, { layers: [1, 5, 9, 13], cutoff: 0.1 }), READ_EIGHT)),
    theirs: () => timed(() => engine.patch(patchRows(128), READ_EIGHT)),
  },
);
await comparison.compare(
  'knockout: 128 rows with cuts in windows of 9 layers : the same rows without',
  { atLeast: 0.8 },
  {
    ours: () => timed(() => engine.patch(cutRows(128), READ_ONE)),
    theirs: () => timed(() => engine.patch(plainRows(128), READ_ONE)),
  },
);
await comparison.compare(
  'all layers of 8 x 128 tokens captured : raw prefill, same rows output',
  { atLeast: 0.95 },
  {
    ours: () => timed(() => engine.capture(promptsToCapture(8, 128))),
    theirs: () => raw.run('prefill 8 128'),
  },
);
await comparison.compare(
  '900 patches with their sources : raw decode of 900 rows',
  { atLeast: 1 / 1.1 },
  {
    ours: () =>
      timed(async () => {
        await sourceStates(engine);
        return engine.patch(patchRows(900), READ_ONE);
      }),
    theirs: () => raw.run(`rows ${PREFIX} 900 ${BATCH_ROWS} 1`),
  },
);
const tracing = await tracingRows(engine, target);
await comparison.compare(
  `causal-tracing, ${tracing.length} rows of ${REST} tokens, noise and one state each : raw decode of these rows`,
  { atLeast: 0.85, rounds: 1 },
  {
    ours: () => timed(() => engine.patch(tracing, READ_ONE)),
    theirs: () =>
      raw.run(
        `rows ${PREFIX + 1 - REST} ${tracing.length} ${Math.min(BATCH_ROWS, Math.floor(512 / REST))} 1 ${REST}`,
      ),
  },
);
const lensStates = Float32Array.from(
  { length: 900 * embeddingSize },
  (_, i) => states[0]![i % embeddingSize]!,
);
await comparison.compare(
  '900 states by the fast lens : by the slow lens',
  { atLeast: 4 },
  {
    ours: () => timed(() => engine.lens(lensStates, { topK: 5, way: 'fast' })),
    theirs: () => timed(() => engine.lens(lensStates, { topK: 5, way: 'slow' })),
  },
);

const { prompts, promptTokens, promptsAtOnce } = W3;
await comparison.compare(
  'W3, all layers of 64 x 128 tokens captured : raw prefill, same rows output',
  { atLeast: 0.9, rounds: 3 },
  {
    ours: async () => {
      let seconds = 0;
      for (let done = 0; done < prompts; done += promptsAtOnce) {
        seconds += await timed(() => engine.capture(promptsToCapture(promptsAtOnce, promptTokens)));
      }
      return seconds;
    },
    theirs: () => raw.run(`prefill ${prompts} ${promptTokens}`),
  },
);

raw.close();
await engine.close();
await measureLayouts(file, target, ({ measure, ours, theirs }) =>
  comparison.compare(measure, { rounds: 3 }, { ours: () => timed(ours), theirs: () => timed(theirs) }),
);
await measureRuns(comparison);
await measureExtraction(comparison);
await labelling('llama');
await labelling('gptneox'); // most of its nodes have no name of their own
await labelling('qwen2moe'); // the largest graph of a block
await memoryOfGrid();

console.log(comparison.table());
console.log(
  `\nSmolLM2-135M-Instruct Q4_1, ${threads} threads, ${os.cpus()[0]!.model.trim()}, llama.cpp ${engine.record.llamaCpp}, ${new Date().toISOString().slice(0, 10)}; speed as a share of the other's (median of ${ROUNDS} rounds in turn, of W3 3, of the child process 11; least and most)`,
);

async function labelling(kind: ModelKind): Promise<void> {
  const measure = `ms to find the sites of 32 blocks, ${kind}`;
  if (!comparison.wants(measure)) return;
  const times = (await labelMilliseconds(kind, 32, ROUNDS)).sort((a, b) => a - b);
  const shown = [middle(times), times[0]!, times.at(-1)!].map((time) => time.toFixed(1));
  comparison.add(measure, ...shown, 'under 100', '');
}

async function timed(work: () => Promise<readonly { readonly status: string }[]>): Promise<number> {
  const begin = process.hrtime.bigint();
  const results = await work();
  const seconds = Number(process.hrtime.bigint() - begin) / 1e9;
  if (results.some(({ status }) => status !== 'ok')) throw new Error('A cell failed: nothing was measured.');
  return seconds;
}

async function sourceStates(from: Engine): Promise<readonly Float32Array[]> {
  const points = Array.from({ length: LAYERS }, (_, layer) => ({
    site: 'resid_out' as const,
    layer,
    tokenIndex: 9,
  }));
  const [captured] = await from.capture([{ tokenIds: someTokens(10, 500), points }]);
  if (captured!.status !== 'ok') throw new Error('The sources could not be captured.');
  return captured!.states;
}

/** Source layer by target layer, rows of one target layer side by side, as a plan orders them. */
function patchRows(count: number, change: Partial<Edit> = {}): PatchRow[] {
  const perLayer = Math.ceil(count / LAYERS);
  return Array.from({ length: count }, (_, i) => ({
    tokenIds: target,
    edits: [
      {
        site: 'resid_out' as const,
        layer: Math.floor(i / perLayer),
        tokenIndex: PREFIX,
        vector: states[i % perLayer]!,
        ...change,
      },
    ],
  }));
}

/** The last token is cut off from three others, in layers around one that follows the row. */
function cutRows(count: number): PatchRow[] {
  return plainRows(count).map((row, i) => {
    const middle = Math.floor((i * LAYERS) / count);
    const layers = Array.from({ length: LAYERS }, (_, layer) => layer).filter(
      (layer) => Math.abs(layer - middle) <= 4,
    );
    return { ...row, cuts: [{ from: [PREFIX], to: [3, 4, 5], layers }] };
  });
}

function plainRows(count: number): PatchRow[] {
  return Array.from({ length: count }, () => ({ tokenIds: target, edits: [] }));
}

function contrasted(count: number, contrast: Contrast): PatchRow[] {
  return patchRows(count).map((row) => ({ ...row, contrast }));
}

/** Most memory of the whole command that runs 900 patches, beyond the model file and the K/V cache. */
async function memoryOfGrid(): Promise<void> {
  const measure = 'MB of memory beyond model file and K/V cache, 900 patches by the command';
  if (!comparison.wants(measure)) return;
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bench-'));
  const cli = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));
  const list = (ids: readonly number[]) => ids.join(',');
  const child = spawn(
    process.execPath,
    [
      cli,
      'patch',
      '--source-ids',
      list(someTokens(10, 500)),
      '--source-position',
      '-1',
      '--source-layer',
      'all',
    ].concat(
      ['--target-ids', list(target), '--target-position', '-1', '--target-layer', 'all', '--json'],
      ['--db', path.join(folder, 'bench.db')],
    ),
    { stdio: ['ignore', 'ignore', 'ignore'] },
  );
  let peak = 0;
  const watch = setInterval(() => {
    try {
      const status = fs.readFileSync(`/proc/${child.pid}/status`, 'utf8');
      peak = Math.max(peak, 1024 * Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0));
    } catch {
      // it has ended
    }
  }, 20);
  const [code] = await once(child, 'exit');
  clearInterval(watch);
  fs.rmSync(folder, { recursive: true });
  if (code !== 0) throw new Error('The grid of 900 patches failed.');
  const cacheBytes = 512 * 23040; // 19 + 128 cells, rounded up to 256s, of 30 layers x 2 x 192 x 2 bytes
  const beyond = Math.round((peak - file.bytes - cacheBytes) / 1e6);
  comparison.add(measure, beyond, '', '', 'under 300', '');
}
