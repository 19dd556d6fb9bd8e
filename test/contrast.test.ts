/** What contrasted logits must be on every model, whatever they mean. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Contrast, Edit, Engine, PatchRow, StreamContrast } from '../src/engine.js';
import type { Layer } from '../src/patchscope.js';
import { decoderKinds } from './fixtures/models.js';
import {
  argmax,
  assertClose,
  assertRefused,
  assertSameBits,
  captured,
  edit,
  largestDifference,
  law,
  mixedStates,
  type OkRow,
  open,
  patched,
  SOURCE,
  TARGET,
  tinyModels,
  tinyPath,
  tokens,
  tolerance,
} from './support.js';

const models = tinyModels;

/** Rows of one prompt that differ in what is patched. */
async function someRows(engine: Engine, count: number, at = 2): Promise<PatchRow[]> {
  const target = tokens(engine, TARGET);
  const state = await captured(engine, tokens(engine, SOURCE), [1]);
  return mixedStates(count, state(1, 2), state(1, 5)).map((vector) => ({
    tokenIds: target,
    edits: [edit(1, target.length - at, vector)],
  }));
}

const logitsOf = ({ steps, positions }: OkRow) => [...positions, ...steps].map(({ logits }) => logits!);

/** As is said of a contrast: own z + difference (z - other), and what the cutoff leaves out. */
function combined(
  z: Float32Array,
  other: Float32Array,
  { own, difference, cutoff }: Record<'own' | 'difference' | 'cutoff', number>,
): Float32Array {
  const least = Math.max(...z) + Math.log(cutoff);
  return z.map((value, i) =>
    value < least ? Number.NEGATIVE_INFINITY : own * value + difference * (value - other[i]!),
  );
}

/** The same tokens in the set of plausible ones, but for those at its edge, and the same logits there. */
function assertCombined(actual: Float32Array, expected: Float32Array, within: number, where: string): void {
  const isOut = (value: number) => value === Number.NEGATIVE_INFINITY;
  const differing = actual.filter((value, i) => isOut(value) !== isOut(expected[i]!)).length;
  assert.ok(within > 1e-3 || differing === 0, `${where}: ${differing} tokens are out in one of them alone`);
  for (const [i, value] of actual.entries()) {
    if (isOut(value) || isOut(expected[i]!)) continue;
    const difference = Math.abs(value - expected[i]!);
    assert.ok(difference <= within, `${where}, token ${i}: they differ by ${difference}`);
  }
}

function assertNormalised({ steps, positions }: OkRow): void {
  for (const { logits, top } of [...positions, ...steps]) {
    const max = Math.max(...logits!);
    const total = max + Math.log(logits!.reduce((sum, value) => sum + Math.exp(value - max), 0));
    const kept = logits!.filter((value) => value > Number.NEGATIVE_INFINITY).length;
    assert.equal(top.length, Math.min(5, kept), 'a token that is left out is none of the most probable ones');
    for (const { tokenId, logprob } of top) {
      assert.ok(Math.abs(logprob - (logits![tokenId]! - total)) < 1e-4, `token ${tokenId}`);
    }
  }
}

async function checkArithmetic(engine: Engine, within: number): Promise<void> {
  const rows = await someRows(engine, 4);
  const others = [[], rows[2]!.edits, rows[0]!.edits, []];
  const alphas = [1, 0.5, -2, 3];
  const cutoffs = [0, 0.5, 0.01, 1];
  const tokenIndexes = [rows[0]!.tokenIds.length - 2];
  const reading = { topK: 5, maxTokens: 4, tokenIndexes, trackedTokens: [7, 70] };
  const contrasts = rows.map((_, i) => ({ edits: others[i]!, alpha: alphas[i]!, cutoff: cutoffs[i]! }));
  const results = await patched(
    engine,
    rows.map((row, i) => ({ ...row, contrast: contrasts[i]! })),
    reading,
  );
  const given = (edits: (i: number) => readonly Edit[]) =>
    rows.map((row, i) => ({ ...row, edits: edits(i), continuation: results[i]!.tokenIds }));
  const own = await patched(
    engine,
    given((i) => rows[i]!.edits),
    reading,
  );
  const other = await patched(
    engine,
    given((i) => others[i]!),
    reading,
  );
  for (const [i, result] of results.entries()) {
    assertNormalised(result);
    const { alpha, cutoff } = contrasts[i]!;
    const read = logitsOf(result);
    assert.equal(read.length, 5);
    for (const [k, logits] of read.entries()) {
      const [z, u] = [logitsOf(own[i]!)[k]!, logitsOf(other[i]!)[k]!];
      const expected = combined(z, u, { own: 1, difference: alpha, cutoff });
      assertCombined(logits, expected, within * (1 + 2 * Math.abs(alpha)), `row ${i}, reading ${k}`);
      if (alpha !== 0 && k > 0) assert.ok(largestDifference(z, u) > 1e-3, 'both streams are the same');
    }
    for (const { chosen, logits, tracked } of result.steps) {
      assert.equal(chosen.tokenId, argmax(logits!));
      assert.equal(chosen.rank, 0);
      assert.deepEqual(
        tracked.map(({ tokenId }) => tokenId),
        [7, 70],
      );
    }
  }
}

