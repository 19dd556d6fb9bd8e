/** What edits, drawn tokens and given continuations must do on every model, whatever it means. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Edit, Engine, PatchRow } from '../src/engine.js';
import type { Layer, Site } from '../src/patchscope.js';
import { sites } from '../src/patchscope.js';
import {
  argmax,
  assertClose,
  assertRefused,
  assertSameBits,
  captured,
  edit,
  largestDifference,
  law,
  logitsEverywhere,
  open,
  patched,
  SOURCE,
  sameBits,
  siteOf,
  someLayers,
  TARGET,
  tinyModels,
  tinyPath,
  tokens,
  tolerance,
} from './support.js';

const rounded = (values: Float32Array, f: (value: number, i: number) => number): Float32Array =>
  Float32Array.from(values, f);

const length = (values: Float32Array): number => Math.hypot(...values);

law('each op makes of a state what it says', async (engine) => {
  const target = tokens(engine, TARGET);
  const position = target.length >> 1;
  const own = await captured(engine, target, someLayers(engine));
  const foreign = await captured(engine, tokens(engine, SOURCE), someLayers(engine));
  const unpatched = await logitsEverywhere(engine, target);
  for (const layer of someLayers(engine)) {
    const h = own(layer, position);
    const v = rounded(foreign(layer, 3), (x, i) => x + 0.5 * foreign(layer, 1)[i]!);
    const after = async (change: Partial<Edit>) => {
      const { vector: _, ...place } = edit(layer, position, v);
      return logitsEverywhere(engine, target, [{ ...place, ...change }]);
    };
    const same = async (change: Partial<Edit>, expected: readonly Float32Array[]) => {
      const where = `layer ${layer}, ${change.op} ${change.alpha}`;
      for (const [i, logits] of (await after(change)).entries())
        assertSameBits(logits, expected[i]!, `${where}, read at ${i}`);
    };
    const replaced = (vector: Float32Array) => after({ vector });

    await same({ op: 'add', alpha: 0, vector: v }, unpatched);
    await same({ op: 'scale', alpha: 1 }, unpatched);
    await same({ op: 'mix', alpha: 0, vector: v }, unpatched);
    await same({ op: 'norm-matched-add', alpha: 0, vector: v }, unpatched);
    const whole = await replaced(v);
    assert.ok(!sameBits(whole[position]!, unpatched[position]!), 'the vector has an effect');
    await same({ op: 'mix', alpha: 1, vector: v }, whole);
    await same({ op: 'replace', alpha: -1.5, vector: v }, await replaced(rounded(v, (x) => -1.5 * x)));
    await same({ op: 'scale', alpha: -1.5 }, await replaced(rounded(h, (x) => -1.5 * x)));
    await same({ op: 'scale', alpha: 0 }, await replaced(rounded(h, (x) => 0 * x)));
    await same({ op: 'add', vector: v }, await replaced(rounded(h, (x, i) => x + v[i]!)));
    const half = await replaced(rounded(h, (x, i) => 0.5 * v[i]! + 0.5 * x));
    await same({ op: 'mix', alpha: 0.5, vector: v }, half);

    const matched = await after({ op: 'norm-matched-add', alpha: 2, vector: v });
    const scale = (2 * length(h)) / length(v);
    const expected = await replaced(rounded(h, (x, i) => x + Math.fround(scale) * v[i]!));
    for (const [i, logits] of matched.entries())
      assertClose(
        logits,
        expected[i]!,
        1e-3 + 1e-3 * Math.abs(expected[i]![argmax(expected[i]!)]!),
        `matched, read at ${i}`,
      );
    const longer = await after({ op: 'norm-matched-add', alpha: 2, vector: rounded(v, (x) => 4 * x) });
    for (const [i, logits] of longer.entries())
      assertSameBits(logits, matched[i]!, `the length of the vector does not count, read at ${i}`);
  }
});

law('edits of different ops in one batch each keep to their own rows', async (engine, model) => {
  const target = tokens(engine, TARGET);
  const state = (await captured(engine, tokens(engine, SOURCE), [1]))(1, 3);
  const at = (change: Partial<Edit>): PatchRow => ({
    tokenIds: target,
    edits: [{ site: 'resid_out', layer: 1, tokenIndex: target.length - 1, ...change }],
  });
  const rows = [
    at({ vector: state }),
    at({ op: 'scale', alpha: 0.5 }),
    at({ op: 'add', alpha: 2, vector: state }),
    { tokenIds: target, edits: [] },
    at({ op: 'mix', alpha: 0.3, vector: state }),
    at({ op: 'norm-matched-add', vector: state }),
    at({ op: 'add', alpha: -1, vector: state }),
  ];
  const together = await patched(engine, rows);
  for (const [i, row] of rows.entries()) {
    const [alone] = await patched(engine, [row]);
    const logits = alone!.steps[0]!.logits!;
    assertClose(together[i]!.steps[0]!.logits!, logits, tolerance(model), `row ${i}`);
    const next = together[(i + 1) % rows.length]!.steps[0]!.logits!;
    assert.ok(largestDifference(logits, next) > 1e-3, `row ${i} is like the next one`);
  }
});

/** Sites of the middle and the last block, of those that the model has. */
async function placesOf(engine: Engine, tokenIds: readonly number[]) {
  const found: { site: Site; layer: Layer }[] = [];
  for (const site of sites) {
    const layers: Layer[] =
      site === 'embed' ? ['embed'] : [engine.record.layerCount >> 1, engine.record.layerCount - 1];
    for (const layer of site === 'final_norm' ? layers.slice(1) : layers) {
      const points = tokenIds.map((_, tokenIndex) => ({ site, layer, tokenIndex }));
      try {
        const [result] = await engine.capture([{ tokenIds, points }]);
        assert.ok(result!.status === 'ok', JSON.stringify(result));
        found.push({ site, layer });
      } catch (error) {
        await assertRefused(
          () => Promise.reject(error),
          'no_site',
          new RegExp(`no ${site} at layer ${layer}: .`),
        );
      }
    }
  }
  return found;
}

