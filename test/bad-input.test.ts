/** Whatever is wrong with what an engine is given: one sentence that says so, and a process that goes on. */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import type { CapturePoint, Engine, PatchRow, RowReading } from '../src/engine.js';
import { parseLayers } from '../src/layers.js';
import type { EngineOptions } from '../src/llama/llama-engine.js';
import { openEngine } from '../src/llama/llama-engine.js';
import { parsePosition } from '../src/positions.js';
import { resolvePrompt } from '../src/prompts.js';
import { type Corruption, corruptions, scalar, tensor, type Value, writeGguf } from './fixtures/gguf.js';
import { type ModelKind, tinyModel, writeSplit } from './fixtures/models.js';
import {
  asFile,
  assertRefused,
  assertSentence,
  captured,
  edit,
  folder,
  nextLogits,
  open,
  runChild,
  tinyPath,
  writeFile,
} from './support.js';

const reading: RowReading = { topK: 1, maxTokens: 1 };

/** The engine that the bad input went to still says what it said before. */
async function assertWorks(engine: Engine): Promise<void> {
  const state = await captured(engine, [1, 70, 71], [1]);
  const [logits] = await nextLogits(engine, [{ tokenIds: [1, 72], edits: [edit(1, 1, state(1, 2))] }]);
  assert.ok(logits!.every(Number.isFinite), 'the engine gives numbers');
}

// --- files

const files: [what: string, path: () => string, code: string, says: RegExp][] = [
  ['a missing file', () => join(folder(), 'none.gguf'), 'bad_model', /none\.gguf.*No such file/],
  ['a folder', () => folder(), 'bad_model', /not a readable GGUF file/],
  [
    'an empty file',
    () => writeFile('empty.gguf', ''),
    'bad_model',
    /empty\.gguf is not a readable GGUF file/,
  ],
  [
    'a truncated file',
    () => writeFile('short.gguf', readFileSync(tinyPath('llama')).subarray(0, -5000)),
    'bad_model',
    /short\.gguf/,
  ],
  ['a text file', () => writeFile('text.gguf', 'Dear model,\n'.repeat(99)), 'bad_model', /text\.gguf/],
  [
    'a file in a folder that is not there',
    () => join(folder(), 'no', 'where.gguf'),
    'bad_model',
    /where\.gguf/,
  ],
  ['a path with no name', () => '', 'bad_model', /No such file/],
];

for (const [what, path, code, says] of files) {
  test(`${what} is refused as a model, by name, and a good model opens afterwards`, async (t) => {
    await assertRefused(() => open(path()), code, says);
    const engine = await open(tinyPath('llama'));
    t.after(() => engine.close());
    await assertWorks(engine);
  });
}

test('a split model opens by its parts, and not with one missing, alone or in the wrong order', async (t) => {
  mkdirSync(join(folder(), 'split'));
  const [first, second] = writeSplit(join(folder(), 'split', 'llama.gguf'));
  const parts = (...paths: string[]) =>
    openEngine({ ...asFile(paths[0]!), parts: paths }, { threads: 1 } satisfies EngineOptions);
  const engine = await parts(first, second);
  t.after(() => engine.close());
  await assertWorks(engine);
  await assertRefused(() => parts(first), 'bad_model', /is not part 1 of 1/);
  await assertRefused(() => parts(second), 'bad_model', /00002-of-00002\.gguf/);
  await assertRefused(() => parts(second, first), 'bad_model', /00002-of-00002\.gguf/);
  await assertRefused(() => parts(first, tinyPath('gpt2')), 'bad_model', /gpt2\.gguf/);
  await assertWorks(engine);
});

// --- options

const options: [what: string, options: object, code: string, says: RegExp][] = [
  ['no threads', { threads: 0 }, 'bad_input', /threads is 0 .*at least 1/],
  ['more threads than ggml can use', { threads: 513 }, 'bad_input', /threads is 513 .*at most 512/],
  ['half a thread', { threads: 0.5 }, 'bad_input', /threads is 0\.5/],
  ['a context of no tokens', { contextSize: 0 }, 'bad_input', /contextSize is 0/],
  ['batches of no rows', { batchRows: 0 }, 'bad_input', /batchRows is 0/],
  ['batches of less than no tokens', { batchTokens: -1 }, 'bad_input', /batchTokens is -1/],
  ['GPU layers below zero', { gpuLayers: -1 }, 'bad_input', /gpuLayers is -1/],
  ['a K/V type that does not exist', { typeK: 'q4_9' }, 'bad_input', /no K\/V type q4_9.*f16/],
  [
    'a quantized V cache without flash attention',
    { typeV: 'q8_0', flashAttention: false },
    'bad_input',
    /flash attention/,
  ],
  [
    'a K/V type whose blocks do not fit the heads',
    { typeK: 'q8_0' },
    'bad_input',
    /q8_0.*does not divide n_embd_head_k=16/,
  ],
  ['GPU layers where GPUs are off', { gpu: 'off', gpuLayers: 3 }, 'no_device', /asks for a GPU/],
];