law(
  'two streams give what arithmetic makes of the logits of both',
  (engine, model) => checkArithmetic(engine, tolerance(model)),
  { models },
);

law('in exact mode to the last digits', (engine) => checkArithmetic(engine, 2e-5), { models, exact: true });

const isPlain = async (engine: Engine, contrastOf: (row: PatchRow) => StreamContrast) => {
  const rows = await someRows(engine, 5);
  const reading = { topK: 5, maxTokens: 3, tokenIndexes: [rows[0]!.tokenIds.length - 2] };
  const plain = await patched(engine, rows, reading);
  const contrasted = await patched(
    engine,
    rows.map((row) => ({ ...row, contrast: contrastOf(row) })),
    reading,
  );
  return { plain, contrasted };
};

const plainOnes: readonly [string, (row: PatchRow) => StreamContrast][] = [
  ['an alpha of 0 and no cutoff', () => ({ edits: [], alpha: 0, cutoff: 0 })],
  ['a contrast with the same edits', ({ edits }) => ({ edits, alpha: 3, cutoff: 0 })],
];
for (const [what, contrastOf] of plainOnes) {
  law(
    `${what}: the plain run`,
    async (engine, model) => {
      const { plain, contrasted } = await isPlain(engine, contrastOf);
      for (const [i, result] of contrasted.entries()) {
        // from there on a token chosen otherwise may make the rest another
        const same = result.tokenIds.findIndex((id, k) => id !== plain[i]!.tokenIds[k]);
        const upTo = same < 0 ? 4 : same + 2;
        for (const [k, logits] of logitsOf(result).slice(0, upTo).entries())
          assertClose(logits, logitsOf(plain[i]!)[k]!, 7 * tolerance(model), `row ${i}, reading ${k}`);
      }
    },
    { models },
  );

  law(
    `${what}: in exact mode the plain run bit for bit`,
    async (engine) => {
      const { plain, contrasted } = await isPlain(engine, contrastOf);
      for (const [i, result] of contrasted.entries()) {
        assert.deepEqual(result.tokenIds, plain[i]!.tokenIds);
        for (const [k, logits] of logitsOf(result).entries())
          assertSameBits(logits, logitsOf(plain[i]!)[k]!, `row ${i}, reading ${k}`);
        assert.deepEqual(result.steps[0]!.top, plain[i]!.steps[0]!.top);
      }
    },
    { models, exact: true },
  );
}

law(
  'rows of many lengths, contrasted or not, do not disturb each other, however many there are',
  async (engine, model) => {
    const contrasts: (Contrast | undefined)[] = [
      { edits: [], alpha: 1, cutoff: 0.1 },
      undefined,
      { layers: [0, 'embed'], cutoff: 0.1 },
    ];
    const rows = (await someRows(engine, 24)).map((row, i) => ({
      ...row,
      ...(contrasts[i % 3] && { contrast: contrasts[i % 3]! }),
      continuation: Array.from({ length: 1 + ((i * 5) % 7) }, (_, k) => 10 + i + k),
    }));
    const together = await patched(engine, rows);
    const turned = (await patched(engine, [...rows].reverse())).reverse();
    for (const [i, row] of rows.entries()) {
      const [alone] = await patched(engine, [row]);
      for (const result of [together[i]!, turned[i]!]) {
        assert.equal(result.steps.length, row.continuation.length);
        for (const [k, logits] of logitsOf(result).entries())
          assertCombined(logits, logitsOf(alone!)[k]!, 3 * tolerance(model), `row ${i}, token ${k}`);
      }
    }
  },
  { models },
);

