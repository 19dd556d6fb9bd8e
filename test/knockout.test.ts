/** What cut edges of attention must do on every model, whatever it means. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { AttentionCut, Engine, PatchRow } from '../src/engine.js';
import { decoderKinds } from './fixtures/models.js';
import {
  assertClose,
  assertRefused,
  assertSameAcrossShapes,
  assertSameBits,
  edit,
  everyIndex,
  largestDifference,
  law,
  open,
  patched,
  SOURCE,
  sharedEngine,
  TARGET,
  tinyModels,
  tinyPath,
  tokens,
  tolerance,
} from './support.js';

const layersOf = ({ record }: Engine): number[] => Array.from({ length: record.layerCount }, (_, i) => i);

/** Cut or not, all tokens of the row go through one decode. */
const whole = (tokenIds: readonly number[]) => ({ tokenIndexes: everyIndex(tokenIds) });

async function everywhere(engine: Engine, tokenIds: number[], cuts: readonly AttentionCut[]) {
  const [row] = await patched(engine, [{ tokenIds, edits: [], cuts }], whole(tokenIds));
  return row!.positions.map(({ logits }) => logits!);
}

law('what is read before the first cut keeps its bits, what comes after does not', async (engine) => {
  const target = tokens(engine, TARGET);
  const from = 5;
  const plain = await everywhere(engine, target, []);
  const cut = await everywhere(engine, target, [{ from: [from], to: [3, 4, 9], layers: layersOf(engine) }]);
  for (const [i, logits] of cut.entries()) {
    if (i < from) assertSameBits(logits, plain[i]!, `read at ${i}`);
    else if (i === from) assert.ok(largestDifference(logits, plain[i]!) > 1e-3, `read at ${i}`);
  }
});

law('a cut in the last layer changes what is read at its own token alone', async (engine) => {
  const target = tokens(engine, TARGET);
  const from = 5;
  const plain = await everywhere(engine, target, []);
  const cut = await everywhere(engine, target, [
    { from: [from], to: [4], layers: [engine.record.layerCount - 1] },
  ]);
  for (const [i, logits] of cut.entries()) {
    if (i !== from) assertSameBits(logits, plain[i]!, `read at ${i}`);
    else assert.ok(largestDifference(logits, plain[i]!) > 1e-4, `read at ${i}`);
  }
});

law('a token cut off from all others at all layers does not feel what they are', async (engine, model) => {
  const one = tokens(engine, TARGET);
  const last = one.length - 1;
  const other = one.map((id, i) => (i === last ? id : (id + 7) % engine.record.vocabularySize));
  const cuts = [{ from: [last], to: everyIndex(one), layers: layersOf(engine) }];
  const [a, b] = [await everywhere(engine, one, cuts), await everywhere(engine, other, cuts)];
  assertSameBits(a[last]!, b[last]!, 'read at the end');
  assert.ok(largestDifference(a[last - 1]!, b[last - 1]!) > 1e-3, 'the other tokens differ');
  // rotations tell tokens how far others are, not where they stand; nor does a slope
  if (model.name === 'gpt2') return;
  const [alone] = await patched(engine, [{ tokenIds: [one[last]!], edits: [] }]);
  assertClose(a[last]!, alone!.steps[0]!.logits!, tolerance(model), 'as the token alone');
});

law('a key that all later tokens are cut off from may be any token', async (engine) => {
  const one = tokens(engine, TARGET);
  const key = 3;
  const other = one.map((id, i) => (i === key ? (id + 7) % engine.record.vocabularySize : id));
  const from = everyIndex(one).filter((i) => i > key);
  const cuts = [{ from, to: [key], layers: layersOf(engine) }];
  const [a, b] = [await everywhere(engine, one, cuts), await everywhere(engine, other, cuts)];
  for (const i of from) assertSameBits(a[i]!, b[i]!, `read at ${i}`);
  const open = await everywhere(engine, other, []);
  assert.ok(largestDifference(open.at(-1)!, (await everywhere(engine, one, [])).at(-1)!) > 1e-3, 'uncut');
});