for (const [what, wrong, code, says] of options) {
  test(`${what}: refused, and a good model opens afterwards`, async (t) => {
    await assertRefused(() => open(tinyPath('llama'), wrong as EngineOptions), code, says);
    const engine = await open(tinyPath('llama'));
    t.after(() => engine.close());
    await assertWorks(engine);
  });
}

for (const gpu of ['cuda', 'vulkan', 'metal']) {
  test(`${gpu} where there is no such device is refused, and the CPU can be used afterwards`, async (t) => {
    const { stdout, stderr, code, signal } = await runChild(`
      const path = ${JSON.stringify(tinyPath('llama'))};
      try {
        await open(path, { gpu: '${gpu}' });
        console.log(JSON.stringify({ opened: true }));
      } catch (error) {
        console.log(JSON.stringify({ name: error.name, code: error.code, message: error.message }));
        const engine = await open(path);
        const [row] = await engine.patch([{ tokenIds: [1, 2], edits: [] }], { topK: 1, maxTokens: 1 });
        console.log(JSON.stringify(row.status));
        await engine.close();
      }`);
    const [refusal, row] = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    if (refusal.opened) return t.skip(`not run: this machine has a ${gpu} device`);
    assert.equal(refusal.name, 'PatchscopeError');
    assert.ok(['no_device', 'no_addon'].includes(refusal.code), refusal.code);
    assert.match(refusal.message, new RegExp(gpu));
    assertSentence(refusal.message);
    assert.equal(row, 'ok', stderr);
    assert.deepEqual([code, signal], [0, null]);
  });
}

test('more memory than there is: refused with what is wanted and what is free', async (t) => {
  const engine = await open(tinyPath('llama'), { contextSize: 2 ** 31 - 1 });
  t.after(() => engine.close());
  for (const maxTokens of [10 ** 9, 2 ** 31 - 2]) {
    await assertRefused(
      () => engine.patch([{ tokenIds: [1, 2], edits: [] }], { topK: 1, maxTokens }),
      'out_of_memory',
      /[\d.]+ GB where [\d.]+ GB are free/,
    );
  }
  await assertWorks(engine);
});

// --- calls

const vector = (value: number) => new Float32Array(64).fill(value);
const row = (more: Partial<PatchRow> = {}): PatchRow => ({ tokenIds: [1, 70], edits: [], ...more });
const point = (more: object = {}) =>
  ({ site: 'resid_out', layer: 1, tokenIndex: 0, ...more }) as CapturePoint;

