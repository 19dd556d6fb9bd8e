/** Exact mode is refused, and a tolerance measured, by what rows do to each other: tried with an engine that lets them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Engine, EngineRecord, PatchRow, RowResult } from '../src/engine.js';
import { measureCompany, provePermutable, tolerance } from '../src/llama/company.js';
import { assertRefused, folder, law, open, tinyModels, tinyPath } from './support.js';

process.env.PATCHSCOPES_CACHE = folder();

/** What a row says depends on its place in the list by `leak`. */
function leaking(leak: number, finite = true): Pick<Engine, 'capture' | 'patch' | 'record' | 'tokenizer'> {
  const answer = (row: PatchRow, place: number): RowResult => {
    const logit = row.edits[0]!.vector![0]! + leak * place;
    const top = Array.from({ length: 20 }, (_, tokenId) => ({ tokenId, logprob: -tokenId + logit }));
    const chosen = { ...top[0]!, rank: 0 };
    const step = { top, tracked: [], chosen, logits: Float32Array.of(logit, 0) };
    return { status: 'ok', tokenIds: [0], text: '', steps: [step], positions: [] };
  };
  return {
    record: { layerCount: 4, exact: false, batchRows: 128 } as EngineRecord,
    tokenizer: { tokenize: () => [1, 2, 3, 4, 5, 6] } as Partial<Engine['tokenizer']> as Engine['tokenizer'],
    capture: async () =>
      finite
        ? [{ status: 'ok', states: [Float32Array.of(1, 2), Float32Array.of(3, -1)] }]
        : [{ status: 'failed', code: 'not_finite', error: 'NaN' }],
    patch: async (rows) => rows.map(answer),
  };
}

test('rows that do not depend on their place pass, and their tolerance is 0', async () => {
  await provePermutable(leaking(0));
  assert.equal(await measureCompany(leaking(0), 16, 'unified'), 0);
});

test('rows that depend on their place are refused, and the difference is measured', async () => {
  await assertRefused(
    () => provePermutable(leaking(1e-6)),
    'bad_input',
    /Exact mode does not hold .* of 40 different rows \d+ changed .* leave --exact out/,
  );
  const measured = await measureCompany(leaking(0.01), 16, 'unified');
  assert.ok(Math.abs(measured! - 0.15) < 1e-6, `the first and the last row change places: ${measured}`);
});

test('a model whose own states are NaN has no tolerance and no exact mode', async () => {
  assert.equal(await measureCompany(leaking(0, false), 16, 'unified'), null);
  await assertRefused(() => provePermutable(leaking(0, false)), 'bad_input', /NaN or infinity/);
});

test('a tolerance is measured once for the same model and settings, and never for one row', async () => {
  const kept = new Map<string, number>();
  let reads = 0;
  const place = {
    read: (key: object) => {
      reads++;
      return kept.get(JSON.stringify(key));
    },
    write: (key: object, value: number) => {
      kept.set(JSON.stringify(key), value);
    },
  };
  assert.equal(await tolerance(leaking(0.01), 1, 'unified', place), 0);
  assert.equal(reads, 0);
  const first = await tolerance(leaking(0.01), 8, 'unified', place);
  assert.equal(await tolerance(leaking(1), 8, 'unified', place), first, 'taken from where it is kept');
  const other = leaking(1);
  const record = { ...other.record, threads: 3 };
  assert.notEqual(await tolerance({ ...other, record }, 8, 'unified', place), first, 'other settings');
  assert.notEqual(await tolerance(other, 8, 'streams', place), first, 'another layout');
});

law(
  'the tolerance of a model on this backend is small and the same when it is asked again',
  async (engine) => {
    const measured = await engine.tolerance(20);
    assert.ok(measured !== null && measured >= 0 && measured < 0.05, String(measured));
    assert.equal(await engine.tolerance(20), measured);
  },
  { models: tinyModels },
);

test('exact mode: the tolerance is 0', async (t) => {
  const engine = await open(tinyPath('llama'), { exact: true });
  t.after(() => engine.close());
  assert.equal(await engine.tolerance(100), 0);
});