law('two halves cut from each other: the second is as a prompt of its own', async (engine, model) => {
  if (model.name === 'gpt2') return; // its positions are learned vectors, which do tell where a token stands
  const first = tokens(engine, SOURCE).slice(0, 6);
  const second = tokens(engine, TARGET).slice(-7);
  const both = [...first, ...second];
  const from = everyIndex(both).slice(first.length);
  const cuts = [{ from, to: everyIndex(first), layers: layersOf(engine) }];
  const cut = await everywhere(engine, both, cuts);
  const own = await everywhere(engine, second, []);
  for (const [i, logits] of own.entries())
    assertClose(cut[first.length + i]!, logits, tolerance(model), `read at ${i}`);
});

law('the window of layers counts: halves of it do less, and differ', async (engine) => {
  const target = tokens(engine, TARGET);
  const last = target.length - 1;
  const layers = layersOf(engine);
  const at = async (own: readonly number[]) =>
    (await everywhere(engine, target, [{ from: [last], to: [last - 1], layers: own }]))[last]!;
  const read = [await at(layers.slice(0, 1)), await at(layers.slice(1)), await at(layers)];
  for (const [i, logits] of read.entries())
    assert.ok(largestDifference(logits, read[(i + 1) % 3]!) > 1e-4, `window ${i} is like the next`);
  const split = await everywhere(engine, target, [
    { from: [last], to: [last - 1], layers: layers.slice(0, 1) },
    { from: [last], to: [last - 1], layers: layers.slice(1) },
  ]);
  assertSameBits(split[last]!, read[2]!, 'two windows side by side are one');
});

law('rows with cuts do not disturb each other, whatever their order', async (engine, model) => {
  const target = tokens(engine, TARGET);
  const last = target.length - 1;
  const rows: PatchRow[] = everyIndex(target)
    .slice(2)
    .flatMap((to) => [
      {
        tokenIds: target,
        edits: [],
        cuts: [{ from: [last], to: [to - 2], layers: [to % engine.record.layerCount], atGenerated: true }],
      },
      { tokenIds: target, edits: [], cuts: [{ from: [1, last], to: [0], layers: [0] }] },
      { tokenIds: target, edits: [] },
    ]);
  const reading = { maxTokens: 3 };
  const together = await patched(engine, rows, reading);
  const turned = (await patched(engine, [...rows].reverse(), reading)).reverse();
  for (const [i, row] of rows.entries()) {
    const [alone] = await patched(engine, [row], reading);
    for (const other of [together[i]!, turned[i]!])
      assertClose(other.steps[0]!.logits!, alone!.steps[0]!.logits!, tolerance(model), `row ${i}`);
  }
});

law(
  'the prefix shared or not gives the same, and so does a cut that ends its sharing',
  async (engine, model) => {
    const target = tokens(engine, TARGET);
    const last = target.length - 1;
    const late = { from: [last], to: [1, 2, last - 1], layers: layersOf(engine) };
    const row = (cuts: AttentionCut[]): PatchRow => ({ tokenIds: target, edits: [], cuts });
    const shared = await patched(engine, [row([late]), row([]), row([late])]);
    const own = await everywhere(engine, target, [late]);
    assertClose(shared[0]!.steps[0]!.logits!, own[last]!, tolerance(model), 'with a shared prefix');
    assertSameBits(shared[0]!.steps[0]!.logits!, shared[2]!.steps[0]!.logits!, 'twice the same row');
    const plain = await patched(engine, [row([])]);
    assertClose(
      shared[1]!.steps[0]!.logits!,
      plain[0]!.steps[0]!.logits!,
      tolerance(model),
      'the row between',
    );
    const early = { ...late, from: [2, last] };
    const mixed = await patched(engine, [row([late]), row([early]), row([late])]);
    assertClose(mixed[0]!.steps[0]!.logits!, own[last]!, tolerance(model), 'beside an early cut');
    assertClose(
      mixed[1]!.steps[0]!.logits!,
      (await everywhere(engine, target, [early]))[last]!,
      tolerance(model),
      'the early cut',
    );
  },
);