const calls: [what: string, call: (engine: Engine) => unknown, says: RegExp, code?: string][] = [
  ['a layer beyond the last', (e) => captureAt(e, { layer: 4 }), /Layer 4 .* layers are 0 to 3/],
  ['a layer below the first', (e) => captureAt(e, { layer: -1 }), /Layer -1 .* 0 to 3/],
  ['a layer between two', (e) => captureAt(e, { layer: 1.5 }), /Layer 1\.5 .* 0 to 3/],
  [
    'a site that does not exist',
    (e) => captureAt(e, { site: 'logits' }),
    /no site 'logits'.*embed, resid_mid/,
  ],
  ['a block at the site embed', (e) => captureAt(e, { site: 'embed' }), /site embed has no layer '1'/],
  ['embed at a block', (e) => captureAt(e, { layer: 'embed' }), /resid_out has no layer 'embed'/],
  ['a position beyond the prompt', (e) => captureAt(e, { tokenIndex: 2 }), /Token index 2 .* 0 to 1/],
  ['a position before the prompt', (e) => captureAt(e, { tokenIndex: -1 }), /Token index -1 .* 0 to 1/],
  ['an empty prompt to capture', (e) => e.capture([{ tokenIds: [], points: [] }]), /prompt is empty/],
  ['an empty prompt to patch', (e) => e.patch([row({ tokenIds: [] })], reading), /prompt is empty/],
  [
    'a token id beyond the vocabulary',
    (e) => e.patch([row({ tokenIds: [1, 317] })], reading),
    /Token id 317 .* 0 to 316/,
  ],
  ['a token id below zero', (e) => e.patch([row({ tokenIds: [-1] })], reading), /Token id -1 /],
  ['half a token id', (e) => e.patch([row({ tokenIds: [1.5] })], reading), /Token id 1\.5 /],
  [
    'a token to track beyond the vocabulary',
    (e) => e.patch([row()], { ...reading, trackedTokens: [999] }),
    /Token id 999/,
  ],
  [
    'a token to track in one row beyond the vocabulary',
    (e) => e.patch([row({ trackedTokens: [317] })], reading),
    /Token id 317 .* 0 to 316/,
  ],
  [
    'a row that ends with any text',
    (e) => e.patch([row({ until: ['x', ''] })], reading),
    /empty text in until/,
  ],
  [
    'a position to read beyond the prompt',
    (e) => e.patch([row()], { ...reading, tokenIndexes: [2] }),
    /Token index 2/,
  ],
  [
    'a prompt longer than the context',
    (e) => e.patch([row({ tokenIds: Array(513).fill(1) })], reading),
    /513 tokens is longer than the context of 512/,
  ],
  [
    'a prompt to capture longer than the context',
    (e) => e.capture([{ tokenIds: Array(513).fill(1), points: [point()] }]),
    /513 tokens/,
  ],
  [
    'a prompt whose continuation is longer than the context',
    (e) => e.patch([row({ tokenIds: Array(510).fill(1) })], { ...reading, maxTokens: 4 }),
    /510 tokens with 4 more/,
  ],
  [
    'a vector that is too short',
    (e) => e.patch([patchWith(vector(1).slice(1))], reading),
    /layer 1 has 63 numbers .* have 64/,
  ],
  [
    'a vector that is too long',
    (e) => e.patch([patchWith(new Float32Array(65))], reading),
    /65 numbers .* have 64/,
  ],
  [
    'a vector with NaN',
    (e) => e.patch([patchWith(vector(1).fill(Number.NaN, 63))], reading),
    /layer 1 holds NaN or infinity/,
  ],
  [
    'a vector with infinity',
    (e) => e.patch([patchWith(vector(-Number.POSITIVE_INFINITY))], reading),
    /NaN or infinity/,
  ],
  [
    'two edits of one state',
    (e) => e.patch([row({ edits: [edit(1, 0, vector(1)), edit(1, 0, vector(2))] })], reading),
    /Two edits/,
  ],
  ['a top of less than nothing', (e) => e.patch([row()], { ...reading, topK: -1 }), /topK is -1/],
  ['a top without a number', (e) => e.patch([row()], { maxTokens: 1 } as RowReading), /topK is undefined/],
  ['half a token to generate', (e) => e.patch([row()], { ...reading, maxTokens: 0.5 }), /maxTokens is 0\.5/],
  ['states of the wrong width', (e) => e.lens(new Float32Array(65), { topK: 1 }), /64 floats each, not 65/],
  ['no states', (e) => e.lens(new Float32Array(0), { topK: 1 }), /64 floats each, not 0/],
  [
    'a state with NaN',
    (e) => e.lens(vector(Number.NaN), { topK: 1, way: 'fast' }),
    /holds NaN or infinity/,
    'not_finite',
  ],
  ['a token that does not exist', (e) => e.tokenizer.tokenBytes(317), /Token id 317 is outside/],
  ['a chat without a template', (e) => e.tokenizer.chat('hello', { bos: true }), /no chat template/],
  [
    'text that is not in the prompt',
    ({ tokenizer }) => {
      const prompt = { kind: 'text', text: 'the cat' } as const;
      return resolvePrompt(prompt, parsePosition('dog'), tokenizer, 'source');
    },
    /'dog' does not occur in the source prompt " ?the cat"/,
  ],
  ['a layer selector beyond the model', () => parseLayers('0..9', 4), /Layer 9 .* 4 layers are 0 to 3/],
];

function captureAt(engine: Engine, more: object): unknown {
  return engine.capture([{ tokenIds: [1, 70], points: [point(more)] }]);
}

function patchWith(state: Float32Array): PatchRow {
  return row({ edits: [edit(1, 1, state)] });
}

