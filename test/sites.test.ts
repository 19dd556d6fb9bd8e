/** Where states are found in a model's graph, and which models are refused because they have no such place. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Site } from '../src/patchscope.js';
import { badKinds, goodKinds, type ModelKind, tinyModel } from './fixtures/models.js';
import { nameOf, type Probed, type ProbeEdit, type Shape, SiteProbe } from './site-probe.js';
import {
  assertRefused,
  assertSameBits,
  captured,
  edit,
  largestDifference,
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

/** How the blocks of a model add what they add. */
const blockKind: { readonly [K in (typeof goodKinds)[number]]: 'in turn' | 'side by side' } = {
  llama: 'in turn',
  gemma3: 'in turn',
  qwen3: 'in turn',
  gpt2: 'in turn',
  gptneox: 'side by side',
  'gptneox-sequential': 'in turn',
  moe: 'in turn',
};

const prompts = [
  [5, 90, 70, 71, 72],
  [6, 91, 73, 74, 75],
  [7, 92, 76, 77, 78],
];
const shapes: readonly Shape[] = [
  { name: 'one token', prompts: [[5]], outputs: 'all' },
  { name: 'five tokens, one output', prompts: prompts.slice(0, 1), outputs: 'last of each' },
  { name: 'five tokens, all outputs', prompts: prompts.slice(0, 1), outputs: 'all' },
  { name: 'three sequences, three outputs', prompts, outputs: 'last of each' },
  {
    name: '48 tokens, one output',
    prompts: [Array.from({ length: 48 }, (_, i) => 40 + i)],
    outputs: 'last of each',
  },
];

const sum = (a: Float32Array, b: Float32Array): Float32Array => a.map((value, i) => value + b[i]!);

