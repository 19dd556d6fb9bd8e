/** What must hold on a model whose decoder attends to what an encoder gave. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { CapturePoint, Edit, Engine, PatchRow, TokenInput } from '../src/engine.js';
import { lensPosition, planLens, runLens } from '../src/lens.js';
import type { EngineOptions } from '../src/llama/llama-engine.js';
import type { NativeContext } from '../src/native.js';
import type { Observation } from '../src/observation.js';
import type { Experiment, Layer, Side, Site } from '../src/patchscope.js';
import { makePlan, pairOf } from '../src/plan/plan.js';
import { parsePosition } from '../src/positions.js';
import { positionTokens } from '../src/prompts.js';
import { ChunkRunner, run } from '../src/run.js';
import { loadNative } from './device.js';
import { t5 } from './fixtures/architectures/t5.js';
import { type Gguf, scalar, tensor, writeGguf } from './fixtures/gguf.js';
import {
  assertClose,
  assertRefused,
  assertSameBits,
  captured,
  folder,
  largestDifference,
  nativeRead,
  nativeReplace,
  nextLogits,
  open,
  patched,
  promptOf,
  sameBits,
  sharedEngine,
  tinyPath,
  tokens,
  writeFile,
} from './support.js';

const SOURCE = 'the cat and the dog is on a mat';
const OTHER = 'in the house there are men of the town';

function pathOf(name = 't5', model: () => Gguf = t5): string {
  const path = join(folder(), `${name}.gguf`);
  return existsSync(path) ? path : writeFile(`${name}.gguf`, writeGguf(model()));
}

const t5Engine = (options: EngineOptions = {}): Promise<Engine> =>
  sharedEngine({ name: 't5', isTiny: true, path: () => pathOf(), skip: false }, options);

const START = [0, 40, 50];

function input(engine: Engine, text: string, tokenIds: readonly number[] = START) {
  return { tokenIds, encoderTokenIds: tokens(engine, text) };
}

const layersOf = ({ record }: Engine, side: Side): number[] => [
  ...Array(side === 'encoder' ? record.encoderLayerCount : record.layerCount).keys(),
];

/** States of all tokens of one side at one place. */
async function statesOf(
  engine: Engine,
  own: TokenInput,
  side: Side,
  site: Site,
  layer: Layer,
): Promise<readonly Float32Array[]> {
  const { length } = side === 'encoder' ? own.encoderTokenIds! : own.tokenIds;
  const points = Array.from({ length }, (_, tokenIndex) => ({ side, site, layer, tokenIndex }));
  const [result] = await engine.capture([{ ...own, points }]);
  assert.ok(result?.status === 'ok', JSON.stringify(result));
  return result.states;
}

const replace = (side: Side, site: Site, layer: Layer, states: readonly Float32Array[]): Edit[] =>
  states.map((vector, tokenIndex) => ({ side, site, layer, tokenIndex, vector }));

/** Where encoder states can be written. */
function encoderPlaces(engine: Engine): [Site, Layer][] {
  const layers = layersOf(engine, 'encoder');
  return [
    ['embed', 'embed'],
    ...layers.flatMap((layer): [Site, Layer][] => [
      ['attn_out', layer],
      ['resid_mid', layer],
      ['mlp_out', layer],
      ['resid_out', layer],
    ]),
    ['final_norm', layers.at(-1)!],
  ];
}

const sum = (a: Float32Array, b: Float32Array): Float32Array => a.map((x, i) => x + b[i]!);

function assertEachClose(
  actual: readonly Float32Array[],
  expected: readonly Float32Array[],
  where: string,
): void {
  assert.equal(actual.length, expected.length, where);
  actual.forEach((state, i) => {
    const difference = largestDifference(state, expected[i]!);
    assert.ok(difference < 1e-4, `${where}, token ${i}: ${difference}`);
  });
}

function weightsOf(name: string): Float32Array {
  const found = t5().tensors.find((tensor) => tensor.name === name);
  assert.ok(found, name);
  return new Float32Array(found.bytes.slice().buffer);
}