law('generated tokens are cut off where it is asked for, and only there', async (engine, model) => {
  const target = tokens(engine, TARGET);
  const last = target.length - 1;
  const layers = layersOf(engine);
  const cuts = (atGenerated: boolean) => [{ from: [last], to: [1, 4, last - 1], layers, atGenerated }];
  const [free] = await patched(engine, [{ tokenIds: target, edits: [] }], { maxTokens: 4 });
  const continuation = free!.tokenIds;
  // the same as a prompt, whose later tokens are cut off like the generated ones
  const both = [...target, ...continuation];
  for (const atGenerated of [false, true]) {
    const [row] = await patched(engine, [
      { tokenIds: target, edits: [], cuts: cuts(atGenerated), continuation },
    ]);
    const from = atGenerated ? everyIndex(both).slice(last) : [last];
    const expected = await everywhere(engine, both, [{ ...cuts(false)[0]!, from }]);
    for (const [i, { logits }] of row!.steps.entries())
      assertClose(logits!, expected[last + i]!, tolerance(model), `at generated: ${atGenerated}, token ${i}`);
    if (atGenerated) {
      const [once] = await patched(engine, [
        { tokenIds: target, edits: [], cuts: cuts(false), continuation },
      ]);
      const difference = largestDifference(row!.steps.at(-1)!.logits!, once!.steps.at(-1)!.logits!);
      assert.ok(difference > 1e-3, `the generated tokens do not feel the cut (${difference})`);
      const only = { from: [], to: [1, 4, last - 1], layers, atGenerated: true };
      const [later] = await patched(engine, [{ tokenIds: target, edits: [], cuts: [only], continuation }]);
      const uncut = await patched(engine, [{ tokenIds: target, edits: [], continuation }]);
      assertSameBits(later!.steps[0]!.logits!, uncut[0]!.steps[0]!.logits!, 'the prompt is not cut');
    }
  }
});

law('edits and cuts of one row both happen, and nothing stays behind', async (engine, model) => {
  const target = tokens(engine, TARGET);
  const last = target.length - 1;
  const before = await everywhere(engine, target, []);
  const vector = new Float32Array(engine.record.embeddingSize).map((_, i) => Math.sin(i + 1));
  const cuts = [{ from: [last], to: [2], layers: layersOf(engine) }];
  const row = { tokenIds: target, edits: [edit(0, 2, vector)] };
  const [both, patchAlone] = await patched(engine, [{ ...row, cuts }, row]);
  assert.ok(
    largestDifference(both!.steps[0]!.logits!, patchAlone!.steps[0]!.logits!) > 1e-4,
    'the cut has no effect',
  );
  const [again] = await patched(engine, [row]);
  assertClose(again!.steps[0]!.logits!, patchAlone!.steps[0]!.logits!, tolerance(model), 'the edit alone');
  const after = await everywhere(engine, target, []);
  for (const [i, logits] of after.entries()) assertSameBits(logits, before[i]!, `read at ${i}`);
});

for (const model of tinyModels) {
  test(`${model.name}: with and without flash attention cuts give the same`, {
    skip: model.skip,
  }, async () => {
    const on = await sharedEngine(model);
    const off = await sharedEngine(model, { flashAttention: false });
    const target = tokens(on, TARGET);
    const last = target.length - 1;
    const cuts = [
      { from: [last, 4], to: [1, 3], layers: [0] },
      { from: [last], to: everyIndex(target), layers: [on.record.layerCount - 1] },
    ];
    const [a, b] = [await everywhere(on, target, cuts), await everywhere(off, target, cuts)];
    for (const [i, logits] of a.entries()) assertClose(logits, b[i]!, tolerance(model), `read at ${i}`);
    const plain = await everywhere(off, target, []);
    assert.ok(largestDifference(b[last]!, plain[last]!) > 1e-3, 'the cut has no effect');
  });
}

