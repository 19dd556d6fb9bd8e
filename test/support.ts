/** What several tests need: models on disk, engines that are closed in the end, bits compared, child processes. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { CacheLayout, Edit, Engine, PatchRow, RowReading, RowResult } from '../src/engine.js';
import { PatchscopeError } from '../src/errors.js';
import { type EngineOptions, openEngine } from '../src/llama/llama-engine.js';
import type { Layer, Prompt, Source } from '../src/patchscope.js';
import { needPrompt, type ResolvedSource } from '../src/plan/sources.js';
import type { ResolvedPrompt } from '../src/prompts.js';
import { device } from './device.js';
import { asFile, folder, tinyPath } from './fixtures/disk.js';
import { type Gguf, type Value, writeGguf } from './fixtures/gguf.js';
import { goodKinds, type ModelKind, tinyModel } from './fixtures/models.js';
import { everyIndex, nativeRead, nativeReplace } from './native-step.js';

export { asFile, everyIndex, folder, nativeRead, nativeReplace, tinyPath };

export function writeFile(name: string, bytes: Uint8Array | string): string {
  const path = join(folder(), name);
  writeFileSync(path, bytes);
  return path;
}

/** A tiny model with other metadata, written once: an engine maps its file into memory. */
export function writeVariant(kind: ModelKind, name: string, keys: Record<string, Value>): string {
  const path = join(folder(), name);
  if (existsSync(path)) return path;
  const model: Gguf = tinyModel(kind);
  return writeFile(
    name,
    writeGguf({ ...model, metadata: new Map([...model.metadata, ...Object.entries(keys)]) }),
  );
}

const smollm2 =
  process.env.PATCHSCOPES_TEST_MODEL ??
  join(homedir(), '.cache', 'patchscopes', 'models', 'smollm2-135m-instruct.gguf');

export interface TestModel {
  readonly name: string;
  readonly isTiny: boolean;
  readonly path: () => string;
  /** Why it can't be used, if so. */
  readonly skip: string | false;
}

export const tinyModels: readonly TestModel[] = goodKinds.map((kind) => ({
  name: kind,
  isTiny: true,
  path: () => tinyPath(kind),
  skip:
    device.oneModel && kind !== 'llama'
      ? `not run on ${device.name}, where one model runs: its driver compiles minutes of shaders for each`
      : false,
}));

export const realModel: TestModel = {
  name: 'smollm2-135m-instruct',
  isTiny: false,
  path: () => smollm2,
  skip: !device.isCpu
    ? `not run on ${device.name}, where only tiny models run: this device is too slow for real ones`
    : existsSync(smollm2)
      ? false
      : 'not run: the model smollm2-135m-instruct is not there',
};

export const allModels: readonly TestModel[] = [...tinyModels, realModel];

/** Of a source that has one. */
export const promptOf = (source: ResolvedSource): ResolvedPrompt => needPrompt(source, 'no prompt');

/** The same as it was given. */
export function givenPrompt(source: Source): Prompt {
  assert.ok('prompt' in source);
  return source.prompt;
}

/** On the device that the tests run on. One thread: more of them wait for each other where the machine is busy. */
export function open(path: string, options: EngineOptions = {}): Promise<Engine> {
  return openEngine(asFile(path), { threads: 1, ...device.options, ...options });
}

const shared = new Map<string, Promise<Engine>>();

after(async () => {
  for (const engine of shared.values()) await (await engine.catch(() => undefined))?.close();
});

/** One engine for all tests of a file that want the same. */
export function sharedEngine(model: TestModel, options: EngineOptions = {}): Promise<Engine> {
  const key = `${model.name} ${JSON.stringify(options)}`;
  const engine = shared.get(key) ?? open(model.path(), options);
  shared.set(key, engine);
  return engine;
}

export const cacheLayouts: readonly CacheLayout[] = ['unified', 'streams'];

/** The same engine, whose work has another layout unless told otherwise. */
export function withLayout(engine: Engine, cacheLayout: CacheLayout): Engine {
  return {
    record: engine.record,
    tokenizer: engine.tokenizer,
    capture: (requests, options) => engine.capture(requests, { cacheLayout, ...options }),
    patch: (rows, reading, options) => engine.patch(rows, reading, { cacheLayout, ...options }),
    lens: (states, reading, options) => engine.lens(states, reading, options),
    tolerance: (rows, layout = cacheLayout) => engine.tolerance(rows, layout),
    close: () => engine.close(),
  };
}

/**
 * One test for each model and layout of its cache; on the real model and on devices beside the CPU, which take
 * their time, in the second layout only where that is asked for. Exact mode holds on the CPU, with unified cells; elsewhere it
 * may be refused, with the reason.
 */
