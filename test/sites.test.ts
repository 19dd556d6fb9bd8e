/** Where states are found in a model's graph, and which models are refused because they have no such place. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Site } from '../src/patchscope.js';
import { blockKind, sitesOf } from './block-kinds.js';
import { badKinds, decoderKinds, type ModelKind, tinyModel } from './fixtures/models.js';
import { nameOf, type Place, type Probed, type Shape, SiteProbe } from './site-probe.js';
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

/** The first block's input: its name in llama.cpp's graph, or what it is made of where it has none. */
const embedName: { readonly [K in ModelKind]?: string } = {
  llama: 'embd',
  granite: 'embd',
  gemma: 'inp_scaled',
  gemma2: 'inp_scaled',
  gemma3: 'inp_scaled',
  gpt2: 'inpL',
  bloom: 'inp_norm-0',
  rwkv6: 'ADD(norm_w-0=MUL(norm-0=NORM(embd), token_embd_norm.weight), token_embd_norm.bias)',
};

const prompts = [
  [5, 90, 70, 71, 72],
  [6, 91, 73, 74, 75],
  [7, 92, 76, 77, 78],
];
const long = Array.from({ length: 48 }, (_, i) => 40 + i);
const shapes: readonly Shape[] = [
  { name: 'one token', prompts: [[5]], outputs: 'all' },
  { name: 'five tokens, one output', prompts: prompts.slice(0, 1), outputs: 'last of each' },
  { name: 'five tokens, all outputs', prompts: prompts.slice(0, 1), outputs: 'all' },
  { name: 'three sequences, all outputs', prompts, outputs: 'all' },
  { name: 'three sequences, three outputs', prompts, outputs: 'last of each' },
  { name: '48 tokens, one output', prompts: [long], outputs: 'last of each' },
];

const sum = (a: Float32Array, b: Float32Array): Float32Array => a.map((value, i) => value + b[i]!);

