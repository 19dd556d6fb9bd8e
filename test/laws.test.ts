/** What must hold of every engine and every model, whatever the model means. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Edit, Engine, PatchRow } from '../src/engine.js';
import type { ContextPool } from '../src/llama/context-pool.js';
import { Limits } from '../src/llama/limits.js';
import { Patcher } from '../src/llama/patch.js';
import type { LlamaTokenizer } from '../src/llama/tokenizer.js';
import type { NativeContext, NativeModelInfo, NativeStep } from '../src/native.js';
import type { Layer } from '../src/patchscope.js';
import { device, loadNative } from './device.js';
import { scalar, type Value, writeGguf } from './fixtures/gguf.js';
import { goodKinds, tinyModel } from './fixtures/models.js';
import {
  argmax,
  assertClose,
  assertRefused,
  assertSameAcrossShapes,
  assertSameBits,
  cacheLayouts,
  captured,
  edit,
  everyIndex,
  largestDifference,
  law,
  logitsEverywhere,
  mixedStates,
  nativeRead,
  nativeReplace,
  nextLogits,
  open,
  patched,
  realModel,
  SHAPE_ROUNDING,
  SOURCE,
  sameBits,
  someLayers,
  TARGET,
  type TestModel,
  tinyModels,
  tinyPath,
  tokens,
  tolerance,
  withLayout,
  writeFile,
  writeVariant,
} from './support.js';

const lastLayer = ({ record }: Engine): number => record.layerCount - 1;
const middleOf = (tokenIds: readonly number[]): number => Math.floor(tokenIds.length / 2);

/** Rows with different states at different layers of one target position, all of which reach the last position. */
async function differentRows(engine: Engine, count: number, tokenIndex: number): Promise<PatchRow[]> {
  const source = tokens(engine, SOURCE);
  const target = tokens(engine, TARGET);
  const middle = Math.floor(engine.record.layerCount / 2);
  const state = await captured(engine, source, [middle]);
  const states = mixedStates(count, state(middle, 2), state(middle, source.length - 1));
  const layers = someLayers(engine).slice(0, tokenIndex === target.length - 1 ? 4 : 3);
  return states.map((vector, i) => ({
    tokenIds: target,
    edits: [edit(layers[i % layers.length]!, tokenIndex, vector)],
  }));
}

async function oneByOne(engine: Engine, rows: readonly PatchRow[]): Promise<Float32Array[]> {
  const logits: Float32Array[] = [];
  for (const row of rows) logits.push((await nextLogits(engine, [row]))[0]!);
  return logits;
}

law('patching a state into its own place changes no bit of the logits', async (engine) => {
  const prompt = tokens(engine, SOURCE);
  assert.ok(prompt.length > 8, 'the prompt is longer than the window');
  const unpatched = await logitsEverywhere(engine, prompt);
  const state = await captured(engine, prompt, someLayers(engine));
  for (const layer of someLayers(engine)) {
    for (const tokenIndex of [0, middleOf(prompt), prompt.length - 1]) {
      const where = `layer ${layer}, token ${tokenIndex}`;
      const own = await logitsEverywhere(engine, prompt, [edit(layer, tokenIndex, state(layer, tokenIndex))]);
      for (const [i, logits] of own.entries())
        assertSameBits(logits, unpatched[i]!, `${where}, read at ${i}`);

      const neighbour = state(layer, tokenIndex === 0 ? 1 : tokenIndex - 1);
      const other = await logitsEverywhere(engine, prompt, [edit(layer, tokenIndex, neighbour)]);
      assert.ok(
        !sameBits(other[tokenIndex]!, unpatched[tokenIndex]!),
        `${where}: another state has an effect`,
      );
    }
  }
});

law(
  "the last layer at the last position gives the source's next-token distribution",
  async (engine, model) => {
    const source = tokens(engine, SOURCE);
    const last = lastLayer(engine);
    const fromSource = (await logitsEverywhere(engine, source)).at(-1)!;
    const state = (await captured(engine, source, [last]))(last, source.length - 1);
    for (const text of [TARGET, 'a', 'of the']) {
      const target = tokens(engine, text);
      const patch = edit(last, target.length - 1, state);
      const unpatched = (await logitsEverywhere(engine, target)).at(-1)!;
      assert.ok(largestDifference(unpatched, fromSource) > tolerance(model), 'the prompts differ');
      if (target.length > 1) {
        const inOneDecode = await logitsEverywhere(engine, target, [patch]);
        assertSameAcrossShapes(inOneDecode.at(-1)!, fromSource, text);
      }
      const [behindPrefix] = await nextLogits(engine, [{ tokenIds: target, edits: [patch] }]);
      assertClose(behindPrefix!, fromSource, tolerance(model), text);
    }
  },
);

