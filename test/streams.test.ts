/** The cache layout in which each row has cells of its own: what is refused, and how lists are cut for it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { CacheLayout, Engine, PatchRow } from '../src/engine.js';
import { type BatchLimits, cutsOf } from '../src/llama/cuts.js';
import { loadNative } from './device.js';
import { decoderKinds } from './fixtures/models.js';
import {
  assertClose,
  assertRefused,
  assertSameBits,
  captured,
  edit,
  law,
  mixedStates,
  nativeRead,
  open,
  patched,
  SOURCE,
  TARGET,
  tinyModels,
  tinyPath,
  tokens,
  tolerance,
} from './support.js';

const STREAMS = { cacheLayout: 'streams' as const };
const ROW: PatchRow = { tokenIds: [1, 7, 8], edits: [] };
const READING = { topK: 1, maxTokens: 1, logits: true };

for (const [what, kind, options, reason] of [
  ['a recurrent state', 'mamba', {}, /recurrent state/],
  ['blocks of both kinds', 'falcon-h1', {}, /recurrent state/],
  ['exact mode', 'llama', { exact: true }, /exact mode/],
] as const) {
  test(`${what}: streams are refused with the reason, which the record says, and unified cells go on`, async (t) => {
    const engine = await open(tinyPath(kind), options);
    t.after(() => engine.close());
    assert.match(engine.record.noStreams!, reason);
    const says = new RegExp(`can't be streams .*${reason.source}.* take unified`);
    const point = { site: 'resid_out' as const, layer: 0, tokenIndex: 1 };
    await assertRefused(() => engine.patch([ROW], READING, STREAMS), 'bad_input', says);
    await assertRefused(
      () => engine.capture([{ tokenIds: ROW.tokenIds, points: [point] }], STREAMS),
      'bad_input',
      says,
    );
    await assertRefused(() => engine.tolerance(8, 'streams'), 'bad_input', says);
    await patched(engine, [ROW]);
  });
}

test('a layout that does not exist is refused', async (t) => {
  const engine = await open(tinyPath('llama'));
  t.after(() => engine.close());
  assert.equal(engine.record.noStreams, null);
  const cacheLayout = 'rows' as CacheLayout;
  await assertRefused(
    () => engine.patch([ROW], READING, { cacheLayout }),
    'bad_input',
    /no cache layout 'rows'/,
  );
});

/** Rows of one prompt that all differ, patched at a late position and an early one. */
async function differentRows(engine: Engine, count: number): Promise<PatchRow[]> {
  const target = tokens(engine, TARGET);
  const state = await captured(engine, tokens(engine, SOURCE), [1]);
  return mixedStates(count, state(1, 2), state(1, 5)).map((vector, i) => ({
    tokenIds: target,
    edits: [edit(i % 2, target.length - 2, vector)],
  }));
}

const ofAllKinds = decoderKinds.map((name) => ({
  ...tinyModels[0]!,
  name,
  path: () => tinyPath(name),
}));

for (const model of ofAllKinds) {
  test(`${model.name}: rows in streams say what they say in unified cells, or streams are refused`, {
    skip: model.skip,
  }, async (t) => {
    const engine = await open(model.path());
    t.after(() => engine.close());
    const rows = await differentRows(engine, 6);
    if (engine.record.noStreams !== null) {
      await assertRefused(() => engine.patch(rows, READING, STREAMS), 'bad_input', /recurrent state/);
      return;
    }
    const unified = await patched(engine, rows, { maxTokens: 3 });
    for (const [i, result] of (await engine.patch(rows, { ...READING, maxTokens: 3 }, STREAMS)).entries()) {
      assert.ok(result.status === 'ok', JSON.stringify(result));
      assertClose(result.steps[0]!.logits!, unified[i]!.steps[0]!.logits!, tolerance(model), `row ${i}`);
    }
  });
}

// the rest of the prompt is longer than one token: rows that begin and rows that go on are decoded apart
law(
  'rows that take the places of earlier ones give what each gives alone, in the order given',
  async (engine, model) => {
    const plain = await differentRows(engine, 17);
    const rows = plain.map((row, k) => ({
      ...row,
      continuation: Array.from({ length: 1 + ((k * 5) % 7) }, (_, i) => 3 + k + i),
    }));
    const together = await patched(engine, rows);
    const again = await patched(engine, rows);
    for (const [k, row] of rows.entries()) {
      const [alone] = await patched(engine, [row]);
      assert.equal(together[k]!.steps.length, row.continuation.length);
      for (const [i, { logits }] of together[k]!.steps.entries()) {
        assertSameBits(again[k]!.steps[i]!.logits!, logits!, `row ${k}, token ${i} again`);
        assertClose(logits!, alone!.steps[i]!.logits!, tolerance(model), `row ${k}, token ${i}`);
      }
    }
  },
  { batchRows: 5, models: tinyModels },
);

law(
  'a batch behind another has the bits it has by itself',
  async (engine) => {
    const rows = await differentRows(engine, 12);
    const together = await patched(engine, rows);
    const [first, second] = [rows.slice(0, 6), rows.slice(6)];
    const apart = [...(await patched(engine, first)), ...(await patched(engine, second))];
    for (const [i, { steps }] of together.entries())
      assertSameBits(apart[i]!.steps[0]!.logits!, steps[0]!.logits!, `row ${i}`);
  },
  { batchRows: 6 },
);