for (const [what, call, says, code] of calls) {
  test(`${what}: refused in one sentence, and the engine works afterwards`, async (t) => {
    const engine = await open(tinyPath('llama'));
    t.after(() => engine.close());
    await assertRefused(() => call(engine), code ?? 'bad_input', says);
    await assertWorks(engine);
  });
}

const misuses: [what: string, call: (engine: Engine) => unknown][] = [
  ['a text instead of token ids', (e) => e.capture([{ tokenIds: 'abc' as never, points: [] }])],
  ['an array instead of a vector', (e) => e.patch([patchWith([1, 2] as never)], reading)],
  ['an array instead of states', (e) => e.lens([1, 2] as never, { topK: 1 })],
  ['nothing to capture', (e) => e.capture(undefined as never)],
  ['no reading', (e) => e.patch([row()], undefined as never)],
  [
    'a model whose parts are no list',
    () => openEngine({ ...asFile(tinyPath('llama')), parts: 'a' as never }),
  ],
  ['a model whose path is not its first part', () => openEngine({ ...asFile(tinyPath('llama')), path: 'a' })],
];

for (const [what, call] of misuses) {
  test(`${what}: a TypeError, and the engine works afterwards`, async (t) => {
    const engine = await open(tinyPath('llama'));
    t.after(() => engine.close());
    await assert.rejects(async () => call(engine), TypeError);
    await assertWorks(engine);
  });
}

test('more top tokens than the vocabulary has are all of them, however many are asked for', async (t) => {
  const engine = await open(tinyPath('llama'));
  t.after(() => engine.close());
  for (const topK of [317, 10_000, 2 ** 31, 2 ** 40]) {
    const [result] = await engine.patch([row()], { topK, maxTokens: 1 });
    assert.ok(result?.status === 'ok', JSON.stringify(result));
    assert.equal(result.steps[0]!.top.length, 317, `topK ${topK}`);
  }
});

test('no rows, no requests, no points and nothing to read are fine', async (t) => {
  const engine = await open(tinyPath('llama'));
  t.after(() => engine.close());
  assert.deepEqual(await engine.patch([], reading), []);
  assert.deepEqual(await engine.capture([]), []);
  assert.deepEqual(await engine.capture([{ tokenIds: [1], points: [] }]), [{ status: 'ok', states: [] }]);
  const [result] = await engine.patch([row()], { topK: 0, maxTokens: 0 });
  assert.deepEqual(result, { status: 'ok', tokenIds: [], text: '', steps: [], positions: [] });
});

test('a prompt as long as the context fits, and so does its continuation', async (t) => {
  const engine = await open(tinyPath('llama'), { contextSize: 24 });
  t.after(() => engine.close());
  const rows = Array.from({ length: 5 }, (_, i) => row({ tokenIds: Array(20).fill(70 + i) }));
  const results = await engine.patch(rows, { topK: 1, maxTokens: 5 });
  assert.deepEqual(
    results.map((result) => result.status === 'ok' && result.tokenIds.length),
    [5, 5, 5, 5, 5],
  );
  const requests = rows.map(({ tokenIds }) => ({ tokenIds, points: [point({ tokenIndex: 19 })] }));
  for (const { status } of await engine.capture(requests)) assert.equal(status, 'ok');
});

test('a context larger than the model was trained on does not end the process', async () => {
  for (const kind of ['llama', 'gpt2'] as const) {
    const { code, signal, stdout, stderr } = await runChild(`
      try {
        const engine = await open(${JSON.stringify(tinyPath(kind))}, { contextSize: 1024 });
        const tokenIds = Array.from({ length: 600 }, (_, i) => i % 250);
        const [row] = await engine.patch([{ tokenIds, edits: [] }], { topK: 1, maxTokens: 1 });
        console.log(row.status);
      } catch (error) {
        console.log(error.name, error.code, error.message);
      }`);
    assert.deepEqual([code, signal], [0, null], `${kind}: ${stderr}`);
    assert.match(stdout, /^ok|^PatchscopeError/, kind);
  }
});

// --- damaged files, each in a process that may die of it

interface Outcome {
  readonly name: string;
  readonly result: string;
}

const outcomes = new Map<string, string>();
const damaged = [
  ...corruptions(readFileSync(tinyPath('llama'))),
  // in architectures that check less of it than llama
  ...[
    damagedBy('odd-rotation', 'gptneox', { 'gptneox.rope.dimension_count': scalar('u32', 3) }),
    damagedBy('no-rotation', 'gemma3', { 'gemma3.rope.dimension_count': scalar('u32', 0) }),
    damagedBy('rotation-beyond-the-head', 'qwen3', { 'qwen3.rope.dimension_count': scalar('u32', 66) }),
  ],
  { name: 'half-decay', bytes: withHalves('mamba', 'blk.0.ssm_a') },
];