law('a patch changes no bit at earlier positions, and changes its own and later ones', async (engine) => {
  const target = tokens(engine, TARGET);
  const source = tokens(engine, SOURCE);
  const unpatched = await logitsEverywhere(engine, target);
  const state = await captured(engine, source, someLayers(engine));
  const position = middleOf(target);
  for (const layer of someLayers(engine)) {
    const foreign = state(layer, 3).map((value, i) => value + state(layer, 1)[i]!);
    const logits = await logitsEverywhere(engine, target, [edit(layer, position, foreign)]);
    for (const [i, after] of logits.entries()) {
      const where = `layer ${layer}, token ${position}, read at ${i}`;
      if (i < position || (i > position && layer === lastLayer(engine))) {
        assertSameBits(after, unpatched[i]!, where);
      } else {
        assert.ok(!sameBits(after, unpatched[i]!), `${where}: nothing changed`);
      }
    }
  }
});

// the engine captures unpatched runs only, so this law asks the addon, which reads and writes in one decode
for (const model of tinyModels) {
  test(`${model.name}: a patch changes no state but its own and those of later layers from its position on`, {
    skip: model.skip,
  }, async (t) => {
    const native = await loadNative(model.path());
    const { layerCount, embeddingSize } = native.describe();
    const tokenIds = native.tokenize(TARGET, true, false);
    const context = await native.createContext({
      cells: 256,
      batchTokens: 64,
      sequences: 1,
      outputs: 64,
      threads: 1,
      flashAttention: true,
      typeK: 'f16',
      typeV: 'f16',
    });
    t.after(() => {
      context.close();
      native.close();
    });
    const rows = Int32Array.from(tokenIds.keys());
    const site = (layer: number) => (layer < 0 ? { site: 'embed', layer: 0 } : { site: 'resid_out', layer });
    const layers = Array.from({ length: layerCount + 1 }, (_, i) => i - 1); // -1 is `embed`
    const states = async (edits: NativeStep['edits']) => {
      context.clear();
      const { captures } = await context.decode({
        tokens: tokenIds,
        positions: rows,
        sequences: new Int32Array(tokenIds.length),
        outputs: new Uint8Array(tokenIds.length).fill(1),
        captures: layers.map((layer) => ({ ...site(layer), rows })),
        edits,
        readings: nativeRead([0]),
      });
      return (layer: number, token: number) =>
        captures[layer + 1]!.states.slice(token * embeddingSize, (token + 1) * embeddingSize);
    };
    const unpatched = await states([]);
    const position = tokenIds.length >> 1;
    for (const layer of layers) {
      const vectors = unpatched(layer, position - 1).map((value) => value + 0.25);
      const after = await states([
        { ...site(layer), rows: Int32Array.of(position), ...nativeReplace(vectors, 1) },
      ]);
      for (const at of layers) {
        for (const token of rows) {
          const where = `patched at layer ${layer}, state of layer ${at}, token ${token}`;
          if (at === layer && token === position) {
            assertSameBits(after(at, token), vectors, where);
          } else if (at <= layer || token < position) {
            assertSameBits(after(at, token), unpatched(at, token), where);
          } else if ((at === layer + 1 && token === position) || at === layerCount - 1) {
            assert.ok(!sameBits(after(at, token), unpatched(at, token)), `${where}: nothing changed`);
          } // in between, a sliding window may keep a token from seeing the patched one
        }
      }
    }
  });
}

law('a row without edits is not touched by the patched rows beside it', async (engine) => {
  const target = tokens(engine, TARGET);
  const clean: PatchRow = { tokenIds: target, edits: [] };
  const [row] = await differentRows(engine, 1, 1);
  const everywhere = { tokenIndexes: everyIndex(target) };
  const [, alike] = await patched(engine, [clean, clean], everywhere);
  const [beside, between] = await patched(engine, [row!, clean], everywhere);
  assert.ok(!sameBits(beside!.steps[0]!.logits!, alike!.steps[0]!.logits!), 'the patched row is patched');
  for (const [i, { logits }] of between!.positions.entries()) {
    assertSameBits(logits!, alike!.positions[i]!.logits!, `read at ${i}`);
  }
});

law('capture of some layers and positions gives the same states as capture of all', async (engine) => {
  const prompt = tokens(engine, SOURCE);
  const last = lastLayer(engine);
  const layers: Layer[] = ['embed', ...Array.from({ length: last + 1 }, (_, i) => i)];
  const all = await captured(engine, prompt, layers);
  const subsets: [Layer[], number[]][] = [
    [[last], everyIndex(prompt)],
    [['embed', last], everyIndex(prompt)],
    [[0], [1, 4]],
    [[last], [1, 4]],
    [
      [last, 'embed', 1],
      [middleOf(prompt), 0],
    ],
    [
      [0, last],
      [prompt.length - 1, 0],
    ],
  ];
  for (const [some, tokenIndexes] of subsets) {
    const subset = await captured(engine, prompt, some, tokenIndexes);
    for (const layer of some) {
      for (const i of tokenIndexes)
        assertSameAcrossShapes(subset(layer, i), all(layer, i), `layer ${layer}, token ${i}`);
    }
  }
});

// one row alone is multiplied by another kernel than two and more, which rounds differently
law('capture of one position gives the same state as capture of all, up to rounding', async (engine) => {
  const prompt = tokens(engine, SOURCE);
  const all = await captured(engine, prompt, someLayers(engine));
  for (const layer of someLayers(engine)) {
    for (const i of [0, middleOf(prompt), prompt.length - 1]) {
      const state = (await captured(engine, prompt, [layer], [i]))(layer, i);
      const scale = Math.max(...all(layer, i).map(Math.abs));
      const difference = largestDifference(state, all(layer, i)) / scale;
      const bound = device.roundsByShape ? SHAPE_ROUNDING : 1e-3;
      assert.ok(difference < bound, `layer ${layer}, token ${i}: ${difference}`);
    }
  }
});