for (const side of ['encoder', 'decoder'] as const) {
  test(`the sites of the ${side} are what their names say`, async () => {
    const engine = await t5Engine();
    const own = input(engine, SOURCE);
    const at = (site: Site, layer: Layer) => statesOf(engine, own, side, site, layer);
    const embeddings = weightsOf('token_embd.weight');
    const tokenIds = side === 'encoder' ? own.encoderTokenIds : own.tokenIds;
    let residual = await at('embed', 'embed');
    assertEachClose(
      residual,
      tokenIds.map((id) => embeddings.slice(id * 64, (id + 1) * 64)),
      'embed',
    );
    for (const layer of layersOf(engine, side)) {
      const middle = await at('resid_mid', layer);
      if (side === 'encoder') {
        const added = await at('attn_out', layer);
        const expected = residual.map((state, i) => sum(state, added[i]!));
        assertEachClose(middle, expected, `resid_mid of layer ${layer}`);
      }
      const added = await at('mlp_out', layer);
      residual = await at('resid_out', layer);
      const expected = middle.map((state, i) => sum(state, added[i]!));
      assertEachClose(residual, expected, `resid_out of layer ${layer}`);
    }
    const gains = weightsOf(`${side.slice(0, 3)}.output_norm.weight`);
    const normed = residual.map((state) => {
      const scale = 1 / Math.sqrt(state.reduce((total, x) => total + x * x, 0) / 64 + 1e-6);
      return state.map((x, i) => x * scale * gains[i]!);
    });
    assertEachClose(await at('final_norm', layersOf(engine, side).at(-1)!), normed, 'final_norm');
  });
}

test('the encoder sees all of its prompt and nothing of the decoder; the decoder sees both', async () => {
  const engine = await t5Engine();
  const own = input(engine, SOURCE);
  const ended = { ...own, encoderTokenIds: [...own.encoderTokenIds.slice(0, -1), 77] };
  const first = async (of: TokenInput, side: Side, site: Site, layer: Layer) =>
    (await statesOf(engine, of, side, site, layer))[0]!;
  assert.ok(
    !sameBits(await first(own, 'encoder', 'resid_out', 1), await first(ended, 'encoder', 'resid_out', 1)),
    'its last token reaches its first',
  );
  const elsewhere = { ...own, tokenIds: [0, 60, 61] };
  assertSameBits(
    await first(elsewhere, 'encoder', 'final_norm', 2),
    await first(own, 'encoder', 'final_norm', 2),
    'other tokens in the decoder',
  );
  assertSameBits(
    await first(ended, 'decoder', 'embed', 'embed'),
    await first(own, 'decoder', 'embed', 'embed'),
    'embed',
  );
  assert.ok(
    !sameBits(await first(ended, 'decoder', 'resid_mid', 0), await first(own, 'decoder', 'resid_mid', 0)),
    'attention to the encoder lies before the middle of a decoder block',
  );
});

test('a state put into its own place changes no bit, on either side', async () => {
  const engine = await t5Engine();
  const own = input(engine, SOURCE);
  const [expected] = await nextLogits(engine, [{ ...own, edits: [] }]);
  const decoderPlaces: [Site, Layer][] = [
    ['embed', 'embed'],
    ...layersOf(engine, 'decoder').flatMap((layer): [Site, Layer][] => [
      ['resid_mid', layer],
      ['mlp_out', layer],
      ['resid_out', layer],
    ]),
  ];
  const places = { encoder: encoderPlaces(engine), decoder: decoderPlaces };
  for (const side of ['encoder', 'decoder'] as const) {
    for (const [site, layer] of places[side]) {
      const states = await statesOf(engine, own, side, site, layer);
      // in the last block of the decoder, states are computed where logits are read
      const [row] = await patched(engine, [{ ...own, edits: replace(side, site, layer, states) }], {
        tokenIndexes: START.map((_, i) => i),
      });
      const [unpatched] = await patched(engine, [{ ...own, edits: [] }], {
        tokenIndexes: START.map((_, i) => i),
      });
      row!.positions.forEach(({ logits }, i) => {
        assertSameBits(logits!, unpatched!.positions[i]!.logits!, `${side} ${site} ${layer}, read at ${i}`);
      });
    }
  }
  const [again] = await nextLogits(engine, [{ ...own, edits: [] }]);
  assertSameBits(again!, expected!, 'nothing is left behind');
});

