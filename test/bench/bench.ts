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
  type Edit,
  type Engine,
  formatTable,
  openEngine,
  type PatchRow,
  resolveModel,
} from '../../src/index.js';
import type { ModelKind } from '../fixtures/models.js';
import { labelMilliseconds } from './labelling.js';
import { measureLayouts } from './layouts.js';
import { startRawLoop } from './raw-loop.js';

const ROUNDS = 5;
const wantedWord = process.argv[2] ?? '';
const PREFIX = 19;
const LAYERS = 30;
const READ_ONE = { topK: 5, maxTokens: 1 };
const READ_EIGHT = { topK: 5, maxTokens: 8 };

const file = await resolveModel('smollm2-135m-instruct');
const engine = await openEngine(file, { gpu: 'off' });
const { threads, embeddingSize } = engine.record;
const raw = await startRawLoop(file.path, threads);
const rows: (string | number)[][] = [];

const target = tokens(PREFIX + 1, 0);
const states = await sourceStates(engine);

await compare('128 rows patched : the same rows unpatched', 0.95, {
  ours: () => timed(() => engine.patch(patchRows(128), READ_ONE)),
  theirs: () => timed(() => engine.patch(plainRows(128), READ_ONE)),
});
await compare('256 rows patched : the same rows unpatched', 0.95, {
  ours: () => timed(() => engine.patch(patchRows(256), READ_ONE)),
  theirs: () => timed(() => engine.patch(plainRows(256), READ_ONE)),
});
await compare('30 rows patched : the same rows unpatched', 0.92, {
  ours: () => timed(() => engine.patch(patchRows(30), READ_ONE)),
  theirs: () => timed(() => engine.patch(plainRows(30), READ_ONE)),
});
await compare('128 rows with norm-matched adds : the same rows unpatched', 0.9, {
  ours: () => timed(() => engine.patch(patchRows(128, { op: 'norm-matched-add' }), READ_ONE)),
  theirs: () => timed(() => engine.patch(plainRows(128), READ_ONE)),
});
await compare('128 rows edited at each of 8 generated tokens : the same rows unpatched', 0.9, {
  ours: () =>
    timed(() => engine.patch(patchRows(128, { op: 'add', alpha: 0.1, atGenerated: true }), READ_EIGHT)),
  theirs: () => timed(() => engine.patch(plainRows(128), READ_EIGHT)),
});
await compare('128 rows of 8 drawn tokens : of the most probable tokens', 0.9, {
  ours: () => timed(() => engine.patch(plainRows(128), { ...READ_EIGHT, sampling: { temperature: 1 } })),
  theirs: () => timed(() => engine.patch(plainRows(128), READ_EIGHT)),
});
await compare('128 rows of 8 tokens drawn from 40 and 0.95 : of the most probable tokens', 0.9, {
  ours: () =>
    timed(() =>
      engine.patch(plainRows(128), { ...READ_EIGHT, sampling: { temperature: 0.8, topK: 40, topP: 0.95 } }),
    ),
  theirs: () => timed(() => engine.patch(plainRows(128), READ_EIGHT)),
});
await compare('all layers of 8 x 128 tokens captured : raw prefill, same rows output', 0.95, {
  ours: () => timed(() => engine.capture(promptsToCapture(8, 128))),
  theirs: () => raw.run('prefill 8 128'),
});
await compare('900 patches with their sources : raw decode of 900 rows', 1 / 1.1, {
  ours: () =>
    timed(async () => {
      await sourceStates(engine);
      return engine.patch(patchRows(900), READ_ONE);
    }),
  theirs: () => raw.run(`rows ${PREFIX} 900 128`),
});
const lensStates = Float32Array.from(
  { length: 900 * embeddingSize },
  (_, i) => states[0]![i % embeddingSize]!,
);
await compare('900 states by the fast lens : by the slow lens', 4, {
  ours: () => timed(() => engine.lens(lensStates, { topK: 5, way: 'fast' })),
  theirs: () => timed(() => engine.lens(lensStates, { topK: 5, way: 'slow' })),
});