law('captures of several prompts at once equal the captures of each', async (engine) => {
  const prompts = [SOURCE, TARGET, 'of the', SOURCE].map((text) => tokens(engine, text));
  const middle = Math.floor(engine.record.layerCount / 2);
  const requests = prompts.map((tokenIds) => ({
    tokenIds,
    points: [middle, lastLayer(engine)].flatMap((layer) =>
      [1, 0].map((tokenIndex) => ({ site: 'resid_out' as const, layer, tokenIndex })),
    ),
  }));
  const together = await engine.capture(requests);
  for (const [i, request] of requests.entries()) {
    const [alone] = await engine.capture([request]);
    const both = together[i]!;
    assert.ok(alone?.status === 'ok' && both.status === 'ok', `prompt ${i} failed`);
    for (const [k, state] of alone.states.entries())
      assertSameAcrossShapes(both.states[k]!, state, `prompt ${i}`);
  }
});

for (const behind of [0, 3]) {
  const place = behind === 0 ? 'the last position' : 'an earlier position';

  law(`rows patched at ${place} at once equal the single runs, within tolerance`, async (engine, model) => {
    const { length } = tokens(engine, TARGET);
    const rows = await differentRows(engine, 12, length - 1 - behind);
    const together = await nextLogits(engine, rows);
    for (const [i, alone] of (await oneByOne(engine, rows)).entries()) {
      assertClose(together[i]!, alone, tolerance(model), `row ${i}`);
      const next = together[(i + 1) % 12]!;
      assert.ok(largestDifference(alone, next) > tolerance(model), `row ${i} is like the next one`);
    }
  });

  law(
    `in exact mode, rows patched at ${place} at once equal the single runs bit for bit`,
    async (engine) => {
      const { length } = tokens(engine, TARGET);
      const rows = await differentRows(engine, 12, length - 1 - behind);
      const together = await nextLogits(engine, rows);
      for (const [i, alone] of (await oneByOne(engine, rows)).entries()) {
        assertSameBits(together[i]!, alone, `row ${i}`);
      }
    },
    { exact: true },
  );

  law(
    `in exact mode, rows patched at ${place} give the same bits in any order`,
    async (engine) => {
      const { length } = tokens(engine, TARGET);
      const rows = await differentRows(engine, 40, length - 1 - behind);
      const order = rows.map((_, i) => (i * 7 + 3) % rows.length);
      const inOrder = await nextLogits(engine, rows);
      const permuted = await nextLogits(
        engine,
        order.map((i) => rows[i]!),
      );
      for (const [at, i] of order.entries()) assertSameBits(permuted[at]!, inOrder[i]!, `row ${i}`);
    },
    { exact: true },
  );
}

law(
  'in exact mode, generated tokens do not depend on the rows beside them',
  async (engine) => {
    const { length } = tokens(engine, TARGET);
    const rows = await differentRows(engine, 4, length - 1);
    const reading = { maxTokens: 4 };
    const together = await patched(engine, rows, reading);
    for (const [i, row] of rows.entries()) {
      const [alone] = await patched(engine, [row], reading);
      for (const [k, step] of alone!.steps.entries()) {
        assertSameBits(together[i]!.steps[k]!.logits!, step.logits!, `row ${i}, token ${k}`);
      }
    }
  },
  { exact: true },
);

law(
  'in exact mode, a captured state does not depend on the prompts beside it',
  async (engine) => {
    const last = lastLayer(engine);
    const requests = [SOURCE, TARGET, 'of', 'a'].map((text) => {
      const tokenIds = tokens(engine, text);
      const points = [0, last].map((layer) => ({
        site: 'resid_out' as const,
        layer,
        tokenIndex: tokenIds.length - 1,
      }));
      return { tokenIds, points };
    });
    const together = await engine.capture(requests);
    for (const [i, request] of requests.entries()) {
      const [alone] = await engine.capture([request]);
      const beside = together[i]!;
      assert.ok(alone?.status === 'ok' && beside.status === 'ok', `${i} failed`);
      for (const [k, state] of alone.states.entries())
        assertSameBits(beside.states[k]!, state, `prompt ${i}`);
    }
  },
  { exact: true },
);

law(
  'in exact mode, what the lens says of a state does not depend on the states beside it',
  async (engine) => {
    const prompt = tokens(engine, SOURCE);
    const state = await captured(engine, prompt, [1]);
    const states = mixedStates(33, state(1, 2), state(1, 5));
    const reading = { topK: 1, logits: true };
    const together = await engine.lens(Float32Array.from(states.flatMap((one) => [...one])), reading);
    for (const i of [0, 7, 32]) {
      const [alone] = await engine.lens(states[i]!, reading);
      const beside = together[i]!;
      assert.ok(alone?.status === 'ok' && beside.status === 'ok', `${i} failed`);
      assertSameBits(beside.logits!, alone.logits!, `state ${i}`);
    }
  },
  { exact: true },
);