for (const kind of goodKinds) {
  const parallel = blockKind[kind] === 'side by side';

  test(`${kind}: every site is found, save the state between what lies side by side`, async (t) => {
    const probe = await SiteProbe.open(tinyPath(kind));
    t.after(() => probe.close());
    const { embed, resid_mid, resid_out, ...others } = probe.sites;
    const ofBlocks = (name: string) =>
      Array.from({ length: probe.info.layerCount }, (_, il) => `${name}-${il}`);
    assert.deepEqual(embed, { nodes: [embedName[kind]], reason: null });
    assert.deepEqual(resid_out, { nodes: ofBlocks('l_out'), reason: null });
    for (const [site, { nodes, reason }] of Object.entries(others)) {
      assert.ok(nodes.every((node) => node !== null) && reason === null, `${site}: ${reason}`);
    }
    if (parallel) {
      assert.ok(resid_mid.nodes.every((node) => node === null));
      assert.equal(
        resid_mid.reason,
        'attention and MLP read the same input, so there is no state between them',
      );
    } else {
      assert.ok(resid_mid.nodes.every((node) => node !== null) && resid_mid.reason === null);
    }
  });

  for (const flashAttention of [true, false]) {
    test(`${kind}: the sites of a block add up (flash attention ${flashAttention ? 'on' : 'off'})`, async (t) => {
      const probe = await SiteProbe.open(tinyPath(kind), flashAttention);
      t.after(() => probe.close());
      for (const shape of shapes) {
        const probed = await probe.run(shape);
        for (let layer = 0; layer < probe.info.layerCount; layer++) {
          for (const row of probed.rows({ site: 'resid_out', layer })) {
            const at = (site: Site) => probed.state({ site, layer }, row);
            const where = `${shape.name}, layer ${layer}, token ${row}`;
            const input = probed.state(probe.inputOf(layer), row);
            if (parallel) {
              // three numbers are added, and the order decides about the last bit
              const total = sum(sum(input, at('attn_out')), at('mlp_out'));
              const scale = Math.max(
                ...[input, at('attn_out'), at('mlp_out')].flatMap((x) => [...x.map(Math.abs)]),
              );
              const difference = largestDifference(at('resid_out'), total);
              assert.ok(difference <= scale * 2 ** -22, `${where}: ${difference}`);
            } else {
              assertSameBits(at('resid_mid'), sum(input, at('attn_out')), `${where}, resid_mid`);
              assertSameBits(at('resid_out'), sum(at('resid_mid'), at('mlp_out')), `${where}, resid_out`);
            }
            assert.ok(!sameBits(at('attn_out'), at('mlp_out')), `${where}: two sites`);
          }
        }
      }
    });

    test(`${kind}: a state written where it was read changes no bit (flash attention ${flashAttention ? 'on' : 'off'})`, async (t) => {
      const probe = await SiteProbe.open(tinyPath(kind), flashAttention);
      t.after(() => probe.close());
      for (const shape of shapes) {
        const before = await probe.run(shape);
        for (const place of probe.places().filter(({ site }) => site !== 'final_norm')) {
          const rows = before.rows(place);
          const after = await probe.run(shape, [{ ...place, rows, vectors: before.states(place) }]);
          assertSameBits(after.logits, before.logits, `${shape.name}, ${nameOf(place)}`);
          const other = before.states(place).map((value) => 0.5 - value);
          const changed = await probe.run(shape, [{ ...place, rows, vectors: other }]);
          assert.ok(!sameBits(changed.logits, before.logits), `${shape.name}, ${nameOf(place)}: no effect`);
        }
      }
    });
  }

  test(`${kind}: without what attention adds, the block goes on from its input`, async (t) => {
    const probe = await SiteProbe.open(tinyPath(kind));
    t.after(() => probe.close());
    for (const shape of shapes) {
      const before = await probe.run(shape);
      for (let layer = 0; layer < probe.info.layerCount; layer++) {
        const zero = (site: Site): ProbeEdit => {
          const rows = before.rows({ site, layer });
          return { site, layer, rows, vectors: new Float32Array(rows.length * probe.info.embeddingSize) };
        };
        const [noAttention, noMlp] = [
          await probe.run(shape, [zero('attn_out')]),
          await probe.run(shape, [zero('mlp_out')]),
        ];
        for (const row of before.rows({ site: 'resid_out', layer })) {
          const where = `${shape.name}, layer ${layer}, token ${row}`;
          const input = before.state(probe.inputOf(layer), row);
          const at = (probed: Probed, site: Site) => probed.state({ site, layer }, row);
          if (parallel) {
            assertSameBits(
              at(noAttention, 'resid_out'),
              sum(input, at(before, 'mlp_out')),
              `${where}, attention`,
            );
            assertSameBits(at(noMlp, 'resid_out'), sum(input, at(before, 'attn_out')), `${where}, MLP`);
          } else {
            assertSameBits(at(noAttention, 'resid_mid'), input, `${where}, attention`);
            assertSameBits(at(noMlp, 'resid_out'), at(before, 'resid_mid'), `${where}, MLP`);
          }
        }
      }
    }
  });

  test(`${kind}: final_norm is the normed output of the last block`, async (t) => {
    const probe = await SiteProbe.open(tinyPath(kind));
    t.after(() => probe.close());
    const norm = finalNorm(kind);
    for (const shape of shapes) {
      const probed = await probe.run(shape);
      for (const row of probed.rows({ site: 'final_norm', layer: 0 })) {
        const last = probed.state({ site: 'resid_out', layer: probe.info.layerCount - 1 }, row);
        const difference = largestDifference(probed.state({ site: 'final_norm', layer: 0 }, row), norm(last));
        assert.ok(difference < 1e-4, `${shape.name}, token ${row}: ${difference}`);
      }
    }
    const [shape] = shapes;
    const [only] = await Promise.allSettled([
      probe.run(shape!, [
        { site: 'final_norm', layer: 0, rows: [0], vectors: new Float32Array(probe.info.embeddingSize) },
      ]),
    ]);
    assert.ok(only.status === 'rejected');
    assert.match(only.reason.message, /final norm is read, not written/);
  });
}

/** The final norm as the model file defines it. */
function finalNorm(kind: ModelKind): (state: Float32Array) => Float32Array {
  const { tensors, metadata } = tinyModel(kind);
  const weights = (name: string): Float32Array | undefined => {
    const bytes = tensors.find((tensor) => tensor.name === name)?.bytes;
    return bytes && new Float32Array(Uint8Array.from(bytes).buffer);
  };
  const gain = weights('output_norm.weight')!;
  const bias = weights('output_norm.bias');
  const epsilon = [...metadata].find(([key]) => key.endsWith('_epsilon'))![1] as { value: number };
  const mean = (values: readonly number[]) =>
    values.reduce((total, value) => total + value, 0) / values.length;
  return (state) => {
    const centre = bias === undefined ? 0 : mean([...state]);
    const deviation = Math.sqrt(mean([...state].map((value) => (value - centre) ** 2)) + epsilon.value);
    return state.map((value, i) => ((value - centre) / deviation) * gain[i]! + (bias?.[i] ?? 0));
  };
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