raw.close();
await engine.close();
await measureLayouts(file, target, ({ measure, ours, theirs }) =>
  compare(measure, 0.9, { ours: () => timed(ours), theirs: () => timed(theirs) }),
);
await labelling('llama');
await labelling('gptneox'); // most of its nodes have no name of their own
await labelling('qwen2moe'); // the largest graph of a block
if (wantedWord === '') rows.push(await memoryOfGrid());

console.log(formatTable({ columns: ['measure', 'ratio', 'from', 'to', 'wanted'], rows, truncated: false }));
console.log(
  `\nSmolLM2-135M-Instruct Q4_1, ${threads} threads, ${os.cpus()[0]!.model.trim()}, llama.cpp ${engine.record.llamaCpp}, ${new Date().toISOString().slice(0, 10)}; speed as a share of the other's (median of ${ROUNDS} rounds in turn, least and most)`,
);

interface Pair {
  /** @returns seconds. */
  readonly ours: () => Promise<number>;
  readonly theirs: () => Promise<number>;
}

/** Both in turn, so that a machine whose speed drifts treats them alike; the first round only warms up. */
async function compare(measure: string, wanted: number, { ours, theirs }: Pair): Promise<void> {
  if (!measure.includes(wantedWord)) return;
  const ratios: number[] = [];
  for (let round = 0; round <= ROUNDS; round++) {
    const mine = await ours();
    const other = await theirs();
    if (round > 0) ratios.push(other / mine);
  }
  ratios.sort((a, b) => a - b);
  const shown = [ratios[Math.floor(ROUNDS / 2)]!, ratios[0]!, ratios.at(-1)!].map((ratio) =>
    ratio.toFixed(2),
  );
  rows.push([measure, ...shown, `at least ${wanted.toFixed(2)}`]);
  process.stderr.write(`${measure}: ${shown[0]}\n`);
}

async function labelling(kind: ModelKind): Promise<void> {
  const measure = `ms to find the sites of 32 blocks, ${kind}`;
  if (!measure.includes(wantedWord)) return;
  const times = (await labelMilliseconds(kind, 32, ROUNDS)).sort((a, b) => a - b);
  const shown = [times[Math.floor(ROUNDS / 2)]!, times[0]!, times.at(-1)!].map((time) => time.toFixed(1));
  rows.push([measure, ...shown, 'under 100']);
}

async function timed(work: () => Promise<readonly { readonly status: string }[]>): Promise<number> {
  const begin = process.hrtime.bigint();
  const results = await work();
  const seconds = Number(process.hrtime.bigint() - begin) / 1e9;
  if (results.some(({ status }) => status !== 'ok')) throw new Error('A cell failed: nothing was measured.');
  return seconds;
}

function tokens(count: number, from: number): number[] {
  return Array.from({ length: count }, (_, i) => 1000 + (((from + i) * 7919) % 20000));
}

async function sourceStates(from: Engine): Promise<readonly Float32Array[]> {
  const points = Array.from({ length: LAYERS }, (_, layer) => ({
    site: 'resid_out' as const,
    layer,
    tokenIndex: 9,
  }));
  const [captured] = await from.capture([{ tokenIds: tokens(10, 500), points }]);
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

function plainRows(count: number): PatchRow[] {
  return Array.from({ length: count }, () => ({ tokenIds: target, edits: [] }));
}

function promptsToCapture(count: number, length: number) {
  return Array.from({ length: count }, (_, k) => ({
    tokenIds: tokens(length, k * length),
    points: Array.from({ length: length * LAYERS }, (_, i) => ({
      site: 'resid_out' as const,
      layer: i % LAYERS,
      tokenIndex: Math.floor(i / LAYERS),
    })),
  }));
}

/** Most memory of the whole command that runs 900 patches, beyond the model file and the K/V cache. */
async function memoryOfGrid(): Promise<(string | number)[]> {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bench-'));
  const cli = fileURLToPath(new URL('../../dist/cli.js', import.meta.url));
  const list = (ids: readonly number[]) => ids.join(',');
  const child = spawn(
    process.execPath,
    [
      cli,
      'patch',
      '--source-ids',
      list(tokens(10, 500)),
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
  return [
    'MB of memory beyond model file and K/V cache, 900 patches by the command',
    beyond,
    '',
    '',
    'under 300',
  ];
}