law('the same rows twice give the same bits', async (engine) => {
  const rows = await differentRows(engine, 12, 4);
  const first = await nextLogits(engine, rows);
  await nextLogits(engine, rows.slice(5));
  const second = await nextLogits(engine, rows);
  for (const [i, logits] of first.entries()) assertSameBits(second[i]!, logits, `row ${i}`);
});

law('position 0 and one-token prompts work', async (engine, model) => {
  const [first] = tokens(engine, SOURCE);
  const last = lastLayer(engine);
  for (const tokenIds of [[first!], [5]]) {
    const unpatched = (await logitsEverywhere(engine, tokenIds))[0]!;
    const state = await captured(engine, tokenIds, someLayers(engine));
    for (const layer of someLayers(engine)) {
      const [own] = await nextLogits(engine, [{ tokenIds, edits: [edit(layer, 0, state(layer, 0))] }]);
      assertSameBits(own!, unpatched, `layer ${layer}`);
      const foreign = state(layer, 0).map((value, i) => value + Math.cos(i));
      const [other] = await nextLogits(engine, [{ tokenIds, edits: [edit(layer, 0, foreign)] }]);
      assert.ok(!sameBits(other!, unpatched), `layer ${layer}: a patch at position 0 has an effect`);
    }
    const target = tokens(engine, TARGET);
    const patch = edit(last, target.length - 1, state(last, 0));
    const [moved] = await nextLogits(engine, [{ tokenIds: target, edits: [patch] }]);
    assertClose(moved!, unpatched, tolerance(model), 'the last layer of one token');
  }
});

/** Each row is told by what the lens says of its own state: a row in a wrong slot is seen at once. */
async function checkSlots(engine: Engine, model: TestModel, count: number): Promise<void> {
  const target = tokens(engine, 'of the');
  const last = lastLayer(engine);
  const source = tokens(engine, SOURCE);
  const state = await captured(engine, source, [last]);
  const states = mixedStates(count, state(last, 2), state(last, source.length - 1));
  const rows = states.map((vector) => ({ tokenIds: target, edits: [edit(last, target.length - 1, vector)] }));
  const results = await nextLogits(engine, rows);
  assert.equal(results.length, count);
  const said = await engine.lens(Float32Array.from(states.flatMap((vector) => [...vector])), {
    topK: 1,
    logits: true,
    way: 'fast',
  });
  for (const [i, logits] of results.entries()) {
    const own = said[i]!;
    assert.ok(own.status === 'ok', `the lens of row ${i} failed`);
    assertClose(logits, own.logits!, tolerance(model), `row ${i}`);
  }
  assert.ok(new Set(results.map(argmax)).size > 5, 'the rows say different things');
}

law(
  '256 rows go through one batch, each with its own state',
  (engine, model) => checkSlots(engine, model, 256),
  { batchRows: 256, tellingStreams: true },
);

law(
  'rows beyond one batch go into the next ones, in order',
  (engine, model) => checkSlots(engine, model, 50),
  {
    batchRows: 16,
  },
);

law(
  'rows of many prompts, positions and layers come back in the order given',
  async (engine, model) => {
    const prompts = [SOURCE, TARGET, 'of the men'].map((text) => tokens(engine, text));
    const middle = Math.floor(engine.record.layerCount / 2);
    const state = await captured(engine, prompts[0]!, [middle]);
    const states = mixedStates(24, state(middle, 1), state(middle, 5));
    const rows = states.map((vector, i): PatchRow => {
      const tokenIds = prompts[i % 3]!;
      const layer = someLayers(engine)[(i * 5) % 4]!;
      return { tokenIds, edits: i % 8 === 7 ? [] : [edit(layer, (i * 7) % tokenIds.length, vector)] };
    });
    const together = await nextLogits(engine, rows);
    for (const [i, alone] of (await oneByOne(engine, rows)).entries()) {
      assertClose(together[i]!, alone, tolerance(model), `row ${i}`);
    }
  },
  { tellingStreams: true },
);

law('a prefix that is shared and one that is not give the same distribution', async (engine, model) => {
  const target = tokens(engine, TARGET);
  const rows = [
    ...(await differentRows(engine, 3, middleOf(target))),
    ...(await differentRows(engine, 3, target.length - 1)),
  ];
  const shared = await nextLogits(engine, rows);
  for (const [i, logits] of shared.entries()) {
    const whole = (await logitsEverywhere(engine, target, rows[i]!.edits)).at(-1)!; // read at 0: nothing is shared
    assertClose(logits, whole, tolerance(model), `row ${i}`);
  }
});

law(
  'a patched continuation is the one that the same patch gives token by token',
  async (engine, model) => {
    const target = tokens(engine, TARGET);
    const rows = await differentRows(engine, 4, target.length - 2);
    const generated = await patched(engine, rows, { maxTokens: 5 });
    for (const [i, { tokenIds, steps }] of generated.entries()) {
      assert.equal(tokenIds.length, steps.length);
      for (const [k, step] of steps.entries()) {
        assert.equal(tokenIds[k], argmax(step.logits!), 'the most probable token is taken');
        assert.equal(tokenIds[k], step.top[0]!.tokenId);
        const longer = { tokenIds: [...target, ...tokenIds.slice(0, k)], edits: rows[i]!.edits };
        const [again] = await nextLogits(engine, [longer]);
        assertClose(step.logits!, again!, tolerance(model), `row ${i}, token ${k}`);
      }
    }
  },
  { tellingStreams: true },
);