for (const kind of decoderKinds) {
  const layersOf = ({ info }: SiteProbe) => Array.from({ length: info.layerCount }, (_, layer) => layer);

  test(`${kind}: the sites that its blocks have are found, and no other`, async (t) => {
    const probe = await SiteProbe.open(tinyPath(kind));
    t.after(() => probe.close());
    const { embed, resid_out, final_norm, ...others } = probe.sites;
    assert.equal(embed.nodes[0], embedName[kind] ?? embed.nodes[0]);
    assert.deepEqual(resid_out, { nodes: layersOf(probe).map((layer) => `l_out-${layer}`), reason: null });
    assert.deepEqual(final_norm, { nodes: ['result_norm'], reason: null });
    for (const [site, { nodes, reason }] of Object.entries(others)) {
      const expected = layersOf(probe).map((layer) =>
        (sitesOf[blockKind(kind, layer)] as readonly string[]).includes(site),
      );
      assert.deepEqual(
        nodes.map((node) => node !== null),
        expected,
        `${site}: ${reason}`,
      );
      assert.equal(reason === null, !expected.includes(false), site);
    }
    for (const layer of layersOf(probe)) {
      if (blockKind(kind, layer) === 'attention and MLP side by side') {
        assert.match(probe.sites.resid_mid.reason!, /^attention and MLP read the same input/);
      } else if (blockKind(kind, layer) === 'time mix, then channel mix') {
        assert.equal(probe.sites.resid_mid.nodes[layer], `ffn_inp-${layer}`);
      }
    }
  });

  for (const flashAttention of [true, false]) {
    test(`${kind}: the sites of a block add up (flash attention ${flashAttention ? 'on' : 'off'})`, async (t) => {
      const probe = await SiteProbe.open(tinyPath(kind), flashAttention);
      t.after(() => probe.close());
      for (const shape of shapes) {
        const probed = await probe.run(shape);
        for (const layer of layersOf(probe)) {
          for (const row of probed.rows({ site: 'resid_out', layer })) {
            const at = (site: Site) => probed.state({ site, layer }, row);
            const where = `${shape.name}, layer ${layer}, token ${row}`;
            const input = probed.state(probe.inputOf(layer), row);
            const has = (site: Site) => probe.has({ site, layer });
            if (blockKind(kind, layer) === 'attention, then MLP') {
              assertSameBits(at('resid_mid'), sum(input, at('attn_out')), `${where}, resid_mid`);
            } else if (blockKind(kind, layer) === 'attention and MLP side by side') {
              // three numbers are added, and the order decides about the last bits
              const parts = [input, at('attn_out'), at('mlp_out')];
              const scale = Math.max(...parts.flatMap((part) => [...part.map(Math.abs)]));
              const difference = largestDifference(at('resid_out'), parts.reduce(sum));
              assert.ok(difference <= scale * 2 ** -22, `${where}: ${difference}`);
            } else if (has('resid_mid')) {
              assert.ok(!sameBits(at('resid_mid'), input), `${where}: the block's input`);
              assert.ok(!sameBits(at('resid_mid'), at('resid_out')), `${where}: the block's output`);
            }
            if (has('resid_mid') && has('mlp_out')) {
              assertSameBits(at('resid_out'), sum(at('resid_mid'), at('mlp_out')), `${where}, resid_out`);
            }
            if (has('attn_out')) assert.ok(!sameBits(at('attn_out'), at('mlp_out')), `${where}: two sites`);
          }
        }
      }
    });
  }

  test(`${kind}: without what attention or MLP adds, the block goes on from what is left`, async (t) => {
    const probe = await SiteProbe.open(tinyPath(kind));
    t.after(() => probe.close());
    for (const shape of shapes) {
      const before = await probe.run(shape);
      const without = async (place: Place): Promise<Probed> => {
        const rows = before.rows(place);
        const vectors = new Float32Array(rows.length * probe.info.embeddingSize);
        return probe.run(shape, [{ ...place, rows, vectors }]);
      };
      for (const place of probe.places().filter(({ site }) => site === 'attn_out' || site === 'mlp_out')) {
        const { site, layer } = place;
        const after = await without(place);
        const parallel = blockKind(kind, layer) === 'attention and MLP side by side';
        for (const row of before.rows({ site: 'resid_out', layer })) {
          const where = `${shape.name}, ${nameOf(place)}, token ${row}`;
          const was = (other: Site) => before.state({ site: other, layer }, row);
          const is = (other: Site) => after.state({ site: other, layer }, row);
          const input = before.state(probe.inputOf(layer), row);
          if (parallel) {
            const left = was(site === 'attn_out' ? 'mlp_out' : 'attn_out');
            assertSameBits(is('resid_out'), sum(input, left), where);
          } else if (site === 'mlp_out') {
            assertSameBits(is('resid_out'), was('resid_mid'), where);
          } else if (blockKind(kind, layer) === 'attention, then MLP') {
            assertSameBits(is('resid_mid'), input, where);
          } else {
            assert.ok(!sameBits(is('resid_mid'), was('resid_mid')), `${where}: nothing changed`);
          }
          assertSameBits(after.state(probe.inputOf(layer), row), input, `${where}: the block's input`);
        }
      }
    }
  });

  test(`${kind}: what attention adds depends on the tokens before, what the MLP adds on the token alone`, async (t) => {
    const probe = await SiteProbe.open(tinyPath(kind));
    t.after(() => probe.close());
    const shape: Shape = { name: 'five tokens', prompts: prompts.slice(0, 1), outputs: 'all' };
    const before = await probe.run(shape);
    const later = [1, 2, 3, 4];
    for (const layer of layersOf(probe)) {
      const input = probe.inputOf(layer);
      const middle = { site: 'resid_mid', layer } as const;
      const width = probe.info.embeddingSize;
      const edits = [{ ...input, rows: [0], vectors: before.state(input, 0).map((value) => 0.5 - value) }];
      if (probe.has(middle)) {
        edits.push({ ...middle, rows: later, vectors: before.states(middle).slice(width) });
      }
      const after = await probe.run(shape, edits);
      const same = (site: Site) =>
        later.map((row) => sameBits(after.state({ site, layer }, row), before.state({ site, layer }, row)));
      if (probe.has({ site: 'attn_out', layer }))
        assert.ok(!same('attn_out').includes(true), `attention of ${layer}`);
      if (probe.has({ site: 'mlp_out', layer }))
        assert.ok(!same('mlp_out').includes(false), `MLP of ${layer}`);
    }
  });

  test(`${kind}: final_norm is the normed output of the last block, and is only read`, async (t) => {
    const probe = await SiteProbe.open(tinyPath(kind));
    t.after(() => probe.close());
    const norm = finalNorm(kind);
    const place = { site: 'final_norm', layer: 0 } as const;
    for (const shape of shapes) {
      const probed = await probe.run(shape);
      for (const row of probed.rows(place)) {
        const last = probed.state({ site: 'resid_out', layer: probe.info.layerCount - 1 }, row);
        const difference = largestDifference(probed.state(place, row), norm(last));
        assert.ok(difference < 1e-4, `${shape.name}, token ${row}: ${difference}`);
      }
    }
    const vectors = new Float32Array(probe.info.embeddingSize);
    await assert.rejects(
      probe.run(shapes[0]!, [{ ...place, rows: [0], vectors }]),
      /final norm is read, not written/,
    );
  });
}

/** The final norm as the model file defines it. */
function finalNorm(kind: ModelKind): (state: Float32Array) => Float32Array {
  const { tensors, metadata } = tinyModel(kind);
  const weights = (part: string): Float32Array | undefined => {
    const names = [`output_norm.${part}`, ...(kind === 'lfm2' ? [`token_embd_norm.${part}`] : [])];
    const bytes = tensors.find(({ name }) => names.includes(name))?.bytes;
    return bytes && new Float32Array(Uint8Array.from(bytes).buffer);
  };
  const gain = weights('weight')!;
  const bias = weights('bias');
  const [key, epsilon] = [...metadata].find(([name]) => name.endsWith('_epsilon'))! as [
    string,
    { value: number },
  ];
  const mean = (values: readonly number[]) =>
    values.reduce((total, value) => total + value, 0) / values.length;
  return (state) => {
    const centre = key.includes('rms') ? 0 : mean([...state]);
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
  ['nemotron_h', 'no_site', /no plain residual stream.*does not name the output of block 0/],
  [
    'rwkv6-rescaled',
    'no_site',
    /no plain residual stream.*output of block 1 is not the block's input plus what the block adds/,
  ],
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
    [],
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