law(
  'a state of any site written into its own place changes no bit, another state does',
  async (engine, model) => {
    const prompt = tokens(engine, SOURCE);
    const unpatched = await logitsEverywhere(engine, prompt);
    const places = await placesOf(engine, prompt);
    assert.ok(places.length >= 5, `only ${JSON.stringify(places)}`);
    assert.equal(
      places.some(({ site }) => site === 'resid_mid'),
      model.name !== 'gptneox',
    );
    const position = prompt.length >> 1;
    for (const { site, layer } of places.filter(({ site }) => site !== 'final_norm')) {
      const points = prompt.map((_, tokenIndex) => ({ site, layer, tokenIndex }));
      const [result] = await engine.capture([{ tokenIds: prompt, points }]);
      assert.ok(result!.status === 'ok');
      const at = (vector: Float32Array) =>
        logitsEverywhere(engine, prompt, [{ site, layer, tokenIndex: position, vector }]);
      for (const [i, logits] of (await at(result!.states[position]!)).entries())
        assertSameBits(logits, unpatched[i]!, `${site} of layer ${layer}, read at ${i}`);
      const other = await at(result!.states[position - 1]!);
      assert.ok(!sameBits(other[position]!, unpatched[position]!), `${site} of layer ${layer}: no effect`);
    }
  },
);

law('the final norm is read and never written', async (engine) => {
  const { layerCount, embeddingSize } = engine.record;
  const prompt = tokens(engine, SOURCE);
  const norm = { site: 'final_norm' as const, layer: layerCount - 1, tokenIndex: 1 };
  const last = { ...norm, site: 'resid_out' as const };
  const [result] = await engine.capture([{ tokenIds: prompt, points: [norm, last] }]);
  assert.ok(result!.status === 'ok');
  assert.ok(!sameBits(result!.states[0]!, result!.states[1]!), 'the norm does something');
  const written = { ...norm, vector: new Float32Array(embeddingSize) };
  await assertRefused(
    () => engine.patch([{ tokenIds: prompt, edits: [written] }], { topK: 1, maxTokens: 1 }),
    'bad_input',
    /final_norm is read, not written/,
  );
  await assertRefused(
    () => engine.capture([{ tokenIds: prompt, points: [{ ...norm, layer: 0 }] }]),
    'bad_input',
    /comes after the last layer/,
  );
});