law('a continuation is cut at the first stop string, which ends it', async (engine) => {
  const [row] = await differentRows(engine, 1, 3);
  const [free] = await patched(engine, [row!], { maxTokens: 8, logits: false });
  const text = free!.text;
  assert.ok(text.length > 2, 'there is something to cut');
  for (const stop of [[text.slice(1, 3)], ['never said', text.slice(2, 3)], [text.slice(0, 1)]]) {
    const at = Math.min(...stop.map((piece) => text.indexOf(piece)).filter((index) => index >= 0));
    const [cut] = await patched(engine, [row!], { maxTokens: 8, stop, logits: false });
    assert.equal(cut!.text, text.slice(0, at));
    assert.deepEqual(cut!.tokenIds, free!.tokenIds.slice(0, cut!.tokenIds.length));
    const without = free!.tokenIds.slice(0, cut!.tokenIds.length - 1);
    const before = Buffer.concat(without.map((id) => engine.tokenizer.tokenBytes(id))).toString();
    assert.ok(!stop.some((piece) => before.includes(piece)), 'no token was generated after the stop string');
  }
});

for (const [kind, layout] of goodKinds.flatMap((kind) =>
  cacheLayouts.map((layout) => [kind, layout] as const),
)) {
  const { skip } = tinyModels.find(({ name }) => name === kind)!;
  const what = `${kind}, ${layout}: a continuation ends with the end-of-text token, other rows go on`;
  test(what, { skip }, async (t) => {
    const engine = withLayout(await open(tinyPath(kind)), layout);
    t.after(() => engine.close());
    const rows = await differentRows(engine, 12, tokens(engine, TARGET).length - 1);
    const free = await patched(engine, rows, { maxTokens: 5, logits: false });
    const firstSaid = free.flatMap(({ tokenIds }) =>
      tokenIds.filter((id, k) => tokenIds.indexOf(id) === k).map((id) => ({ id, at: tokenIds.indexOf(id) })),
    );
    const { id: end, at: last } = firstSaid // what one row says, as late as may be, ends the text in a copy of the model
      .filter(({ id }) => free.some(({ tokenIds }) => !tokenIds.includes(id)))
      .reduce((late, other) => (other.at > late.at ? other : late));
    const ends = { 'tokenizer.ggml.eos_token_id': scalar('u32', end) };
    const copy = withLayout(await open(writeVariant(kind, `${kind}-ends-${layout}.gguf`, ends)), layout);
    t.after(() => copy.close());
    assert.ok(copy.tokenizer.isEndOfText(end), `token ${end} ends the text`);
    const ended = await patched(copy, rows, { maxTokens: 5, logits: false });
    for (const [i, { tokenIds, text }] of ended.entries()) {
      const at = free[i]!.tokenIds.indexOf(end);
      const expected = at < 0 ? free[i]!.tokenIds : free[i]!.tokenIds.slice(0, at + 1);
      assert.deepEqual(tokenIds, expected, `row ${i}`);
      const said = expected.filter((id) => id !== end).map((id) => engine.tokenizer.tokenBytes(id));
      assert.equal(text, Buffer.concat(said).toString(), `row ${i}`);
    }
    assert.ok(
      ended.some(({ tokenIds }) => tokenIds.length === last + 1),
      'a row ended',
    );
    assert.ok(
      ended.some(({ tokenIds }) => tokenIds.length === 5),
      'a row went on',
    );
  });
}

law('the fast lens equals the slow one', async (engine, model) => {
  const prompt = tokens(engine, SOURCE);
  const layers = someLayers(engine);
  const state = await captured(engine, prompt, layers);
  const states = layers.flatMap((layer) => [0, 3, prompt.length - 1].map((i) => state(layer, i)));
  const all = Float32Array.from(states.flatMap((vector) => [...vector]));
  const reading = { topK: 3, trackedTokens: [7, 3], logits: true };
  const fast = await engine.lens(all, { ...reading, way: 'fast' });
  const slow = await engine.lens(all, { ...reading, way: 'slow' });
  const chosen = await engine.lens(all, reading);
  assert.equal(fast.length, states.length);
  for (const [i, one] of fast.entries()) {
    const [other, third] = [slow[i]!, chosen[i]!];
    assert.ok(one.status === 'ok' && other.status === 'ok' && third.status === 'ok', `state ${i} failed`);
    assertClose(one.logits!, other.logits!, tolerance(model) / 10, `state ${i}`);
    assertSameBits(third.logits!, one.logits!, `state ${i}: the fast way is chosen`);
    for (const [k, { tokenId, logprob }] of one.tracked.entries()) {
      assert.equal(tokenId, reading.trackedTokens[k]);
      const difference = Math.abs(logprob - other.tracked[k]!.logprob);
      assert.ok(difference < tolerance(model) / 5, `token ${tokenId}: ${difference}`);
    }
  }
});

