/** Where states are found in a model's graph, and which models are refused because they have no such place. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { loadNative } from './device.js';
import { badKinds, goodKinds, type ModelKind } from './fixtures/models.js';
import {
  assertRefused,
  assertSameBits,
  captured,
  edit,
  nextLogits,
  open,
  sameBits,
  tinyPath,
} from './support.js';

/** The first block's input as llama.cpp's graph names it. */
const embedName: { readonly [K in (typeof goodKinds)[number]]: string } = {
  llama: 'embd',
  gemma3: 'inp_scaled',
  qwen3: 'embd',
  gpt2: 'inpL',
  gptneox: 'embd',
  'gptneox-sequential': 'embd',
  moe: 'embd',
};

for (const kind of goodKinds) {
  test(`${kind}: the sites are the first block's input and each block's output`, async (t) => {
    const native = await loadNative(tinyPath(kind));
    t.after(() => native.close());
    const context = await native.createContext({
      cells: 256,
      batchTokens: 8,
      sequences: 1,
      outputs: 2,
      threads: 1,
      flashAttention: true,
      typeK: 'f16',
      typeV: 'f16',
    });
    t.after(() => context.close());
    const { embed, resid_out: blocks } = context.describe().sites;
    assert.equal(embed, embedName[kind]);
    assert.deepEqual(
      blocks,
      Array.from({ length: native.describe().layerCount }, (_, il) => `l_out-${il}`),
    );
  });
}

test('gpt2: embed holds the position too, so the same token differs from place to place', async (t) => {
  const engine = await open(tinyPath('gpt2'));
  t.after(() => engine.close());
  const state = await captured(engine, [70, 70], ['embed']);
  assert.equal(sameBits(state('embed', 0), state('embed', 1)), false);
});

test('llama: embed is the token alone, so the same token is the same from place to place', async (t) => {
  const engine = await open(tinyPath('llama'));
  t.after(() => engine.close());
  const state = await captured(engine, [70, 70, 71], ['embed']);
  assert.equal(sameBits(state('embed', 0), state('embed', 1)), true);
  assert.equal(sameBits(state('embed', 1), state('embed', 2)), false);
});

const refused: [ModelKind, code: string, says: RegExp][] = [
  ['no-residual', 'no_site', /no plain residual stream.*does not name the output of block 0/],
  ['altup', 'no_site', /no plain residual stream.*not a float32 row of width 32 for each token/],
  ['embedding', 'bad_model', /embedding\.gguf is an embedding model \(bert\).*causal language model/],
  ['vocab-only', 'bad_model', /vocab-only\.gguf holds a vocabulary but no weights/],
];

for (const [kind, code, says] of refused) {
  test(`${kind}: it is refused with a reason, and a good model opens afterwards`, async (t) => {
    await assertRefused(() => open(tinyPath(kind)), code, says);
    const engine = await open(tinyPath('llama'));
    t.after(() => engine.close());
    const state = await captured(engine, [1, 70, 71], [1]);
    const [logits] = await nextLogits(engine, [{ tokenIds: [1, 72], edits: [edit(1, 1, state(1, 2))] }]);
    assert.ok(logits!.every(Number.isFinite), 'the good model gives numbers');
  });
}

test('every kind of model that the fixtures call bad is looked at here', () => {
  const here = refused.map(([kind]) => kind);
  assert.deepEqual(
    badKinds.filter((kind) => !here.includes(kind)),
    ['mamba'],
  );
});

test('mamba: it has the sites of a plain residual stream, and a prefix is kept apart from the rows', async (t) => {
  const engine = await open(tinyPath('mamba'));
  t.after(() => engine.close());
  const target = [5, 90, 70, 71, 72];
  const state = await captured(engine, [6, 91, 73, 74], [1]);
  const rows = [1, 2, 3].map((i) => ({ tokenIds: target, edits: [edit(1, 3, state(1, i))] }));
  const together = await nextLogits(engine, rows);
  for (const [i, row] of rows.entries()) {
    const [alone] = await nextLogits(engine, [row]);
    const difference = Math.max(...alone!.map((value, k) => Math.abs(value - together[i]![k]!)));
    assert.ok(difference < 0.05, `row ${i}: ${difference}`);
  }
  const again = await nextLogits(engine, rows);
  for (const [i, logits] of together.entries()) assertSameBits(logits, again[i]!, `row ${i} again`);
  assert.equal(sameBits(together[0]!, together[1]!), false);
});

test('mamba: one-token prompts and both ways of the lens work, though sequences outnumber outputs', async (t) => {
  const engine = await open(tinyPath('mamba'));
  t.after(() => engine.close());
  const state = await captured(engine, [6, 91, 73], [1]);
  const [logits] = await nextLogits(engine, [{ tokenIds: [5], edits: [edit(1, 0, state(1, 2))] }]);
  assert.ok(logits!.every(Number.isFinite), 'a one-token prompt gives numbers');
  const [fast] = await engine.lens(state(1, 2), { topK: 1, way: 'fast' });
  const [slow] = await engine.lens(state(1, 2), { topK: 1, way: 'slow' });
  const [usual] = await engine.lens(state(1, 2), { topK: 1 });
  for (const result of [fast, slow, usual]) assert.equal(result!.status, 'ok');
});