function damagedBy(name: string, kind: ModelKind, keys: Record<string, Value>): Corruption {
  const { metadata, tensors } = tinyModel(kind);
  return { name, bytes: writeGguf({ metadata: new Map([...metadata, ...Object.entries(keys)]), tensors }) };
}

function withHalves(kind: ModelKind, name: string): Uint8Array {
  const { metadata, tensors } = tinyModel(kind);
  const changed = tensors.map((each) =>
    each.name === name
      ? tensor(name, each.shape, new Float32Array(each.bytes.length / 4).fill(-1), 'f16')
      : each,
  );
  return writeGguf({ metadata, tensors: changed });
}

before(async () => {
  let waiting = damaged.map(({ name, bytes }) => ({ name, path: writeFile(`damaged-${name}.gguf`, bytes) }));
  while (waiting.length > 0) {
    const { stdout, signal, code, stderr } = await runChild(`
      for (const { name, path } of ${JSON.stringify(waiting)}) {
        console.log(JSON.stringify({ name, result: 'begun' }));
        const say = (result) => console.log(JSON.stringify({ name, result }));
        try {
          const engine = await open(path);
          const { layerCount, embeddingSize } = engine.record;
          const vector = new Float32Array(embeddingSize).fill(1);
          const layer = layerCount - 1;
          const edits = [{ site: 'resid_out', layer, tokenIndex: 1, vector }];
          const [row] = await engine.patch([{ tokenIds: [1, 70, 71], edits }], { topK: 1, maxTokens: 2 });
          engine.tokenizer.tokenize('the cat', { bos: true, special: false });
          await engine.close();
          say(row.status === 'ok' ? 'ok' : 'failed ' + row.error);
        } catch (error) {
          say(error.name + ' ' + error.code + ' ' + error.message);
        }
      }`);
    const lines = stdout
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as Outcome);
    assert.ok(lines.length > 0, stderr);
    for (const { name, result } of lines) outcomes.set(name, result);
    const { name, result } = lines.at(-1)!;
    if (result === 'begun') outcomes.set(name, `died of ${signal ?? code}: ${stderr.slice(-300)}`);
    waiting = waiting.slice(new Set(lines.map((line) => line.name)).size);
  }
});

for (const { name } of damaged) {
  test(`a model damaged by ${name} is refused in one sentence, or runs; the process lives`, () => {
    const outcome = outcomes.get(name)!;
    assert.match(outcome, /^ok$|^failed |^PatchscopeError (bad_model|no_site|bad_input) /);
    assertSentence(outcome === 'ok' ? 'It runs.' : outcome);
  });
}

/** What ended the process, or never ended, before it was checked. */
const refused: [name: string, says: RegExp][] = [
  ['no-heads-though-recurrent', /no attention heads \(llama\.attention\.head_count\)/],
  ['zero-heads-in-the-first-block', /no attention heads/],
  ['experts-in-too-many-groups', /llama-model\.cpp:\d+: GGML_ASSERT\(hparams\.n_expert % /],
  ['epsilon-not-a-number', /an epsilon of -?nan in a norm/],
  ['empty-tensor', /tensor without numbers \(output_norm\.weight\)/],
  ['half-bias', /blk\.0\.attn_q\.bias in type f16, which llama\.cpp can't compute ADD with/],
  [
    'whole-number-weight',
    /blk\.1\.ffn_gate\.weight in type i16, which llama\.cpp can't compute MUL_MAT with/,
  ],
  ['odd-rotation', /rotates 3 of the 16 dimensions of a head/],
  ['no-rotation', /rotates 0 of the 32 dimensions/],
  ['rotation-beyond-the-head', /qwen3\.cpp:\d+: GGML_ASSERT\(n_embd_head == n_rot\)/],
  ['half-decay', /blk\.0\.ssm_a in type f16, which llama\.cpp can't compute SSM_SCAN with/],
];

for (const [name, says] of refused) {
  test(`a model damaged by ${name} is refused with the reason`, () => {
    assert.match(outcomes.get(name)!, /^PatchscopeError bad_model /);
    assert.match(outcomes.get(name)!, says);
  });
}

test('a model with NaN among its weights loads, and its rows fail', () => {
  assert.match(outcomes.get('not-finite')!, /^failed .*NaN/);
});