law("the lens of the last layer's last position is the next-token distribution", async (engine, model) => {
  const prompt = tokens(engine, SOURCE);
  const last = lastLayer(engine);
  const state = (await captured(engine, prompt, [last]))(last, prompt.length - 1);
  const next = (await logitsEverywhere(engine, prompt)).at(-1)!;
  for (const way of ['fast', 'slow'] as const) {
    const [result] = await engine.lens(state, { topK: 1, logits: true, way });
    assert.ok(result?.status === 'ok', JSON.stringify(result));
    assertClose(result.logits!, next, tolerance(model) / 10, way);
  }
});

law(
  'states of the last layer at positions that are not last give the logits read there',
  async (engine, model) => {
    const prompt = tokens(engine, SOURCE);
    const last = lastLayer(engine);
    const everywhere = await logitsEverywhere(engine, prompt);
    const some = [prompt.length - 2, 0, 4]; // neither all of them nor in order
    const state = await captured(engine, prompt, [last], some);
    for (const i of some) {
      const [result] = await engine.lens(state(last, i), { topK: 1, logits: true });
      assert.ok(result?.status === 'ok', JSON.stringify(result));
      assertClose(result.logits!, everywhere[i]!, tolerance(model) / 10, `token ${i}`);
      const next = everywhere[i + 1]!;
      assert.ok(largestDifference(result.logits!, next) > tolerance(model), 'neighbours differ');
    }
  },
);

law('one row takes edits at several positions and layers', async (engine, model) => {
  const target = tokens(engine, TARGET);
  const source = tokens(engine, SOURCE);
  const layers = someLayers(engine);
  const own = await captured(engine, target, layers);
  const foreign = await captured(engine, source, layers);
  const places = layers.flatMap((layer) => [1, 4, target.length - 1].map((i): [Layer, number] => [layer, i]));
  const unpatched = await logitsEverywhere(engine, target);

  const same = places.map(([layer, i]) => edit(layer, i, own(layer, i)));
  for (const [i, logits] of (await logitsEverywhere(engine, target, same)).entries()) {
    assertSameBits(logits, unpatched[i]!, `own states, read at ${i}`);
  }

  const [a, b] = [edit(0, 1, foreign(0, 2)), edit(layers[2]!, 4, foreign(layers[2]!, 5))];
  const at = async (edits: Edit[]) => (await logitsEverywhere(engine, target, edits)).at(-1)!;
  const both = await at([a, b]);
  assert.ok(!sameBits(both, await at([a])) && !sameBits(both, await at([b])), 'both edits have an effect');
  assertSameBits(await at([b, a]), both, 'edits in another order');
  const [withPrefix] = await nextLogits(engine, [{ tokenIds: target, edits: [b, a] }]);
  assertClose(withPrefix!, both, tolerance(model), 'behind a shared prefix');
});

law('of two edits of the last position the later layer decides', async (engine) => {
  const target = tokens(engine, TARGET);
  const at = target.length - 1;
  const foreign = await captured(engine, tokens(engine, SOURCE), [0, 1]);
  const later = edit(1, at, foreign(1, 3));
  const both = await logitsEverywhere(engine, target, [edit(0, at, foreign(0, 2)), later]);
  const alone = await logitsEverywhere(engine, target, [later]);
  const other = await logitsEverywhere(engine, target, [edit(0, at, foreign(0, 2))]);
  assertSameBits(both[at]!, alone[at]!, 'the later layer');
  assert.ok(!sameBits(other[at]!, alone[at]!), 'each alone has an effect');
});

law('readings say the log-probability and rank that the logits say', async (engine) => {
  const target = tokens(engine, TARGET);
  const trackedTokens = [9, 0, 20];
  const tokenIndexes = [3, 0];
  const rows = await differentRows(engine, 3, 1);
  const results = await patched(engine, rows, { topK: 5, trackedTokens, tokenIndexes });
  const elsewhere = await patched(engine, rows, { tokenIndexes: everyIndex(target) });
  for (const [r, { steps, positions }] of results.entries()) {
    for (const [k, i] of tokenIndexes.entries()) {
      const difference = largestDifference(positions[k]!.logits!, elsewhere[r]!.positions[i]!.logits!);
      assert.ok(difference < 0.05, `row ${r}: read at ${i}`);
    }
    for (const { logits, top, tracked } of [...steps, ...positions]) {
      const values = [...logits!];
      const max = Math.max(...values);
      const total = max + Math.log(values.reduce((sum, value) => sum + Math.exp(value - max), 0));
      const order = values
        .map((value, id) => ({ value, id }))
        .sort((x, y) => y.value - x.value || x.id - y.id)
        .map(({ id }) => id);
      assert.deepEqual(
        top.map(({ tokenId }) => tokenId),
        order.slice(0, 5),
      );
      assert.deepEqual(
        tracked.map(({ tokenId, rank }) => [tokenId, rank]),
        trackedTokens.map((id) => [id, order.indexOf(id)]),
      );
      for (const { tokenId, logprob } of [...top, ...tracked]) {
        assert.ok(Math.abs(logprob - (values[tokenId]! - total)) < 1e-4, `token ${tokenId}`);
      }
    }
  }
});