law(
  'in exact mode a row with cuts keeps its bits whatever its company',
  async (engine) => {
    const target = tokens(engine, TARGET);
    const last = target.length - 1;
    const rows: PatchRow[] = Array.from({ length: 40 }, (_, k) => ({
      tokenIds: target,
      edits: [],
      cuts: [{ from: [last], to: [k % last], layers: [k % engine.record.layerCount] }],
    }));
    const [alone, together] = [await patched(engine, rows.slice(0, 1)), await patched(engine, rows)];
    assertSameAcrossShapes(together[0]!.steps[0]!.logits!, alone[0]!.steps[0]!.logits!, 'the first row');
  },
  { exact: true, models: tinyModels },
);

for (const kind of decoderKinds) {
  test(`${kind}: each layer can be cut, or is refused with the reason`, async () => {
    const engine = await open(tinyPath(kind));
    try {
      const target = tokens(engine, TARGET);
      const last = target.length - 1;
      const input = {
        tokenIds: target,
        ...(engine.record.encoderLayerCount > 0 && { encoderTokenIds: target }),
      };
      const read = async (cuts: AttentionCut[]) =>
        (await patched(engine, [{ ...input, edits: [], cuts }], whole(target)))[0]!.positions;
      const plain = await read([]);
      let cuttable = 0;
      for (const layer of layersOf(engine)) {
        const cuts = [{ from: [last], to: [last - 1], layers: [layer] }];
        try {
          const cut = await read(cuts);
          cuttable++;
          const difference = largestDifference(cut[last]!.logits!, plain[last]!.logits!);
          assert.ok(difference > 0, `layer ${layer}: the cut has no effect`);
          assertSameBits(cut[last - 1]!.logits!, plain[last - 1]!.logits!, `layer ${layer}`);
        } catch (error) {
          if ((error as Error).name === 'AssertionError') throw error;
          await assertRefused(
            () => Promise.reject(error),
            'no_site',
            /can be cut at layer \d+ of this model: it /,
          );
        }
      }
      const kinds = ['mamba', 'mamba2', 'rwkv6', 'rwkv7', 'falcon-h1'].includes(kind)
        ? 0
        : ['jamba', 'lfm2', 'granitehybrid'].includes(kind)
          ? 1
          : kind === 'qwen3next'
            ? 2
            : engine.record.layerCount;
      assert.equal(cuttable, kinds, 'layers that can be cut');
    } finally {
      await engine.close();
    }
  });
}

test('a cut that makes no sense is refused', async () => {
  const engine = await open(tinyPath('llama'));
  const tokenIds = tokens(engine, TARGET);
  const refused = (cut: Partial<AttentionCut>, says: RegExp) =>
    assertRefused(
      () =>
        engine.patch([{ tokenIds, edits: [], cuts: [{ from: [3], to: [1], layers: [0], ...cut }] }], {
          topK: 1,
          maxTokens: 1,
        }),
      'bad_input',
      says,
    );
  await refused({ from: [99] }, /Token index 99 is outside the prompt/);
  await refused({ to: [-1] }, /Token index -1 is outside the prompt/);
  await refused({ layers: [engine.record.layerCount] }, /Layer \d+ of a cut is not in the model/);
  await refused({ layers: [] }, /names no layers/);
  await refused({ from: [1], to: [1, 2] }, /has no edge/);
  await refused({ to: [] }, /has no edge/);
  await refused({ from: [], to: [], atGenerated: true }, /has no edge/);
  await engine.close();
});