test('a decoder says of a whole encoder state put into another prompt what it says of its own', async () => {
  const engine = await t5Engine();
  const source = input(engine, SOURCE);
  const target = {
    ...source,
    encoderTokenIds: tokens(engine, OTHER).slice(0, source.encoderTokenIds.length),
  };
  assert.equal(target.encoderTokenIds.length, source.encoderTokenIds.length);
  const [expected, unpatched] = await nextLogits(engine, [
    { ...source, edits: [] },
    { ...target, edits: [] },
  ]);
  assert.ok(largestDifference(expected!, unpatched!) > 0.1);
  // one sum of the block is not yet its whole state
  const whole = encoderPlaces(engine).filter(([site]) => site !== 'attn_out' && site !== 'mlp_out');
  for (const [site, layer] of whole) {
    const edits = replace('encoder', site, layer, await statesOf(engine, source, 'encoder', site, layer));
    const [logits] = await nextLogits(engine, [{ ...target, edits }]);
    assertSameBits(logits!, expected!, `${site} ${layer}`);
    const [part] = await nextLogits(engine, [{ ...target, edits: edits.slice(1, 3) }]);
    assert.ok(!sameBits(part!, expected!) && !sameBits(part!, unpatched!), `part of ${site} ${layer}`);
  }
});

test('two decoders beside each other attend to what one encoder gave, and their logits are contrasted', async () => {
  const engine = await t5Engine();
  const own = input(engine, SOURCE);
  const vector = new Float32Array(engine.record.embeddingSize).map((_, i) => Math.sin(i + 1));
  const edits = [{ site: 'resid_out' as const, layer: 0, tokenIndex: 1, vector }];
  const [z, u] = await nextLogits(engine, [
    { ...own, edits },
    { ...own, edits: [] },
  ]);
  assert.ok(largestDifference(z!, u!) > 1e-3);
  const contrast = { edits: [], alpha: 1, cutoff: 0 };
  const [contrasted] = await nextLogits(engine, [{ ...own, edits, contrast }]);
  const expected = z!.map((value, i) => value + (value - u![i]!));
  assertClose(contrasted!, expected, 0.1, 'two streams');
  const layers = { layers: ['embed' as const, 0], cutoff: 0 };
  const [early] = await nextLogits(engine, [{ ...own, edits: [], contrast: layers }]);
  assert.ok(early!.every(Number.isFinite));
  const written: Edit = { side: 'encoder', site: 'resid_out', layer: 0, tokenIndex: 0, vector };
  await assertRefused(
    () => engine.patch([{ ...own, edits: [written], contrast }], { topK: 1, maxTokens: 1 }),
    'bad_input',
    /What an encoder gives is the same in both runs of a contrast/,
  );
});

test("a source's state as the decoder's last block gives the source's next tokens", async () => {
  const engine = await t5Engine();
  const source = input(engine, SOURCE);
  const target = input(engine, OTHER, [0, 70, 71, 72]);
  const layer = engine.record.layerCount - 1;
  const [expected] = await nextLogits(engine, [{ ...source, edits: [] }]);
  const states = await statesOf(engine, source, 'decoder', 'resid_out', layer);
  const edit: Edit = { site: 'resid_out', layer, tokenIndex: 3, vector: states.at(-1)! };
  const [logits] = await nextLogits(engine, [{ ...target, edits: [edit] }]);
  assertClose(logits!, expected!, 0.01, 'last layer');
});