law(
  'an edit at each generated token is the same edit at each token of a prompt that holds them',
  async (engine, model) => {
    const prompt = tokens(engine, TARGET);
    const last = prompt.length - 1;
    const vector = (await captured(engine, tokens(engine, SOURCE), [1]))(1, 3);
    const place = { site: 'resid_out' as const, layer: 1, op: 'add' as const, alpha: 0.5, vector };
    const row = (atGenerated: boolean): PatchRow => ({
      tokenIds: prompt,
      edits: [{ ...place, tokenIndex: last, atGenerated }],
    });
    const [everywhere] = await patched(engine, [row(true)], { maxTokens: 4 });
    const { tokenIds } = everywhere!;
    const [once] = await patched(engine, [{ ...row(false), continuation: tokenIds }]);
    const whole = [...prompt, ...tokenIds.slice(0, -1)];
    const edits = tokenIds.map((_, i) => ({ ...place, tokenIndex: last + i }));
    const expected = (await logitsEverywhere(engine, whole, edits)).slice(last);
    for (const [i, { logits }] of everywhere!.steps.entries()) {
      assertClose(logits!, expected[i]!, tolerance(model), `token ${i}`);
      if (i > 0)
        assert.ok(
          largestDifference(once!.steps[i]!.logits!, logits!) > 1e-3,
          `token ${i}: only in the prompt`,
        );
    }
  },
);

law('a continuation that is given has the bits of the generation that made it', async (engine) => {
  const prompt = tokens(engine, TARGET);
  const state = (await captured(engine, tokens(engine, SOURCE), [1]))(1, 3);
  const row = { tokenIds: prompt, edits: [edit(1, prompt.length - 2, state)] };
  const [made] = await patched(engine, [row], { maxTokens: 5, topK: 3 });
  const [scored] = await patched(engine, [{ ...row, continuation: made!.tokenIds }], {
    maxTokens: 1,
    topK: 3,
  });
  assert.deepEqual(scored!.tokenIds, made!.tokenIds);
  for (const [i, step] of made!.steps.entries()) {
    const other = scored!.steps[i]!;
    assertSameBits(other.logits!, step.logits!, `token ${i}`);
    assert.deepEqual(other.chosen, step.chosen);
    assert.deepEqual(step.chosen, { ...step.top[0]!, rank: 0 });
  }
});

law('a foreign continuation is scored as a prompt that holds it', async (engine, model) => {
  const prompt = tokens(engine, TARGET);
  const continuation = tokens(engine, SOURCE).slice(3, 9);
  const [row] = await patched(engine, [{ tokenIds: prompt, edits: [], continuation }], { stop: ['a', 'e'] });
  assert.deepEqual(row!.tokenIds, continuation);
  const whole = await logitsEverywhere(engine, [...prompt, ...continuation]);
  for (const [i, { chosen, logits }] of row!.steps.entries()) {
    assertClose(logits!, whole[prompt.length - 1 + i]!, tolerance(model), `token ${i}`);
    const values = [...logits!];
    const max = Math.max(...values);
    const total = max + Math.log(values.reduce((sum, value) => sum + Math.exp(value - max), 0));
    assert.equal(chosen.tokenId, continuation[i]);
    assert.ok(Math.abs(chosen.logprob - (values[chosen.tokenId]! - total)) < 1e-4, `token ${i}`);
    assert.equal(chosen.rank, values.filter((value) => value > values[chosen.tokenId]!).length);
  }
});