export function law(
  sentence: string,
  check: (engine: Engine, model: TestModel, layout: CacheLayout) => Promise<void>,
  options: EngineOptions & { readonly models?: readonly TestModel[]; readonly tellingStreams?: boolean } = {},
): void {
  const { models = allModels, tellingStreams = false, ...engineOptions } = options;
  const layoutsOf = ({ isTiny }: TestModel) =>
    engineOptions.exact || !((isTiny && device.isCpu) || tellingStreams)
      ? cacheLayouts.slice(0, 1)
      : cacheLayouts;
  for (const [model, layout] of models.flatMap((model) =>
    layoutsOf(model).map((layout) => [model, layout] as const),
  )) {
    const name = layout === 'unified' ? model.name : `${model.name}, streams`;
    test(`${name}: ${sentence}`, { skip: model.skip }, async (t) => {
      const opened = sharedEngine(model, engineOptions);
      if (engineOptions.exact && !device.isCpu) {
        const refusal = await opened.then(
          () => undefined,
          (error: Error) => error,
        );
        if (refusal !== undefined) {
          await assertRefused(() => opened, 'bad_input', /^Exact mode does not hold .*\(--gpu off\)/);
          t.diagnostic(`on ${device.name}: ${refusal.message}`);
          return;
        }
      }
      await check(withLayout(await opened, layout), model, layout);
    });
  }
}

// both are longer than the window of 8 tokens of the tiny Gemma 3
export const SOURCE = 'the cat and the dog is on a mat of the sea and other';
export const TARGET = 'in the house there are men and women of the town';

/**
 * Largest difference of logits between two ways of computing the same: kernels differ by the number of rows,
 * and states are rounded to half floats in the cache.
 */
export const tolerance = ({ isTiny }: TestModel): number => (isTiny ? 0.05 : 1);

/** Where an edit goes in the laws: the first site, the first, a middle and the last block. */
export function someLayers({ record: { layerCount } }: Engine): Layer[] {
  return ['embed', 0, Math.floor(layerCount / 2), layerCount - 1];
}

export const tokens = ({ tokenizer }: Engine, text: string): number[] =>
  tokenizer.tokenize(text, { bos: true, special: false });

export const siteOf = (layer: Layer): 'embed' | 'resid_out' => (layer === 'embed' ? 'embed' : 'resid_out');

export const edit = (layer: Layer, tokenIndex: number, vector: Float32Array): Edit => ({
  site: siteOf(layer),
  layer,
  tokenIndex,
  vector,
});

/** States of one prompt, found by layer and token index. */
export async function captured(
  engine: Engine,
  tokenIds: readonly number[],
  layers: readonly Layer[],
  tokenIndexes: readonly number[] = everyIndex(tokenIds),
): Promise<(layer: Layer, tokenIndex: number) => Float32Array> {
  const points = layers.flatMap((layer) =>
    tokenIndexes.map((tokenIndex) => ({ site: siteOf(layer), layer, tokenIndex })),
  );
  const [result] = await engine.capture([{ tokenIds, points }]);
  assert.ok(result?.status === 'ok', JSON.stringify(result));
  return (layer, tokenIndex) => {
    const at = points.findIndex((point) => point.layer === layer && point.tokenIndex === tokenIndex);
    return result.states[at]!;
  };
}

export type OkRow = Extract<RowResult, { readonly status: 'ok' }>;

/** Patched rows that must all be well. */
export async function patched(
  engine: Engine,
  rows: readonly PatchRow[],
  reading: Partial<RowReading> = {},
): Promise<OkRow[]> {
  const results = await engine.patch(rows, { topK: 1, maxTokens: 1, logits: true, ...reading });
  return results.map((result) => {
    assert.ok(result.status === 'ok', JSON.stringify(result));
    return result;
  });
}

/** Logits of one row after each of its tokens. The whole prompt goes through one decode. */
export async function logitsEverywhere(
  engine: Engine,
  tokenIds: readonly number[],
  edits: readonly Edit[] = [],
): Promise<Float32Array[]> {
  const [row] = await patched(engine, [{ tokenIds, edits }], { tokenIndexes: everyIndex(tokenIds) });
  return row!.positions.map(({ logits }) => logits!);
}

/** Logits of the token after the prompt, one list for each row. */
export async function nextLogits(engine: Engine, rows: readonly PatchRow[]): Promise<Float32Array[]> {
  return (await patched(engine, rows)).map(({ steps }) => steps[0]!.logits!);
}

export function sameBits(a: Float32Array, b: Float32Array): boolean {
  return Buffer.from(a.buffer, a.byteOffset, a.byteLength).equals(
    Buffer.from(b.buffer, b.byteOffset, b.byteLength),
  );
}

export function assertSameBits(actual: Float32Array, expected: Float32Array, where: string): void {
  assert.ok(
    sameBits(actual, expected),
    `${where}: bits differ, by up to ${largestDifference(actual, expected)}`,
  );
}