law('a patch of enormous numbers leaves the next run clean', async (engine, model, layout) => {
  const target = tokens(engine, TARGET);
  const rows = await differentRows(engine, 4, 3);
  const enormous = new Float32Array(engine.record.embeddingSize).map((_, i) => (i % 2 === 0 ? 3e38 : -3e38));
  for (const layer of someLayers(engine)) {
    const [result] = await engine.patch([{ tokenIds: target, edits: [edit(layer, 3, enormous)] }], {
      topK: 1,
      maxTokens: 2,
    });
    assert.ok(result!.status === 'ok' || result!.code === 'not_finite', JSON.stringify(result));
  }
  const fresh = withLayout(await open(model.path()), layout);
  const expected = await nextLogits(fresh, rows);
  await fresh.close();
  for (const [i, logits] of (await nextLogits(engine, rows)).entries()) {
    assertSameBits(logits, expected[i]!, `row ${i}`);
  }
});

/** Where these tests can't make NaN. */
const noNaN = device.roundsByShape && `not run on ${device.name}: its norm makes no NaN of a state of zeros`;

/** Without the small number under its root, this norm makes NaN of a state of zeros. */
const zeroBreaks = () =>
  writeVariant('llama', 'no-epsilon.gguf', {
    'llama.attention.layer_norm_rms_epsilon': scalar('f32', 0),
  });

const nanSettings = cacheLayouts.flatMap((layout) =>
  [true, false].map((flashAttention) => ({ layout, flashAttention })),
);

for (const { layout, flashAttention } of nanSettings) {
  const openBreaking = async () => withLayout(await open(zeroBreaks(), { flashAttention }), layout);
  for (const count of [2, 12, 80]) {
    const setting = `${count} rows, ${layout}, flash attention ${flashAttention ? 'on' : 'off'}`;

    test(`a row that becomes NaN fails with not_finite and does no harm to the rows beside it (${setting})`, {
      skip: noNaN,
    }, async (t) => {
      const engine = await openBreaking();
      t.after(() => engine.close());
      const target = tokens(engine, TARGET);
      const state = (await captured(engine, target, [1]))(1, 3);
      const states = mixedStates(count, state, state);
      const rowsOf = (vectors: Float32Array[]) =>
        vectors.map((vector) => ({ tokenIds: target, edits: [edit(1, 3, vector)] }));
      const expected = await nextLogits(engine, rowsOf(states));
      for (const bad of [0, count - 1]) {
        const zero = new Float32Array(state.length);
        const results = await engine.patch(rowsOf(states.with(bad, zero)), {
          topK: 1,
          maxTokens: 1,
          logits: true,
        });
        for (const [i, result] of results.entries()) {
          if (i === bad) {
            assert.ok(result.status === 'failed', `row ${i} is NaN`);
            assert.equal(result.code, 'not_finite');
          } else {
            assert.ok(result.status === 'ok', `row ${i} failed beside row ${bad}`);
            assertClose(result.steps[0]!.logits!, expected[i]!, 0.05, `row ${i}`);
          }
        }
      }
    });

    test(`after a run with NaN the next one has the bits of a fresh engine (${setting})`, {
      skip: noNaN,
    }, async (t) => {
      const engine = await openBreaking();
      const fresh = await openBreaking();
      t.after(() => Promise.all([engine.close(), fresh.close()]));
      const target = tokens(engine, TARGET);
      const zero = new Float32Array(engine.record.embeddingSize);
      const broken = Array.from({ length: count }, () => ({ tokenIds: target, edits: [edit(1, 3, zero)] }));
      const results = await engine.patch(broken, { topK: 1, maxTokens: 1 });
      for (const result of results) {
        assert.ok(result.status === 'failed' && result.code === 'not_finite', `a row is ${result.status}`);
      }
      const [own, other] = [await captured(engine, target, [2]), await captured(fresh, target, [2])];
      for (const i of everyIndex(target)) assertSameBits(own(2, i), other(2, i), `state of token ${i}`);
      for (const size of [1, 2, count]) {
        const rows = mixedStates(size, own(2, 1), own(2, 3)).map((vector) => ({
          tokenIds: target.slice(0, 6),
          edits: [edit(2, 4, vector)],
        }));
        const [after, expected] = [await nextLogits(engine, rows), await nextLogits(fresh, rows)];
        for (const [i, logits] of after.entries())
          assertSameBits(logits, expected[i]!, `row ${i} of ${size}`);
      }
    });
  }
}