for (const kind of decoderKinds) {
  test(`${kind}: two streams, and batches too small for both of them at once`, async () => {
    const settings = [{}, { batchTokens: 7 }, { batchTokens: 2 }, { batchRows: 1 }];
    const read: OkRow[] = [];
    for (const options of settings) {
      const engine = await open(tinyPath(kind), options);
      try {
        const target = tokens(engine, TARGET);
        const encoder = engine.record.encoderLayerCount > 0 && { encoderTokenIds: target };
        const vector = new Float32Array(engine.record.embeddingSize).map((_, i) => Math.sin(i + 1));
        const row = {
          tokenIds: target,
          ...encoder,
          edits: [2, target.length - 1].map((at) => edit(0, at, vector)),
        };
        const continuation = [5, 6, 7];
        const contrast = { edits: [], alpha: 1, cutoff: 0 };
        read.push((await patched(engine, [{ ...row, contrast, continuation }]))[0]!);
        if (read.length > 1) continue;
        const rows = [row, { ...row, edits: [] }].map((one) => ({ ...one, continuation }));
        const [z, u] = await patched(engine, rows);
        for (const [k, logits] of logitsOf(read[0]!).entries()) {
          const weights = { own: 1, difference: 1, cutoff: 0 };
          const expected = combined(logitsOf(z!)[k]!, logitsOf(u!)[k]!, weights);
          assertCombined(logits, expected, 0.15, `token ${k}`);
        }
        const difference = largestDifference(logitsOf(z!)[0]!, logitsOf(u!)[0]!);
        assert.ok(difference > 1e-3, `the edits have no effect (${difference})`);
      } finally {
        await engine.close();
      }
    }
    for (const [i, other] of read.entries())
      for (const [k, logits] of logitsOf(other).entries())
        assertCombined(logits, logitsOf(read[0]!)[k]!, 0.15, `${JSON.stringify(settings[i])}, token ${k}`);
  });
}

law(
  'the other stream is patched where it is said, generated tokens included, and cut as the row is',
  async (engine, model) => {
    const [row, other] = await someRows(engine, 2);
    const target = row!.tokenIds;
    const cuts = [{ from: [target.length - 1], to: [1, 3], layers: [0], atGenerated: true }];
    const edits = [{ ...other!.edits[0]!, atGenerated: true }];
    const continuation = [4, 5, 6];
    const contrast = { edits, alpha: 2, cutoff: 0 };
    const [result, z, u] = [
      ...(await patched(engine, [{ ...row!, cuts, continuation, contrast }])),
      ...(await patched(engine, [
        { ...row!, cuts, continuation },
        { ...row!, cuts, continuation, edits },
      ])),
    ];
    for (const [k, logits] of logitsOf(result!).entries()) {
      const expected = combined(logitsOf(z!)[k]!, logitsOf(u!)[k]!, { own: 1, difference: 2, cutoff: 0 });
      assertCombined(logits, expected, 5 * tolerance(model), `token ${k}`);
    }
  },
  { models },
);

law(
  'tokens that are drawn are plausible ones, by the same seed the same',
  async (engine) => {
    const rows = (await someRows(engine, 12)).map((row, seed) => ({ ...row, seed }));
    const draw = async (cutoff: number) =>
      patched(
        engine,
        rows.map((row) => ({ ...row, contrast: { edits: [], alpha: 0.5, cutoff } })),
        { maxTokens: 4, sampling: { temperature: 3, topK: 200 } },
      );
    const drawn = await draw(0.6);
    for (const { steps } of drawn)
      for (const { chosen } of steps) assert.ok(chosen.logprob > Number.NEGATIVE_INFINITY, 'it was left out');
    assert.deepEqual(
      (await draw(0.6)).map(({ tokenIds }) => tokenIds),
      drawn.map(({ tokenIds }) => tokenIds),
    );
    for (const { steps } of await draw(1))
      for (const { chosen } of steps) assert.equal(chosen.rank, 0, 'one token is left');
  },
  { models },
);