/** Rows of several encoder prompts, encoder edits and decoder edits, mixed. */
async function manyRows(engine: Engine): Promise<PatchRow[]> {
  const layer = engine.record.layerCount - 1;
  const [a, b, c] = [input(engine, SOURCE), input(engine, OTHER), input(engine, `${OTHER} ${SOURCE}`)];
  const vector = (await statesOf(engine, a, 'decoder', 'resid_out', 0))[2]!;
  const output = (await statesOf(engine, a, 'encoder', 'final_norm', 2))[1]!;
  const decoder = (tokenIndex: number): Edit => ({ site: 'resid_out', layer: 0, tokenIndex, vector });
  const encoderPlace = { side: 'encoder', site: 'final_norm', layer: 2, tokenIndex: 2 } as const;
  const encoder: Edit = { ...encoderPlace, vector: output };
  return [
    { ...a, edits: [decoder(2)] },
    { ...b, edits: [encoder] },
    { ...b, edits: [decoder(2)] },
    { ...b, edits: [encoder, decoder(1)] },
    { ...c, edits: [] },
    { ...a, edits: [{ ...decoder(2), layer }] },
    { ...b, edits: [{ ...encoderPlace, op: 'scale', alpha: 0.5 }] },
    { ...b, edits: [{ ...decoder(2), op: 'add', alpha: -2 }] },
  ];
}

test('rows with other encoder prompts and edits beside them come out as by themselves', async () => {
  const engine = await t5Engine();
  const rows = await manyRows(engine);
  const together = await patched(engine, rows, { maxTokens: 3 });
  for (const [i, row] of rows.entries()) {
    const [alone] = await patched(engine, [row], { maxTokens: 3 });
    assert.deepEqual(together[i]!.tokenIds, alone!.tokenIds, `row ${i}`);
    together[i]!.steps.forEach(({ logits }, step) => {
      assertClose(logits!, alone!.steps[step]!.logits!, 0.01, `row ${i}, step ${step}`);
    });
    const next = together[(i + 1) % rows.length]!.steps[0]!.logits!;
    assert.ok(
      largestDifference(together[i]!.steps[0]!.logits!, next) > 1e-2,
      `row ${i} is like the next one`,
    );
  }
});

test('exact mode, which does not hold where attention has a bias, is refused', async () => {
  await assertRefused(() => open(pathOf(), { exact: true }), 'bad_input', /^Exact mode does not hold/);
});

test('tokens that are generated attend to the encoder as given ones do', async () => {
  const engine = await t5Engine();
  const own = input(engine, SOURCE);
  const [generated] = await patched(engine, [{ ...own, edits: [] }], { maxTokens: 5 });
  const tokenIds = [...own.tokenIds, ...generated!.tokenIds.slice(0, -1)];
  const [whole] = await patched(engine, [{ ...own, tokenIds, edits: [] }], {
    maxTokens: 0,
    tokenIndexes: tokenIds.map((_, i) => i),
  });
  generated!.steps.forEach(({ logits }, step) => {
    assertClose(logits!, whole!.positions[own.tokenIds.length - 1 + step]!.logits!, 0.01, `step ${step}`);
  });
});

test('an encoder prompt may be longer than a batch', async () => {
  const engine = await t5Engine();
  const small = await t5Engine({ batchTokens: 8 });
  const own = input(engine, `${SOURCE} ${OTHER} ${SOURCE}`);
  assert.ok(own.encoderTokenIds.length > 24);
  const [expected] = await nextLogits(engine, [{ ...own, edits: [] }]);
  const [logits] = await nextLogits(small, [{ ...own, edits: [] }]);
  assertClose(logits!, expected!, 0.01, 'logits');
  const states = [small, engine].map((one) => statesOf(one, own, 'encoder', 'resid_out', 2));
  const [actual, wanted] = await Promise.all(states);
  assertEachClose(actual!, wanted!, 'states');
});

test('the lens reads decoder states, the fast way as the slow way', async () => {
  const engine = await t5Engine();
  const own = input(engine, SOURCE);
  const layer = engine.record.layerCount - 1;
  const [expected] = await nextLogits(engine, [{ ...own, edits: [] }]);
  const state = (await statesOf(engine, own, 'decoder', 'resid_out', layer)).at(-1)!;
  for (const way of ['fast', 'slow'] as const) {
    const [result] = await engine.lens(state.slice(), { topK: 1, logits: true, way });
    assert.ok(result?.status === 'ok', JSON.stringify(result));
    assertClose(result.logits!, expected!, 0.01, way);
  }
});

