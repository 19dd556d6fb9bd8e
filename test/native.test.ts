/** What the addon promises by itself: planned edits are counted against applied ones, and nothing unchecked reaches llama.cpp. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { loadAddon, type NativeContext, type NativeModel, type NativeStep } from '../src/native.js';
import { nativeRead, nativeReplace } from './support.js';

const world = fileURLToPath(new URL('world/world.gguf', import.meta.url));
const TOKENS = Int32Array.of(1, 579, 640, 363, 287, 340);
const LAST = 5;

async function withContext(
  work: (context: NativeContext, model: NativeModel) => Promise<void>,
  { sequences, outputs } = { sequences: 4, outputs: 8 },
): Promise<void> {
  const model = await loadAddon('cpu').load(world, { gpuLayers: 0, devices: [], splitMode: 'none' });
  const context = await model.createContext({
    cells: 256,
    batchTokens: 32,
    sequences,
    outputs,
    threads: 1,
    flashAttention: true,
    typeK: 'f16',
    typeV: 'f16',
  });
  try {
    await work(context, model);
  } finally {
    context.close();
    model.close();
  }
}

function step(changes: Partial<NativeStep> = {}): NativeStep {
  const n = TOKENS.length;
  return {
    tokens: TOKENS,
    positions: Int32Array.from({ length: n }, (_, i) => i),
    sequences: new Int32Array(n),
    outputs: Uint8Array.from({ length: n }, (_, i) => (i === n - 1 ? 1 : 0)),
    captures: [],
    edits: [],
    readings: nativeRead([n - 1], { topK: 3, logits: true }),
    ...changes,
  };
}

const rows = (...list: number[]) => Int32Array.from(list);
const edit = (layer: number, row: number, vector: Float32Array) => ({
  site: 'resid_out',
  layer,
  rows: rows(row),
  ...nativeReplace(vector, 1),
});

test('a row that the last block does not compute is a counted mismatch, and the next decode is clean', async () => {
  await withContext(async (context) => {
    const clean = await context.decode(step());
    context.clear();
    // the last block keeps only rows whose logits are asked for: token 2 is not among them
    await assert.rejects(context.decode(step({ edits: [edit(LAST, 2, new Float32Array(128))] })), {
      code: 'edit_mismatch',
      message: /no row for token 2/,
    });
    context.clear();
    await assert.rejects(
      context.decode(step({ captures: [{ site: 'resid_out', layer: LAST, rows: rows(0, 5) }] })),
      { code: 'edit_mismatch' },
    );
    context.clear();
    assert.deepEqual((await context.decode(step())).readings.logits, clean.readings.logits);
  });
});

test('what is read at a place that was written is what was written', async () => {
  await withContext(async (context) => {
    const vector = Float32Array.from({ length: 128 }, (_, i) => Math.sin(i));
    for (const layer of [0, 3, LAST]) {
      context.clear();
      const row = TOKENS.length - 1;
      const { captures } = await context.decode(
        step({
          edits: [edit(layer, row, vector)],
          captures: [{ site: 'resid_out', layer, rows: rows(row) }],
        }),
      );
      assert.deepEqual(captures[0]!.states, vector);
    }
  });
});

test('a decode that llama.cpp would end the process for is refused', async () => {
  await withContext(async (context) => {
    const many = Int32Array.from({ length: 33 }, () => 1);
    const wrong: [string, Partial<NativeStep>, RegExp][] = [
      [
        'more tokens than the batch holds',
        { tokens: many, positions: many, sequences: many, outputs: new Uint8Array(33) },
        /1 to 32 tokens/,
      ],
      ['no tokens', { tokens: rows() }, /1 to 32 tokens/],
      ['lists of different lengths', { positions: rows(0) }, /one length/],
      ['a token outside the vocabulary', { tokens: rows(1, 2, 3, 4, 5, 999999) }, /outside the vocabulary/],
      ['a negative token', { tokens: rows(1, 2, 3, 4, 5, -1) }, /outside the vocabulary/],
      ['a position that does not follow', { positions: rows(0, 1, 2, 3, 4, 7) }, /does not follow/],
      ['a sequence that is not there', { sequences: rows(0, 0, 0, 0, 0, 4) }, /Sequence 4/],
      ['more outputs than there is memory for', {}, /at most 8/],
      ['a layer that is not there', { edits: [edit(6, 0, new Float32Array(128))] }, /Layer 6/],
      ['a row that is not there', { edits: [edit(0, 6, new Float32Array(128))] }, /Row 6/],
      ['a vector of the wrong width', { edits: [edit(0, 0, new Float32Array(64))] }, /width 128/],
      ['a vector with NaN', { edits: [edit(0, 0, new Float32Array(128).fill(Number.NaN))] }, /NaN/],
      ['logits that were not asked for', { outputs: new Uint8Array(6) }, /were not asked for/],
    ];
    for (const [name, changes, message] of wrong) {
      const asked =
        name === 'more outputs than there is memory for'
          ? {
              tokens: new Int32Array(9).fill(1),
              positions: Int32Array.from({ length: 9 }, (_, i) => i),
              sequences: new Int32Array(9),
              outputs: new Uint8Array(9).fill(1),
            }
          : changes;
      await assert.rejects(context.decode(step(asked)), { message }, name);
    }
    const { readings } = await context.decode(step());
    assert.equal(readings.finite[0], 1);
  });
});

test('a context does one thing at a time and says so', async () => {
  await withContext(async (context) => {
    const first = context.decode(step());
    assert.throws(() => context.decode(step()), { code: 'busy' });
    assert.throws(() => context.clear(), { code: 'busy' });
    await first;
    context.clear();
  });
});

test('a context may have more sequences than outputs', async () => {
  await withContext(
    async (context) => {
      const { readings } = await context.decode(step());
      assert.equal(readings.finite[0], 1);
    },
    { sequences: 16, outputs: 1 },
  );
});