/** What the lens makes of the states of a token, and which of them is farthest, told by itself. */
async function checkLayers(engine: Engine, within: number): Promise<void> {
  const layers: Layer[] = ['embed', ...Array.from({ length: engine.record.layerCount - 1 }, (_, i) => i)];
  const cutoffs = [0, 0.1, 0.5];
  const target = tokens(engine, TARGET);
  const tokenIndexes = [target.length - 2];
  const results = await patched(
    engine,
    cutoffs.map((cutoff) => ({ tokenIds: target, edits: [], contrast: { layers, cutoff } })),
    { topK: 5, maxTokens: 3, tokenIndexes },
  );
  for (const [i, result] of results.entries()) {
    assertNormalised(result);
    const whole = [...target, ...result.tokenIds];
    const read = [...tokenIndexes, ...result.tokenIds.map((_, k) => target.length - 1 + k)];
    const [plain] = await patched(engine, [{ tokenIds: whole, edits: [] }], { tokenIndexes: read });
    const state = await captured(engine, whole, layers, read);
    for (const [k, { logits: z }] of plain!.positions.entries()) {
      const states = layers.map((layer) => state(layer, read[k]!));
      const others = await lensLogits(engine, states);
      const distances = others.map((other) => divergence(z!, other));
      const [first, second = 0] = [...distances].sort((a, b) => b - a);
      if (first! - second < 1e-3) continue;
      const other = others[distances.indexOf(first!)]!;
      const expected = combined(z!, other, { own: 0, difference: 1, cutoff: cutoffs[i]! });
      assertCombined(logitsOf(result)[k]!, expected, within, `row ${i}, reading ${k}`);
    }
  }
}

async function lensLogits(engine: Engine, states: readonly Float32Array[]): Promise<Float32Array[]> {
  const all = Float32Array.from(states.flatMap((state) => [...state]));
  return (await engine.lens(all, { topK: 1, logits: true })).map((one) => {
    assert.ok(one.status === 'ok');
    return one.logits!;
  });
}

law(
  'layers are contrasted by the lens with the farthest of them',
  (engine, model) => checkLayers(engine, 3 * tolerance(model)),
  { models },
);

law(
  'a layer that is patched is contrasted as it was patched',
  async (engine, model) => {
    const rows = await someRows(engine, 3, 1);
    const results = await patched(
      engine,
      rows.map((row) => ({ ...row, contrast: { layers: [1], cutoff: 0 } })),
    );
    const plain = await patched(engine, rows);
    const others = await lensLogits(
      engine,
      rows.map(({ edits: [one] }) => one!.vector!),
    );
    for (const [i, result] of results.entries()) {
      const expected = combined(logitsOf(plain[i]!)[0]!, others[i]!, { own: 0, difference: 1, cutoff: 0 });
      assertCombined(logitsOf(result)[0]!, expected, 3 * tolerance(model), `row ${i}`);
    }
  },
  { models },
);

law(
  'in exact mode a row whose layers are contrasted keeps its bits whatever its company',
  async (engine) => {
    const contrast = { layers: [0, 'embed'] as Layer[], cutoff: 0.1 };
    const rows = (await someRows(engine, 40)).map((row) => ({ ...row, contrast }));
    const [alone] = await patched(engine, rows.slice(3, 4), { maxTokens: 3 });
    const together = await patched(engine, rows, { maxTokens: 3 });
    for (const [k, logits] of logitsOf(together[3]!).entries())
      assertSameBits(logits, logitsOf(alone!)[k]!, `token ${k}`);
  },
  { models, exact: true },
);

law(
  'a stream that is not finite fails its row alone',
  async (engine) => {
    const rows = await someRows(engine, 6);
    const { site, layer, tokenIndex } = rows[1]!.edits[0]!;
    const huge: Edit = { site, layer, tokenIndex, op: 'scale', alpha: 3e38 };
    const results = await engine.patch(
      rows.map((row, i) => ({
        ...row,
        contrast: { edits: i === 2 ? [huge] : [], alpha: 1, cutoff: 0.1 },
      })),
      { topK: 1, maxTokens: 3 },
    );
    for (const [i, result] of results.entries()) {
      if (i === 2 && result.status === 'failed') assert.equal(result.code, 'not_finite');
      else assert.equal(result.status, 'ok', JSON.stringify(result));
    }
  },
  { models },
);