for (const { layout, flashAttention } of nanSettings) {
  const setting = `${layout}, flash attention ${flashAttention ? 'on' : 'off'}`;

  test(`a prompt whose states are NaN fails its own capture and no other (${setting})`, {
    skip: noNaN,
  }, async (t) => {
    const dead = 40; // the token's embedding is made of zeros
    const model = tinyModel('llama');
    const tensors = model.tensors.map((tensor) => {
      if (tensor.name !== 'token_embd.weight') return tensor;
      const row = tensor.shape[0]! * 4;
      return { ...tensor, bytes: Buffer.from(tensor.bytes).fill(0, dead * row, (dead + 1) * row) };
    });
    const epsilon: [string, Value] = ['llama.attention.layer_norm_rms_epsilon', scalar('f32', 0)];
    const metadata = new Map([...model.metadata, epsilon]);
    const path = writeFile('dead-token.gguf', writeGguf({ metadata, tensors }));
    const engine = withLayout(await open(path, { flashAttention }), layout);
    t.after(() => engine.close());
    const points = [{ site: 'resid_out' as const, layer: 2, tokenIndex: 2 }];
    const good = { tokenIds: [1, 7, 8], points };
    const [expected] = await engine.capture([good]);
    const results = await engine.capture([good, { tokenIds: [1, dead, 8], points }, good]);
    assert.ok(results[1]?.status === 'failed' && results[1].code === 'not_finite', 'the dead prompt');
    assert.ok(expected?.status === 'ok', 'the good prompt alone');
    for (const i of [0, 2]) {
      const result = results[i]!;
      assert.ok(result.status === 'ok', `prompt ${i} failed`);
      const difference = largestDifference(result.states[0]!, expected.states[0]!);
      assert.ok(difference < 1e-3, `prompt ${i}: ${difference}`);
    }
    // its embedding is finite, so nothing is seen to fail, but what it left in the cache is not
    const embed = [{ site: 'embed' as const, layer: 'embed' as const, tokenIndex: 2 }];
    const [unseen] = await engine.capture([{ tokenIds: [1, dead, 8], points: embed }]);
    assert.equal(unseen!.status, 'ok');
    const [next] = await engine.patch([{ tokenIds: [1, 7, 8], edits: [] }], { topK: 1, maxTokens: 1 });
    assert.equal(next!.status, 'ok', 'a good row after it');
  });
}

test('a state without finite logits fails its own lens and no other', { skip: noNaN }, async (t) => {
  const engine = await open(zeroBreaks());
  t.after(() => engine.close());
  const zero = new Float32Array(engine.record.embeddingSize);
  const [dead, alive] = await engine.lens(Float32Array.from([...zero, ...zero.map(() => 1)]), { topK: 1 });
  assert.ok(dead?.status === 'failed' && dead.code === 'not_finite', JSON.stringify(dead));
  assert.equal(alive?.status, 'ok');
});

test('a decode that fails takes its own rows with it and no other', async () => {
  const decodes: number[] = [];
  const context = {
    decode: async ({ tokens: batch, readings }: NativeStep) => {
      decodes.push(batch.length);
      if (batch.includes(66)) {
        throw Object.assign(new Error('Planned 1, applied 0.'), { code: 'edit_mismatch' });
      }
      const count = readings.rows.length;
      return {
        captures: [],
        readings: {
          finite: new Uint8Array(count).fill(1),
          topIds: new Int32Array(count),
          topLogprobs: new Float32Array(count),
          trackedRanks: new Int32Array(),
          trackedLogprobs: new Float32Array(),
          chosenIds: new Int32Array(count),
          chosenRanks: new Int32Array(count),
          chosenLogprobs: new Float32Array(count),
        },
      };
    },
    copySequence: () => undefined,
    removeSequence: () => undefined,
  } as Partial<NativeContext> as NativeContext;
  const pool = { take: async () => context } as Partial<ContextPool> as ContextPool;
  const info = { vocabularySize: 100, layerCount: 2, trainedContext: 64, isRecurrent: false };
  const tokenizer = {
    isEndOfText: () => false,
    tokenBytes: () => new Uint8Array(),
  } as Partial<LlamaTokenizer> as LlamaTokenizer;
  const patcher = new Patcher(pool, new Limits(info as NativeModelInfo, 1, {}), tokenizer);
  const rows = [
    [1, 2],
    [1, 66],
    [3, 4],
  ].map((tokenIds) => ({ tokenIds, edits: [] }));
  const results = await patcher.patch(rows, { topK: 1, maxTokens: 1 });
  assert.deepEqual(
    results.map(({ status }) => status),
    ['ok', 'failed', 'ok'],
  );
  assert.equal(results[1]!.status === 'failed' && results[1]!.code, 'edit_mismatch');
});

test('after calls that were refused the next run has the bits of a fresh engine', async (t) => {
  const path = tinyPath('gemma3');
  const [engine, fresh] = [await open(path), await open(path)];
  t.after(() => Promise.all([engine.close(), fresh.close()]));
  const tooWide = { tokenIds: [1, 2], edits: [edit(0, 1, new Float32Array(3))] };
  await assertRefused(() => engine.patch([tooWide], { topK: 1, maxTokens: 1 }), 'bad_input', /3 numbers/);
  const rows = await differentRows(fresh, 8, 2);
  const [after, expected] = [await nextLogits(engine, rows), await nextLogits(fresh, rows)];
  for (const [i, logits] of after.entries()) assertSameBits(logits, expected[i]!, `row ${i}`);
});

test(`${realModel.name}: it knows what comes next`, { skip: realModel.skip }, async (t) => {
  const engine = await open(realModel.path());
  t.after(() => engine.close());
  const [row] = await patched(engine, [{ tokenIds: tokens(engine, 'The capital of France is'), edits: [] }]);
  assert.equal(row!.text, ' Paris');
});