law(
  'rows of different lengths follow one another and give what each gives alone',
  async (engine, model) => {
    const prompt = tokens(engine, TARGET);
    const vocabulary = Math.min(engine.record.vocabularySize, 200);
    const state = (await captured(engine, tokens(engine, SOURCE), [1]))(1, 3);
    const rows: PatchRow[] = Array.from({ length: 23 }, (_, k) => ({
      tokenIds: prompt,
      edits: [
        edit(
          k % 2,
          prompt.length - 1 - (k % 3),
          rounded(state, (x, i) => x * Math.cos(k * (i + 1))),
        ),
      ],
      continuation: Array.from({ length: (k * 7) % 6 }, (_, i) => 3 + ((k * 31 + i * 17) % (vocabulary - 3))),
    }));
    const together = await patched(engine, rows, { tokenIndexes: [prompt.length - 1] });
    for (const [k, row] of rows.entries()) {
      const [alone] = await patched(engine, [row], { tokenIndexes: [prompt.length - 1] });
      assert.deepEqual(together[k]!.tokenIds, row.continuation);
      assertClose(
        together[k]!.positions[0]!.logits!,
        alone!.positions[0]!.logits!,
        tolerance(model),
        `row ${k}`,
      );
      for (const [i, { logits }] of alone!.steps.entries())
        assertClose(together[k]!.steps[i]!.logits!, logits!, tolerance(model), `row ${k}, token ${i}`);
    }
  },
  { batchRows: 4 },
);

const tiny = tinyModels.filter(({ name }) => name === 'llama' || name === 'gemma3');

law(
  'temperature 0 and the top token alone are greedy; a seed gives its tokens again, whatever the row beside it',
  async (engine) => {
    const prompt = tokens(engine, TARGET);
    const plain = { tokenIds: prompt, edits: [] };
    const texts = async (rows: readonly PatchRow[], sampling: object) =>
      (
        await patched(engine, rows, {
          maxTokens: 8,
          logits: false,
          sampling: { temperature: 1, ...sampling },
        })
      ).map(({ tokenIds }) => tokenIds.join());
    const [greedy] = (await patched(engine, [plain], { maxTokens: 8 })).map(({ tokenIds }) =>
      tokenIds.join(),
    );
    for (const sampling of [{ temperature: 0 }, { topK: 1 }, { topP: 1e-6 }, { temperature: 1e-4 }]) {
      assert.deepEqual(await texts([plain], sampling), [greedy], JSON.stringify(sampling));
    }
    const seeds = [5, 6, 7, 8];
    const drawn = await texts(
      seeds.map((seed) => ({ ...plain, seed })),
      {},
    );
    assert.equal(new Set(drawn).size, 4, 'seeds differ');
    const turned = await texts(
      [...seeds].reverse().map((seed) => ({ ...plain, seed })),
      {},
    );
    assert.deepEqual(turned.reverse(), drawn);
  },
  { models: tiny, exact: true },
);

law(
  'tokens are drawn as often as they are probable',
  async (engine) => {
    const prompt = tokens(engine, TARGET);
    const count = 3000;
    const rows = Array.from({ length: count }, (_, seed) => ({ tokenIds: prompt, edits: [], seed }));
    const [reference] = await patched(engine, [rows[0]!]);
    const logits = [...reference!.steps[0]!.logits!];
    const shares = (temperature: number, kept = logits.length): Map<number, number> => {
      const best = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]!).slice(0, kept);
      const weights = best.map((id) => Math.exp((logits[id]! - logits[best[0]!]!) / temperature));
      const total = weights.reduce((sum, weight) => sum + weight, 0);
      return new Map(best.map((id, i) => [id, weights[i]! / total]));
    };
    for (const [sampling, expected] of [
      [{ temperature: 1 }, shares(1)],
      [{ temperature: 1.7 }, shares(1.7)],
      [{ temperature: 0.8, topK: 5 }, shares(0.8, 5)],
    ] as const) {
      const results = await patched(engine, rows, { sampling, logits: false });
      const found = new Map<number, number>();
      for (const {
        tokenIds: [id],
      } of results)
        found.set(id!, (found.get(id!) ?? 0) + 1);
      for (const id of found.keys()) assert.ok(expected.has(id), `token ${id} is not among those kept`);
      for (const [id, share] of [...expected].slice(0, 20)) {
        const bound = 5 * Math.sqrt((share * (1 - share)) / count) + 1e-3;
        const seen = (found.get(id) ?? 0) / count;
        assert.ok(Math.abs(seen - share) < bound, `token ${id}: ${seen} where ${share} is expected`);
      }
    }
    const nucleus = await patched(engine, rows, { sampling: { temperature: 1, topP: 0.5 }, logits: false });
    const likely = [...shares(1)];
    const before = likely.map((_, i) => likely.slice(0, i).reduce((sum, [, share]) => sum + share, 0));
    const kept = new Set(likely.filter((_, i) => before[i]! < 0.5).map(([id]) => id));
    for (const {
      tokenIds: [id],
    } of nucleus)
      assert.ok(kept.has(id!), `token ${id} is not in the nucleus`);
  },
  { models: tiny },
);

