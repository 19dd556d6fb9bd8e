/** Every architecture: a state written back where it was read changes nothing, in attention's memory or in a recurrent one. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import type { Layer } from '../src/patchscope.js';
import { type ArchitectureReport, examine, type Refusal } from './architecture-report.js';
import { architectureTable } from './architecture-table.js';
import { loadNative } from './device.js';
import { badKinds, decoderKinds, type ModelKind } from './fixtures/models.js';
import {
  assertSameBits,
  assertSentence,
  captured,
  edit,
  largestDifference,
  logitsEverywhere,
  nextLogits,
  open,
  patched,
  sameBits,
  tinyPath,
} from './support.js';

const TARGET = [5, 90, 70, 71, 72, 95, 80, 81];
const SOURCE = [6, 91, 73, 74, 75, 96];

const reports: (ArchitectureReport | Refusal)[] = [];

for (const kind of decoderKinds) {
  test(`${kind}: at each of its sites, its own state changes no bit and another one something`, async () => {
    const report = await examine(kind);
    reports.push(report);
    assert.ok('sites' in report, JSON.stringify(report));
    assert.equal(report.ownState, 0);
    assert.deepEqual(report.deaf, []);
  });

  test(`${kind}: the engine patches a state into its own place without changing a bit`, async (t) => {
    const engine = await open(tinyPath(kind));
    t.after(() => engine.close());
    const layers: Layer[] = ['embed', 0, engine.record.layerCount - 1];
    const state = await captured(engine, TARGET, layers);
    const unpatched = await logitsEverywhere(engine, TARGET);
    for (const layer of layers) {
      for (const at of [0, 3, TARGET.length - 1]) {
        const own = await logitsEverywhere(engine, TARGET, [edit(layer, at, state(layer, at))]);
        for (const [i, logits] of own.entries()) {
          assertSameBits(logits, unpatched[i]!, `layer ${layer}, token ${at}, read at ${i}`);
        }
      }
    }
  });
}

for (const kind of badKinds) {
  test(`${kind}: it is refused with a reason`, async () => {
    const report = await examine(kind);
    reports.push(report);
    assert.ok('refused' in report, 'it was opened');
    assertSentence(report.refused);
  });
}

test('the README shows what was found', () => {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
  assert.ok(
    readme.includes(architectureTable(reports)),
    'it is stale: npm run architectures prints the table',
  );
});

const recurrent: readonly ModelKind[] = [
  'mamba',
  'mamba2',
  'rwkv6',
  'rwkv7',
  'jamba',
  'falcon-h1',
  'lfm2',
  'granitehybrid',
  'qwen3next',
];

for (const kind of recurrent) {
  test(`${kind}: a patch lives on in the state, in what comes later and in nothing before`, async (t) => {
    const engine = await open(tinyPath(kind));
    t.after(() => engine.close());
    const foreign = (await captured(engine, SOURCE, [0]))(0, 3);
    const unpatched = await logitsEverywhere(engine, TARGET);
    const at = 3;
    const after = await logitsEverywhere(engine, TARGET, [edit(0, at, foreign)]);
    for (const [i, logits] of after.entries()) {
      if (i < at) assertSameBits(logits, unpatched[i]!, `read at ${i}`);
      else assert.ok(largestDifference(logits, unpatched[i]!) > 1e-3, `read at ${i}: nothing changed`);
    }
  });

  test(`${kind}: rows that go on from a shared prefix keep what they were patched with while they generate`, async (t) => {
    const engine = await open(tinyPath(kind));
    t.after(() => engine.close());
    const at = 4;
    const states = await captured(engine, SOURCE, [0]);
    const own = await captured(engine, TARGET, [0]);
    const rows = [
      { tokenIds: TARGET, edits: [] },
      { tokenIds: TARGET, edits: [edit(0, at, states(0, 2))] },
      { tokenIds: TARGET, edits: [edit(0, at, states(0, 4))] },
      { tokenIds: TARGET, edits: [edit(0, at, own(0, at))] },
    ];
    const generate = { maxTokens: 4 };
    const together = await patched(engine, rows, generate);
    const logits = (row: number, step: number) => together[row]!.steps[step]!.logits!;
    const steps = Math.min(...together.map((row) => row.steps.length)); // a row may end by itself
    assert.ok(steps >= 2, `${steps} steps`);
    for (let step = 0; step < steps; step++) {
      for (const row of [1, 2]) {
        assert.ok(!sameBits(logits(row, step), logits(0, step)), `row ${row}, step ${step}: nothing changed`);
      }
      assert.ok(!sameBits(logits(1, step), logits(2, step)), `step ${step}: the rows have one state`);
    }
    // its own state was captured in a decode of another shape, which rounds differently
    assert.ok(largestDifference(logits(3, 0), logits(0, 0)) < 1e-3, 'its own state');
    for (const [row, one] of rows.entries()) {
      const [alone] = await patched(engine, [one], generate);
      const difference = largestDifference(alone!.steps[0]!.logits!, logits(row, 0));
      assert.ok(difference < 1e-3, `row ${row} alone: ${difference}`);
    }
    const [whole] = await nextLogits(engine, [rows[1]!]);
    const everywhere = await logitsEverywhere(engine, TARGET, rows[1]!.edits);
    const difference = largestDifference(whole!, everywhere.at(-1)!);
    assert.ok(difference < 1e-3, `behind a prefix and in one decode: ${difference}`);
  });
}

test('the models that carry a recurrent state are those that llama.cpp says do', async () => {
  const found: ModelKind[] = [];
  for (const kind of decoderKinds) {
    const model = await loadNative(tinyPath(kind));
    if (model.describe().isRecurrent) found.push(kind);
    model.close();
  }
  assert.deepEqual(found, recurrent);
});