test('a decode of streams takes whole neighbours alone, and other shapes are refused', async (t) => {
  const native = await loadNative(tinyPath('llama'));
  const context = await native.createContext({
    cells: 256,
    streams: true,
    batchTokens: 32,
    sequences: 4,
    outputs: 32,
    threads: 1,
    flashAttention: true,
    typeK: 'f16',
    typeV: 'f16',
  });
  t.after(() => {
    context.close();
    native.close();
  });
  const step = (sequences: number[], positions: number[]) => {
    context.clear();
    return context.decode({
      tokens: Int32Array.from(sequences, (sequence, i) => 5 + 10 * sequence + positions[i]!),
      positions: Int32Array.from(positions),
      sequences: Int32Array.from(sequences),
      outputs: new Uint8Array(sequences.length).fill(1),
      captures: [],
      edits: [],
      readings: nativeRead([...sequences.keys()], { logits: true }),
    });
  };
  for (const [sequences, positions] of [
    [
      [0, 2],
      [0, 0],
    ],
    [
      [1, 0],
      [0, 0],
    ],
    [
      [0, 1, 0, 1],
      [0, 0, 1, 1],
    ],
    [
      [0, 0, 1],
      [0, 1, 0],
    ],
    [
      [0, 1, 1],
      [0, 0, 1],
    ],
    [
      [0, 0, 1, 1, 2],
      [0, 1, 0, 1, 0],
    ],
  ] as const) {
    await assert.rejects(step([...sequences], [...positions]), /neighbouring sequences/, sequences.join());
  }
  const { readings } = await step([1, 1, 2, 2, 3, 3], [0, 1, 0, 1, 0, 1]);
  const vocabulary = readings.logits!.length / 6;
  const rowOf = (logits: Float32Array, row: number) => logits.slice(row * vocabulary, (row + 1) * vocabulary);
  for (const sequence of [1, 2, 3]) {
    const alone = await step([sequence, sequence], [0, 1]);
    for (const row of [0, 1]) {
      const together = rowOf(readings.logits!, 2 * (sequence - 1) + row);
      assertClose(together, rowOf(alone.readings.logits!, row), 0.05, `sequence ${sequence}, token ${row}`);
    }
  }
  // the end of the graph knows no streams, and leaves what lies in the cells alone
  const unified = await native.createContext({
    ...{ cells: 256, batchTokens: 32, sequences: 1, outputs: 32, threads: 1 },
    ...{ flashAttention: true, typeK: 'f16', typeV: 'f16' },
  });
  t.after(() => unified.close());
  const states = new Float32Array(5 * native.describe().embeddingSize).map((_, i) => Math.sin(i));
  const [ofStreams, ofCells] = [context, unified].map((one) =>
    one.lens(states, nativeRead([], { logits: true }), 5),
  );
  assertSameBits((await ofStreams)!.logits!, (await ofCells)!.logits!, 'lens');
});

test('the addon refuses streams for a model with a recurrent state', async (t) => {
  const native = await loadNative(tinyPath('mamba'));
  t.after(() => native.close());
  await assert.rejects(
    native.createContext({
      ...{ cells: 256, streams: true, batchTokens: 32, sequences: 4, outputs: 32, threads: 1 },
      ...{ flashAttention: true, typeK: 'f16', typeV: 'f16' },
    }),
    /no streams/,
  );
});

const cut = (
  sequences: readonly number[],
  limits: Partial<BatchLimits> = {},
  outputs: readonly number[] = [],
  joined: readonly number[] = [],
) =>
  cutsOf(
    {
      sequences,
      outputs: sequences.map((_, i) => outputs.includes(i)),
      joined: sequences.map((_, i) => joined.includes(i)),
    },
    { tokens: 100, outputs: 100, layout: 'streams', ...limits },
  );

test('lists are cut where streams are no neighbours, differ in length or exceed the limits', () => {
  assert.deepEqual(cut([]), []);
  assert.deepEqual(cut([0, 1, 2]), [[0, 3]]);
  assert.deepEqual(cut([0, 0, 1, 1]), [[0, 4]]);
  assert.deepEqual(cut([0, 1, 3, 4]), [
    [0, 2],
    [2, 4],
  ]);
  assert.deepEqual(cut([0, 1, 2, 2, 3, 3]), [
    [0, 2],
    [2, 6],
  ]);
  assert.deepEqual(cut([2, 1, 0]), [
    [0, 1],
    [1, 2],
    [2, 3],
  ]);
  const long = [0, 0, 0, 1, 1, 1, 2, 2, 2];
  assert.deepEqual(cut(long, { tokens: 7 }), [
    [0, 6],
    [6, 9],
  ]);
  assert.deepEqual(cut(long, { tokens: 2 }), [
    [0, 2],
    [2, 3],
    [3, 5],
    [5, 6],
    [6, 8],
    [8, 9],
  ]);
  assert.deepEqual(cut(long, { outputs: 1 }, [2, 5, 8]), [
    [0, 3],
    [3, 6],
    [6, 9],
  ]);
  assert.deepEqual(cut(long, { layout: 'unified', tokens: 7 }), [
    [0, 7],
    [7, 9],
  ]);
  assert.deepEqual(cut(long, { layout: 'unified', outputs: 2 }, [2, 5, 8]), [
    [0, 8],
    [8, 9],
  ]);
});

test('what is joined is not cut apart', () => {
  const pairs = [0, 0, 1, 1, 2, 2, 3, 3, 4, 5];
  const joined = [1, 2, 3, 5, 6, 7, 9];
  for (const layout of ['unified', 'streams'] as const) {
    assert.deepEqual(cut(pairs, { layout, tokens: 6 }, [], joined), [
      [0, 4],
      ...(layout === 'unified'
        ? [[4, 10]]
        : [
            [4, 8],
            [8, 10],
          ]),
    ]);
    assert.deepEqual(cut(pairs, { layout, outputs: 3 }, [1, 3, 5, 7, 8, 9], joined), [
      [0, 4],
      [4, 8],
      [8, 10],
    ]);
  }
});