test('a row whose encoder makes NaN fails by itself, and the next run is clean', async (t) => {
  // without the small number under its root, the norm makes NaN of a state of zeros
  const epsilon = { 'attention.layer_norm_rms_epsilon': scalar('f32', 0) };
  const engine = await open(pathOf('t5-no-epsilon', () => t5(epsilon)));
  t.after(() => engine.close());
  const own = input(engine, SOURCE);
  const [expected] = await nextLogits(engine, [{ ...own, edits: [] }]);
  const vector = new Float32Array(64);
  const zero: Edit = { side: 'encoder', site: 'resid_out', layer: 2, tokenIndex: 1, vector };
  const rows = [
    { ...own, edits: [] },
    { ...own, edits: [zero] },
    { ...own, edits: [{ ...zero, tokenIndex: 0 }] },
    { ...own, edits: [] },
  ];
  const results = await engine.patch(rows, { topK: 1, maxTokens: 1, logits: true });
  for (const [i, result] of results.entries()) {
    if (i === 1 || i === 2) {
      assert.ok(result.status === 'failed' && result.code === 'not_finite', `row ${i} is NaN`);
    } else {
      assert.ok(result.status === 'ok', JSON.stringify(result));
      assertClose(result.steps[0]!.logits!, expected!, 0.01, `row ${i}`);
    }
  }
  const [after] = await nextLogits(engine, [{ ...own, edits: [] }]);
  assertSameBits(after!, expected!, 'the next run');
});