/** Of two decodes that differ in shape: the same bits where the device promises it, else the same up to rounding. */
export function assertSameAcrossShapes(actual: Float32Array, expected: Float32Array, where: string): void {
  if (!device.roundsByShape) {
    assertSameBits(actual, expected, where);
    return;
  }
  const scale = expected.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0);
  const difference = largestDifference(actual, expected) / scale;
  assert.ok(difference < SHAPE_ROUNDING, `${where}: they differ by ${difference} of the largest number`);
}

/** Of the largest number. Seen on Vulkan: 0.0012. */
export const SHAPE_ROUNDING = 5e-3;

export function largestDifference(a: Float32Array, b: Float32Array): number {
  assert.equal(a.length, b.length);
  return a.reduce((largest, value, i) => Math.max(largest, Math.abs(value - b[i]!)), 0);
}

/** Two ways of computing the same logits may round differently, and the most probable token with them. */
export function assertClose(
  actual: Float32Array,
  expected: Float32Array,
  tolerance: number,
  where: string,
): void {
  const difference = largestDifference(actual, expected);
  assert.ok(difference <= tolerance, `${where}: logits differ by ${difference}`);
  const best = argmax(expected);
  const margin = expected[best]! - secondLargest(expected, best);
  if (margin > 2 * tolerance) assert.equal(argmax(actual), best, `${where}: the most probable token`);
}

export function argmax(values: Float32Array): number {
  return values.reduce((best, value, i) => (value > values[best]! ? i : best), 0);
}

function secondLargest(values: Float32Array, best: number): number {
  return values.reduce(
    (second, value, i) => (i !== best && value > second ? value : second),
    Number.NEGATIVE_INFINITY,
  );
}

/** States no two of which are alike, as large as the model's own. */
export function mixedStates(count: number, state: Float32Array, other: Float32Array): Float32Array[] {
  return Array.from({ length: count }, (_, k) =>
    state.map((value, i) => value * Math.cos(k * (i + 1)) + other[i]! * Math.sin(k * (i + 2))),
  );
}

/** At once, without a promise. */
export function assertBadInput(work: () => unknown, says: RegExp): void {
  assert.throws(work, (error: unknown) => {
    assert.ok(error instanceof PatchscopeError, String((error as Error).stack));
    assert.equal(error.code, 'bad_input');
    assert.match(error.message, says);
    assertSentence(error.message);
    return true;
  });
}

/** Asserts one sentence that begins with a capital and ends with a period, of a coded error. */
export async function assertRefused(work: () => unknown, code: string | RegExp, says: RegExp): Promise<void> {
  const error = await Promise.resolve()
    .then(work)
    .then(
      (value) => assert.fail(`It was not refused but gave ${JSON.stringify(value)?.slice(0, 200)}`),
      (reason: unknown) => reason,
    );
  assert.ok(error instanceof PatchscopeError, String((error as Error).stack ?? error));
  if (typeof code === 'string') assert.equal(error.code, code, error.message);
  else assert.match(error.code, code, error.message);
  assert.match(error.message, says);
  assertSentence(error.message);
}

export function assertSentence(message: string): void {
  assert.match(message, /^\S[^\n]*[.]$/, `not one sentence on one line: ${JSON.stringify(message)}`);
}

export interface ChildResult {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
  /** Milliseconds from `mark` on its stdout, or from its start, to its end. */
  readonly milliseconds: number;
}

const root = fileURLToPath(new URL('..', import.meta.url));

/** Runs a module's text in a process of its own, with `open`, `asFile` and `openEngine` at hand. */
export function runChild(
  script: string,
  options: { readonly mark?: string; readonly limit?: number; readonly nodeOptions?: readonly string[] } = {},
): Promise<ChildResult> {
  const text = `
    import { openEngine } from ${JSON.stringify(new URL('../src/llama/llama-engine.ts', import.meta.url).href)};
    const asFile = (path) => ({ path, parts: [path], sha256: 'test', bytes: 1 });
    const open = (path, options) => openEngine(asFile(path), { threads: 1, ...options });
    ${script}`;
  const flags = [...(options.nodeOptions ?? []), '--import', 'tsx', '--input-type=module', '--eval', text];
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, flags, {
      cwd: root,
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: options.limit ?? 120_000,
      killSignal: 'SIGKILL',
    });
    let stdout = '';
    let stderr = '';
    let since = performance.now();
    let marked = options.mark === undefined;
    child.stdout.on('data', (data: Buffer) => {
      stdout += data;
      if (!marked && stdout.includes(options.mark!)) {
        marked = true;
        since = performance.now();
      }
    });
    child.stderr.on('data', (data: Buffer) => {
      stderr += data;
    });
    child.on('error', reject);
    child.on('close', (code, signal) =>
      resolve({ code, signal, stdout, stderr, milliseconds: performance.now() - since }),
    );
  });
}