test('work is cancelled between decodes, and the next has the bits of a fresh engine', async (t) => {
  const [engine, fresh] = [await open(tinyPath('llama')), await open(tinyPath('llama'))];
  t.after(() => Promise.all([engine.close(), fresh.close()]));
  const prompt = tokens(engine, TARGET);
  const rows = Array.from({ length: 400 }, (_, seed) => ({ tokenIds: prompt, edits: [], seed }));
  const reading = { topK: 1, maxTokens: 60, sampling: { temperature: 1 } };
  const controller = new AbortController();
  const work = engine.patch(rows, reading, { signal: controller.signal });
  setTimeout(() => controller.abort(), 30);
  await assert.rejects(work, { name: 'AbortError' });
  await assert.rejects(
    engine.capture([{ tokenIds: prompt, points: [{ site: 'embed', layer: 'embed', tokenIndex: 0 }] }], {
      signal: AbortSignal.abort(),
    }),
    { name: 'AbortError' },
  );
  await assert.rejects(
    engine.lens(
      new Float32Array(engine.record.embeddingSize).fill(1),
      { topK: 1 },
      { signal: AbortSignal.abort() },
    ),
    { name: 'AbortError' },
  );
  const some = rows.slice(0, 20);
  const [after, expected] = [await patched(engine, some), await patched(fresh, some)];
  for (const [i, { steps }] of after.entries())
    assertSameBits(steps[0]!.logits!, expected[i]!.steps[0]!.logits!, `row ${i}`);
});

test('what an edit or a reading can not be is one sentence', async (t) => {
  const engine = await open(tinyPath('gptneox'));
  t.after(() => engine.close());
  const vector = new Float32Array(engine.record.embeddingSize).fill(1);
  const at = { site: 'resid_out' as const, layer: 1, tokenIndex: 1 };
  const patch =
    (edits: readonly object[], reading: object = {}, row: object = {}) =>
    () =>
      engine.patch([{ tokenIds: [5, 6, 7], edits: edits as Edit[], ...row }], {
        topK: 1,
        maxTokens: 1,
        ...reading,
      });
  const wrong: [() => Promise<unknown>, RegExp][] = [
    [patch([{ ...at, op: 'paste', vector }]), /no edit 'paste': take replace, add/],
    [patch([{ ...at, op: 'scale', alpha: 2, vector }]), /takes no vector/],
    [patch([{ ...at, op: 'add', alpha: Number.NaN, vector }]), /alpha NaN/],
    [patch([{ ...at, op: 'add', alpha: 1e39, vector }]), /alpha 1e\+39/],
    [patch([{ ...at, op: 'norm-matched-add', vector: new Float32Array(vector.length) }]), /no direction/],
    [patch([{ ...at, site: 'logits', vector }]), /no site 'logits'/],
    [
      patch([
        { ...at, vector, atGenerated: true },
        { ...at, tokenIndex: 2, vector, atGenerated: true },
      ]),
      /each generated token/,
    ],
    [patch([], { sampling: { temperature: -1 } }), /temperature is -1/],
    [patch([], { sampling: { temperature: Number.NaN } }), /temperature is NaN/],
    [patch([], { sampling: { temperature: 1, topK: 1.5 } }), /topK is 1.5/],
    [patch([], { sampling: { temperature: 1, topP: 0 } }), /topP is 0/],
    [patch([], {}, { continuation: [1, 1e9] }), /outside the vocabulary/],
    [patch([], {}, { seed: 0.5 }), /seed 0.5/],
  ];
  for (const [work, says] of wrong) await assertRefused(work, 'bad_input', says);
  await assertRefused(patch([{ ...at, site: 'resid_mid', vector }]), 'no_site', /no resid_mid at layer 1: /);
  await assert.rejects(patch([at]), TypeError);
  assert.equal((await patch([{ ...at, site: siteOf(1), vector }])())[0]!.status, 'ok');
});