test('what does not fit is refused in one sentence', async () => {
  const engine = await t5Engine();
  const own = input(engine, SOURCE);
  const { encoderTokenIds: _, ...bare } = own;
  const point: CapturePoint = { side: 'encoder', site: 'resid_out', layer: 0, tokenIndex: 0 };
  const vector = new Float32Array(64);
  const reading = { topK: 1, maxTokens: 1 };
  const capture = (changes: Partial<CapturePoint>) =>
    engine.capture([{ ...own, points: [{ ...point, ...changes }] }]);
  const patch = (changes: Partial<Edit>) =>
    engine.patch([{ ...own, edits: [{ ...point, vector, ...changes }] }], reading);
  const { length } = own.encoderTokenIds;
  await assertRefused(() => engine.patch([{ ...bare, edits: [] }], reading), 'bad_input', /has an encoder/);
  await assertRefused(() => engine.capture([{ ...bare, points: [] }]), 'bad_input', /has an encoder/);
  const empty = { ...own, encoderTokenIds: [], points: [] };
  await assertRefused(() => engine.capture([empty]), 'bad_input', /encoder's prompt is empty/);
  const unknown = { ...own, encoderTokenIds: [99_999], points: [] };
  await assertRefused(() => engine.capture([unknown]), 'bad_input', /outside the vocabulary/);
  await assertRefused(() => capture({ tokenIndex: length }), 'bad_input', new RegExp(`0 to ${length - 1}`));
  await assertRefused(() => capture({ side: 'decoder', tokenIndex: 3 }), 'bad_input', /0 to 2/);
  await assertRefused(() => capture({ layer: 3 }), 'bad_input', /not in the encoder, .* 0 to 2/);
  await assertRefused(
    () => capture({ side: 'decoder', layer: 2 }),
    'bad_input',
    /not in the decoder, .* 0 to 1/,
  );
  await assertRefused(() => capture({ side: 'left' as Side }), 'bad_input', /no side 'left'/);
  await assertRefused(() => patch({ side: 'decoder', site: 'final_norm', layer: 1 }), 'bad_input', /is read/);
  await assertRefused(() => patch({ atGenerated: true }), 'bad_input', /reads no generated tokens/);
  await assertRefused(() => patch({ side: 'decoder', site: 'attn_out' }), 'no_site', /in 2 parts/);

  const llama = await sharedEngine({
    name: 'llama',
    isTiny: true,
    path: () => tinyPath('llama'),
    skip: false,
  });
  await assertRefused(() => llama.patch([{ ...own, edits: [] }], reading), 'bad_input', /has no encoder/);
  const request = { tokenIds: [1], points: [point] };
  await assertRefused(() => llama.capture([request]), 'bad_input', /has no encoder/);
});

test('a file that llama.cpp could not run is refused', async () => {
  const deeper = pathOf('t5-deeper', () => t5({}, { encoder: 2, decoder: 3 }));
  await assertRefused(() => open(deeper), 'bad_model', /could not be loaded/);
  const halved = pathOf('t5-halved', () => {
    const { metadata, tensors } = t5();
    const name = 'enc.blk.1.attn_norm.weight';
    const ones = tensor(name, [64], new Float32Array(64).fill(1), 'f16');
    return { metadata, tensors: tensors.map((one) => (one.name === name ? ones : one)) };
  });
  await assertRefused(() => open(halved), 'bad_model', /enc\.blk\.1\.attn_norm\.weight in type f16/);
  const startless = pathOf('t5-startless', () => {
    const { metadata, tensors } = t5();
    return { metadata: new Map([...metadata].filter(([key]) => !key.includes('start_token'))), tensors };
  });
  await assertRefused(() => open(startless), 'bad_model', /which token its decoder starts from/);
});

test('a decoder-only model gives the same bits before and after', async () => {
  const llama = await open(tinyPath('llama'));
  const tokenIds = tokens(llama, OTHER);
  const before = await nextLogits(llama, [{ tokenIds, edits: [] }]);
  const states = await captured(llama, tokenIds, [1]);
  const engine = await t5Engine();
  await nextLogits(engine, [{ ...input(engine, SOURCE), edits: [] }]);
  const [after] = await nextLogits(llama, [{ tokenIds, edits: [] }]);
  assertSameBits(after!, before[0]!, 'logits');
  assertSameBits((await captured(llama, tokenIds, [1]))(1, 2), states(1, 2), 'states');
  await llama.close();
});

test('an engine that is closed while the encoder runs rejects with code closed', async () => {
  const engine = await open(pathOf());
  const own = { tokenIds: [0], encoderTokenIds: Array.from({ length: 500 }, (_, i) => 3 + (i % 200)) };
  const rows = Array.from({ length: 50 }, (_, i) => ({
    tokenIds: [0],
    encoderTokenIds: [3 + i, ...own.encoderTokenIds.slice(1)],
    edits: [],
  }));
  const work = engine.patch(rows, { topK: 1, maxTokens: 1 });
  const rejected = assert.rejects(work, { code: 'closed' });
  await new Promise((resolve) => setTimeout(resolve, 20));
  await engine.close();
  await rejected;
});

/** A run of one sample whose prompts are one and the same. */
async function cellsOf(engine: Engine, changes: Partial<Experiment>) {
  const prompt = { prompt: { kind: 'text', text: SOURCE }, position: parsePosition('dog') } as const;
  const experiment: Experiment = {
    name: 'test',
    samples: [{ name: 'one', source: prompt, target: prompt }],
    sourceLayers: 'embed,all',
    targetLayers: 'same',
    mapping: { kind: 'identity' },
    reading: { topK: 3, maxTokens: 2, stop: [] },
    seed: 0,
    ...changes,
  };
  const plan = makePlan(experiment, engine.tokenizer, engine.record);
  const cells: Observation[] = [];
  for await (const { observations } of run(plan, new ChunkRunner(plan, engine))) cells.push(...observations);
  return cells.map((cell) => {
    const source = promptOf(pairOf(plan, cell.sample, cell.variant).source);
    const { side, tokenIndex } = source;
    return { ...cell, side, sourcePosition: tokenIndex, sourceTokenId: positionTokens(source)[tokenIndex]! };
  });
}

test('a run counts layers and positions in the side it is told', async () => {
  const engine = await t5Engine();
  const own = { tokenIds: [0], encoderTokenIds: tokens(engine, SOURCE) };
  const [unpatched] = await patched(engine, [{ ...own, edits: [] }], { maxTokens: 2, topK: 3 });
  const both = await cellsOf(engine, { sourceSide: 'encoder', targetSide: 'encoder' });
  assert.deepEqual(
    both.map(({ sourceLayer }) => sourceLayer),
    ['embed', 0, 1, 2],
  );
  for (const cell of both) {
    assert.equal(cell.status, 'ok', cell.error ?? '');
    assert.equal(cell.sourceTokenId, own.encoderTokenIds[cell.sourcePosition]);
    assert.equal(cell.side, 'encoder');
    assert.deepEqual(cell.tokenIds, unpatched!.tokenIds, 'its own place');
    const { logprob } = unpatched!.steps[0]!.top[0]!;
    assert.ok(Math.abs(cell.steps[0]![0]!.logprob - logprob) < 1e-3);
  }

  const start = { prompt: { kind: 'text', text: OTHER }, position: parsePosition('-1') } as const;
  const source = { prompt: { kind: 'text', text: SOURCE }, position: parsePosition('0') } as const;
  const samples = [{ name: 'one', source, target: start }];
  const decoder = await cellsOf(engine, { samples });
  assert.deepEqual(
    decoder.map(({ sourceLayer }) => sourceLayer),
    ['embed', 0, 1],
  );
  const last = decoder.at(-1)!;
  assert.deepEqual([last.sourcePosition, last.sourceTokenId, last.side], [0, 0, 'decoder']);
  assert.equal(last.tokenIds[0], unpatched!.tokenIds[0], 'the last layer says what the source says');

  const across = await cellsOf(engine, {
    samples: [{ name: 'one', source: { ...source, position: parsePosition('dog') }, target: start }],
    sourceSide: 'encoder',
    sourceLayers: '-1',
    targetLayers: 'all',
  });
  assert.deepEqual(
    across.map(({ sourceLayer, targetLayer, status }) => [sourceLayer, targetLayer, status]),
    [
      [2, 0, 'ok'],
      [2, 1, 'ok'],
    ],
  );
  const toDecoder = { samples, sourceSide: 'encoder', targetLayers: 'same' } as const;
  await assertRefused(() => cellsOf(engine, { ...toDecoder, sourceLayers: '2' }), 'bad_input', /0 to 1/);
  const byText = { samples: [{ name: 'one', source, target: { ...start, position: parsePosition('men') } }] };
  await assertRefused(
    () => cellsOf(engine, byText),
    'bad_input',
    /read by the encoder: take the target side/,
  );
  const llama = await sharedEngine({
    name: 'llama',
    isTiny: true,
    path: () => tinyPath('llama'),
    skip: false,
  });
  await assertRefused(() => cellsOf(llama, { sourceSide: 'encoder' }), 'bad_input', /has no encoder/);
});

test('the lens reads what the decoder reads, layer by layer', async () => {
  const engine = await t5Engine();
  const own = { tokenIds: [0], encoderTokenIds: tokens(engine, SOURCE) };
  const [unpatched] = await patched(engine, [{ ...own, edits: [] }]);
  const prompt = { kind: 'text', text: SOURCE } as const;
  const plan = planLens({ prompts: [{ name: 'one', prompt }], layers: 'all', topK: 1, seed: 0 }, engine);
  const cells: Observation[] = [];
  for await (const { observations } of runLens(plan, engine)) cells.push(...observations);
  assert.deepEqual(
    cells.map(({ sample, variant, sourceLayer }) => {
      const { position, tokenId } = lensPosition(plan, sample, Number(variant));
      return [sourceLayer, position, tokenId];
    }),
    [
      [0, 0, 0],
      [1, 0, 0],
    ],
  );
  assert.deepEqual(cells.at(-1)!.tokenIds, unpatched!.tokenIds);
});

test('the command takes the side from its options and says where positions lie', () => {
  const cli = (...more: string[]) =>
    spawnSync(
      process.execPath,
      [
        fileURLToPath(new URL('../dist/cli.js', import.meta.url)),
        ...['patch', '-m', pathOf(), '-t', '1', '--gpu', 'off', '--no-db', '--json'],
        ...['--source', SOURCE, '--target', OTHER, '--target-layer', '0', ...more],
      ],
      { encoding: 'utf8', timeout: 60_000, cwd: folder() },
    );
  const sides = ['--source-side', 'encoder', '--target-side', 'encoder'];
  const encoder = cli(
    '--source-position',
    'dog',
    '--source-layer',
    'all',
    '--target-position',
    'men',
    ...sides,
  );
  assert.equal(encoder.status, 0, encoder.stderr);
  assert.match(encoder.stderr, /^source {2}position \d+ of \d+ in the encoder: /m);
  const lines = encoder.stdout.trim().split('\n');
  assert.deepEqual(
    lines.map((line) => JSON.parse(line).source_layer),
    [0, 1, 2],
  );
  const decoder = cli('--source-position', '-1', '--source-layer', 'all', '--target-position', '-1');
  assert.equal(decoder.status, 0, decoder.stderr);
  assert.match(decoder.stderr, /^target {2}position 0 of 1 in the decoder: /m);
  const refused = cli('--source-position', 'dog', '--source-layer', 'all', '--target-position', '-1');
  assert.equal(refused.status, 2, refused.stderr);
  assert.match(refused.stderr, /read by the encoder: take the source side/);
});

async function withContext(work: (context: NativeContext) => Promise<void>): Promise<void> {
  const model = await loadNative(pathOf());
  const context = await model.createContext({
    cells: 256,
    batchTokens: 16,
    sequences: 4,
    outputs: 8,
    threads: 1,
    flashAttention: true,
    typeK: 'f16',
    typeV: 'f16',
  });
  try {
    await work(context);
  } finally {
    context.close();
    model.close();
  }
}

const list = (...numbers: number[]) => Int32Array.from(numbers);

test('nothing is decoded for a sequence that nothing was encoded for', async () => {
  await withContext(async (context) => {
    const step = (sequence: number) => ({
      tokens: list(0),
      positions: list(0),
      sequences: list(sequence),
      outputs: Uint8Array.of(1),
      captures: [],
      edits: [],
      readings: nativeRead([0], { logits: true }),
    });
    const prompt = (sequences: Int32Array, tokens = list(5, 6, 7)) => ({
      tokens,
      sequences,
      captures: [],
      edits: [],
    });
    const nothing = { code: 'engine', message: /Nothing was encoded for sequence/ };
    await assert.rejects(context.decode(step(0)), nothing);
    await context.encode(prompt(list(0, 2)));
    const first = await context.decode(step(0));
    const third = await context.decode(step(2));
    assert.deepEqual(third.readings.logits, first.readings.logits);
    await assert.rejects(context.decode(step(1)), nothing);
    await context.encode(prompt(list(1), list(8, 9)));
    await assert.rejects(context.decode(step(3)), nothing);
    const second = await context.decode(step(1));
    assert.notDeepEqual(second.readings.logits, first.readings.logits);
    context.clear();
    await assert.rejects(context.decode(step(1)), nothing);

    await assert.rejects(context.encode(prompt(list())), { code: 'engine', message: /one sequence or more/ });
    await assert.rejects(context.encode(prompt(list(1, 1))), { code: 'engine', message: /named once/ });
    await assert.rejects(context.encode(prompt(list(4))), { code: 'engine', message: /Sequence 4/ });
    await assert.rejects(context.encode(prompt(list(0), list())), { code: 'engine', message: /1 to 16/ });
    const long = new Int32Array(17);
    await assert.rejects(context.encode(prompt(list(0), long)), { code: 'engine', message: /1 to 16/ });
    const outside = {
      ...prompt(list(0)),
      edits: [{ site: 'resid_out', layer: 1, rows: list(3), ...nativeReplace(new Float32Array(64), 1) }],
    };
    await assert.rejects(context.encode(outside), { code: 'engine', message: /Row 3 is outside/ });
  });
});

test('what is read in the encoder at a place that was written is what was written', async () => {
  await withContext(async (context) => {
    const vector = Float32Array.from({ length: 64 }, (_, i) => Math.sin(i));
    for (const [site, layer] of [
      ['embed', 0],
      ['resid_out', 1],
      ['resid_out', 2],
      ['final_norm', 0],
    ] as const) {
      const [captures] = await context.encode({
        tokens: list(5, 6, 7),
        sequences: list(0),
        captures: [{ site, layer, rows: list(1) }],
        edits: [{ site, layer, rows: list(1), ...nativeReplace(vector, 1) }],
      });
      assert.deepEqual(captures!.states, vector);
    }
  });
});