law(
  'an edit of generated tokens fades as it is told',
  async (engine, model) => {
    const [row] = await someRows(engine, 1);
    const [place] = row!.edits as [Edit];
    const continuation = [4, 5, 6, 7];
    const read = async (more: Partial<Edit>, reading = continuation) =>
      logitsOf(
        (
          await patched(engine, [
            {
              ...row!,
              edits: [{ ...place, op: 'add' as const, alpha: 0.7, ...more }],
              continuation: reading,
            },
          ])
        )[0]!,
      );
    const [always, one, never, zero, half] = [
      await read({ atGenerated: true }),
      await read({ atGenerated: true, decay: 1 }),
      await read({}),
      await read({ atGenerated: true, decay: 0 }),
      await read({ atGenerated: true, decay: 0.5 }),
    ];
    for (const k of always.keys()) {
      assertSameBits(one[k]!, always[k]!, `decay 1, token ${k}`);
      assertSameBits(zero[k]!, never[k]!, `decay 0, token ${k}`);
    }
    assert.ok(largestDifference(half.at(-1)!, always.at(-1)!) > 1e-4, 'a decay of a half is none');
    assert.ok(largestDifference(half.at(-1)!, never.at(-1)!) > 1e-4, 'a decay of a half is all');
    // the same by hand: edits of a longer prompt, each of its own size
    const whole = [...row!.tokenIds, ...continuation.slice(0, -1)];
    const at = [place.tokenIndex, ...continuation.slice(0, -1).map((_, k) => row!.tokenIds.length + k)];
    const edits = at.map((tokenIndex, k) => ({
      ...place,
      ...{ op: 'add' as const, tokenIndex, alpha: 0.7 * 0.5 ** k },
    }));
    const [byHand] = await patched(engine, [{ tokenIds: whole, edits }]);
    assertClose(half.at(-1)!, logitsOf(byHand!)[0]!, tolerance(model), 'by hand');
  },
  { models },
);

test('a contrast or a decay that makes no sense is refused', async () => {
  const engine = await open(tinyPath('llama'));
  const narrow = await open(tinyPath('llama'), { batchTokens: 1 });
  try {
    const tokenIds = tokens(engine, TARGET);
    const refused = (row: Partial<PatchRow>, says: RegExp, on = engine) =>
      assertRefused(
        () => on.patch([{ tokenIds, edits: [], ...row }], { topK: 1, maxTokens: 1 }),
        'bad_input',
        says,
      );
    const streams = (contrast: Partial<StreamContrast>) => ({
      contrast: { edits: [], alpha: 1, cutoff: 0.1, ...contrast },
    });
    for (const cutoff of [-0.1, 1.1, Number.NaN])
      await refused(streams({ cutoff }), /cutoff of a contrast is .* where a number from 0 to 1/);
    for (const alpha of [Number.NaN, Number.POSITIVE_INFINITY, 1e39])
      await refused(streams({ alpha }), /The alpha \S+ of a contrast is no number/);
    const vector = new Float32Array(engine.record.embeddingSize).fill(1);
    const twice = [edit(0, 1, vector), edit(0, 1, vector)];
    await refused(streams({ edits: twice }), /Two edits of one row/);
    await refused(streams({ edits: [edit(99, 1, vector)] }), /Layer 99 is not in the model/);
    await refused(streams({}), /needs batches of at least two tokens/, narrow);
    const last = engine.record.layerCount - 1;
    const layers = (...list: Layer[]) => ({ contrast: { layers: list, cutoff: 0 } });
    await refused(layers(), /names no layers/);
    await refused(layers(0, 99), /Layer 99 is not in the model/);
    await refused(layers(0, last), /is the last, which others are compared with/);
    const at = (more: Partial<Edit>) => ({ edits: [{ ...edit(0, 1, vector), ...more }] });
    await refused(at({ op: 'add', decay: 0.5 }), /is of generated tokens: give it atGenerated/);
    for (const decay of [-1, 1.5, Number.NaN])
      await refused(at({ op: 'add', atGenerated: true, decay }), /decay of an edit is .* from 0 to 1/);
    await refused(at({ atGenerated: true, decay: 0.5 }), /replace with an alpha of 0 .* can't decay/);
  } finally {
    await engine.close();
    await narrow.close();
  }
});

function divergence(a: Float32Array, b: Float32Array): number {
  const [p, q] = [softmax(a), softmax(b)];
  return p.reduce((sum, value, i) => {
    const middle = (value + q[i]!) / 2;
    const term = (x: number) => (x > 0 ? (x / 2) * Math.log(x / middle) : 0);
    return sum + term(value) + term(q[i]!);
  }, 0);
}

function softmax(logits: Float32Array): number[] {
  const max = Math.max(...logits);
  const terms = [...logits].map((value) => Math.exp(value - max));
  const total = terms.reduce((sum, value) => sum + value, 0);
  return terms.map((value) => value / total);
}
