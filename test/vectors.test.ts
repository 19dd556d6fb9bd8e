/** Laws of sources without a prompt and of the target's own edits, on a tiny model. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Edit } from '../src/engine.js';
import type { Observation } from '../src/observation.js';
import type { Experiment, OwnEdit, PromptAt, Source, Vector } from '../src/patchscope.js';
import { makePlan, type Plan } from '../src/plan/plan.js';
import { parsePosition, parseSpan } from '../src/positions.js';
import { ChunkRunner, run } from '../src/run.js';
import { openVectors } from '../src/vectors/open-vectors.js';
import { t5 } from './fixtures/architectures/t5.js';
import { scalar, tensor, writeGguf } from './fixtures/gguf.js';
import {
  assertRefused,
  assertSameBits,
  captured,
  nextLogits,
  open,
  patched,
  SOURCE,
  TARGET,
  tinyPath,
  tokens,
  writeFile,
} from './support.js';
import { npyFile, safetensorsFile } from './vector-files.js';

const engine = await open(tinyPath('llama'));
const width = engine.record.embeddingSize;
test.after(() => engine.close());

const at = (text: string, position = '-1'): PromptAt => ({
  prompt: { kind: 'text', text },
  position: parsePosition(position),
});

const source = at(SOURCE);
const target = at(TARGET, 'house');
const other = at('the dog is on the sea');

function experimentOf(of: Source, more: Partial<Experiment> = {}, into: PromptAt = target): Experiment {
  return {
    name: 'vectors',
    samples: [{ name: 'one', source: of, target: into }],
    sourceLayers: 'embed,all',
    targetLayers: 'same',
    mapping: { kind: 'identity' },
    reading: { topK: 3, maxTokens: 3, stop: [], tracked: [5, 9] },
    seed: 3,
    ...more,
  };
}

async function planOf(experiment: Experiment): Promise<Plan> {
  const opened = await openVectors(experiment, { source: engine, target: engine });
  return makePlan(opened, engine.tokenizer, engine.record);
}

async function cellsOf(plan: Plan): Promise<Observation[]> {
  const cells: Observation[] = [];
  for await (const { observations } of run(plan, new ChunkRunner(plan, engine))) cells.push(...observations);
  for (const { status, error } of cells) assert.equal(status, 'ok', `${error}`);
  return cells;
}

/** What was read of each cell, in the order of the plan. */
const readings = async (experiment: Experiment) =>
  (await cellsOf(await planOf(experiment))).map(({ targetLayer, text, steps }) => ({
    targetLayer,
    text,
    steps,
  }));

const vector = (of: Vector): Source => ({ vector: of });
const edited = (...edits: OwnEdit[]): PromptAt => ({ ...target, edits });
const everything = (of: Vector, more: Partial<OwnEdit> = {}): OwnEdit => ({
  at: [parseSpan('all')],
  layers: 'embed',
  op: 'add',
  vector: of,
  ...more,
});
const unpatched = { patch: { op: 'scale' as const }, targetLayers: '0', sourceLayers: '0' };

test('the mean over one prompt is the plain patch', async () => {
  const plain = await readings(experimentOf(source));
  assert.deepEqual(await readings(experimentOf(vector({ kind: 'mean', prompts: [source] }))), plain);
  const two = await readings(experimentOf(vector({ kind: 'mean', prompts: [source, other] })));
  assert.notDeepEqual(two, plain);
});

test('a mean is that of the states, a difference that of the means', async () => {
  const prompts = [source, other, at(TARGET)];
  const states = await Promise.all(
    prompts.map(async ({ prompt }) => {
      const ids = tokens(engine, (prompt as { text: string }).text);
      return (await captured(engine, ids, [1]))(1, ids.length - 1);
    }),
  );
  const meanOf = (rows: Float32Array[]) =>
    Float32Array.from({ length: width }, (_, i) => rows.reduce((sum, row) => sum + row[i]!, 0) / rows.length);
  const file = (values: Float32Array): Vector => ({
    kind: 'file',
    path: writeFile(`mean-${values[0]}.npy`, npyFile([width], values)),
  });
  const layers = { sourceLayers: '1', targetLayers: '1' };
  const same = async (a: Vector, b: Vector) =>
    assert.deepEqual(
      await readings(experimentOf(vector(a), layers)),
      await readings(experimentOf(vector(b), layers)),
    );
  await same({ kind: 'mean', prompts }, file(meanOf(states)));
  const [first, second] = [meanOf(states.slice(0, 2)), states[2]!];
  const [two, one] = [prompts.slice(0, 2), prompts.slice(2)];
  const difference = Float32Array.from({ length: width }, (_, i) => {
    const mean = (states[0]![i]! + states[1]![i]!) / 2;
    return mean - second[i]!;
  });
  assert.equal(first.length, difference.length);
  await same({ kind: 'difference', prompts: two, minus: one }, file(difference));
});

test('the difference of a thing with itself, added, is nothing', async () => {
  const nothing = await readings(experimentOf(source, { patch: { op: 'scale' } }));
  const difference: Vector = { kind: 'difference', prompts: [source, other], minus: [source, other] };
  for (const patch of [{ op: 'add' as const }, { op: 'add' as const, atGenerated: true }])
    assert.deepEqual(await readings(experimentOf(vector(difference), { patch })), nothing);
});

test('zero in the place of a state is the state scaled by nothing', async () => {
  const scaled = await readings(experimentOf(source, { patch: { op: 'scale', alpha: 0 } }));
  assert.deepEqual(await readings(experimentOf(vector({ kind: 'zero' }))), scaled);
});

test('a file that holds a captured state is the plain patch of it, whatever the format', async () => {
  const ids = tokens(engine, SOURCE);
  const state = (await captured(engine, ids, [0]))(0, ids.length - 1);
  const matrix = new Float32Array(3 * width);
  matrix.set(state, width);
  const wide = Float64Array.from(matrix);
  const plain = await readings(experimentOf(source, { sourceLayers: '0', targetLayers: 'all' }));
  const files: Vector[] = [
    { kind: 'file', path: writeFile('state.npy', npyFile([width], state)) },
    { kind: 'file', path: writeFile('rows.npy', npyFile([3, width], matrix)), row: 1 },
    { kind: 'file', path: writeFile('wide.npy', npyFile([3, width], wide)), row: 1 },
    {
      kind: 'file',
      path: writeFile(
        'rows.safetensors',
        safetensorsFile({ 'dec.weight': [[3, width], matrix], other: [[1], new Float32Array(1)] }),
      ),
      tensor: 'dec.weight',
      row: 1,
    },
    { kind: 'file', path: writeFile('one.gguf', controlVector({ 4: state })), tensor: 'direction.4' },
  ];
  for (const file of files) {
    const found = await readings(experimentOf(vector(file), { targetLayers: 'all' }));
    assert.deepEqual(found, plain, JSON.stringify(file));
  }
});

/** A file as llama.cpp's own tools write it. */
function controlVector(directions: Record<number, Float32Array>) {
  return writeGguf({
    metadata: new Map([['general.architecture', scalar('string', 'controlvector')]]),
    tensors: Object.entries(directions).map(([layer, values]) =>
      tensor(`direction.${layer}`, [values.length], values),
    ),
  });
}

test('a control vector adds direction N to the output of block N, as llama.cpp does', async () => {
  const last = engine.record.layerCount - 1;
  const directions = Object.fromEntries(
    Array.from({ length: last }, (_, i) => [
      i + 1,
      Float32Array.from({ length: width }, (_, k) => Math.sin(k * (i + 2))),
    ]),
  );
  const path = writeFile('control.gguf', controlVector(directions));
  const ids = tokens(engine, TARGET);
  const tokenIndex = 7;
  const byHand = await nextLogits(
    engine,
    Object.entries(directions).map(([layer, values]) => ({
      tokenIds: ids,
      edits: [{ site: 'resid_out', layer: Number(layer), tokenIndex, op: 'add', vector: values } as Edit],
    })),
  );
  const plan = await planOf(
    experimentOf(
      vector({ kind: 'file', path }),
      { sourceLayers: `1..${last}`, patch: { op: 'add' }, reading: { topK: 1, maxTokens: 1, stop: [] } },
      at(TARGET, `${tokenIndex}`),
    ),
  );
  const cells = await cellsOf(plan);
  assert.equal(cells.length, last);
  for (const [i, logits] of byHand.entries()) {
    const best = logits.indexOf(Math.max(...logits));
    const total = Math.log(logits.reduce((sum, value) => sum + Math.exp(value), 0));
    const top = cells.find(({ sourceLayer }) => sourceLayer === i + 1)!.steps[0]![0]!;
    assert.equal(top.tokenId, best);
    assert.ok(Math.abs(top.logprob - (logits[best]! - total)) < 1e-5);
  }
});

test('noise without any sigma is nothing', async () => {
  // which also ends the sharing of the prompt's first tokens
  const nothing = { at: [parseSpan('all')], layers: 'embed', op: 'scale' } as const;
  const clean = await readings(experimentOf(source, {}, edited(nothing)));
  const silent = experimentOf(source, {}, edited(everything({ kind: 'noise', sigma: 0, of: 'embed' })));
  assert.deepEqual(await readings(silent), clean);
  const loud = experimentOf(source, {}, edited(everything({ kind: 'noise', sigma: 1, of: 'embed' })));
  assert.notDeepEqual(await readings(loud), clean);
  const open = await readings(experimentOf(source));
  for (const [i, { steps }] of clean.entries()) {
    const [a, b] = [steps[0]![0]!, open[i]!.steps[0]![0]!];
    assert.ok(a.tokenId === b.tokenId && Math.abs(a.logprob - b.logprob) < 0.01);
  }
});

test('the same seed gives the same noise in any order and company, another seed, sample or token another', async () => {
  const noise: Vector = { kind: 'noise', sigma: 2, of: 'embed' };
  const into = edited(everything(noise));
  const samples = ['a', 'b', 'c'].map((name) => ({ name, source, target: into }));
  const experiment = { ...experimentOf(source, unpatched), samples };
  const plan = await planOf(experiment);
  // where the company of a row changes none of its bits
  const exact = await open(tinyPath('llama'), { exact: true });
  const runner = new ChunkRunner(plan, exact);
  const order = [...Array(plan.cellCount).keys()];
  const together = await runner.runCells(order);
  const turned = (await runner.runCells([...order].reverse())).reverse();
  assert.deepEqual(turned, together);
  for (const cell of order) assert.deepEqual((await runner.runCells([cell]))[0], together[cell]);
  assert.equal(new Set(together.map(({ steps }) => JSON.stringify(steps))).size, samples.length);
  const again = await planOf({ ...experiment, seed: 4 });
  assert.notDeepEqual(await new ChunkRunner(again, exact).runCells(order), together);
  await exact.close();
});

test('sigma counts in standard deviations of the embeddings of the target prompts', async () => {
  const experiment = experimentOf(source, {}, edited(everything({ kind: 'noise', sigma: 3, of: 'embed' })));
  const opened = await openVectors(experiment, { source: engine, target: engine });
  const ids = tokens(engine, TARGET);
  const first = ids[0] === engine.tokenizer.bosToken ? 1 : 0;
  const state = await captured(engine, ids, ['embed']);
  const floats = ids.slice(first).flatMap((_, i) => [...state('embed', first + i)]);
  const mean = floats.reduce((sum, value) => sum + value, 0) / floats.length;
  const variance = floats.reduce((sum, value) => sum + (value - mean) ** 2, 0) / floats.length;
  const { vector: measured } = opened.samples[0]!.target.edits![0]!;
  assert.ok(measured?.kind === 'noise' && Math.abs(measured.deviation! / Math.sqrt(variance) - 1) < 1e-5);
});

test('where all embeddings are noise and each is restored, the run is the clean one', async () => {
  const ids = tokens(engine, TARGET);
  const states = await captured(engine, ids, ['embed']);
  const clean = await nextLogits(engine, [{ tokenIds: ids, edits: [] }]);
  const noise: Vector = { kind: 'noise', sigma: 3 };
  const plan = await planOf(experimentOf(source, unpatched, edited(everything(noise))));
  const [cell] = await cellsOf(plan);
  const [top] = (await cellsOf(await planOf(experimentOf(source, unpatched))))[0]!.steps[0]!;
  assert.notDeepEqual(cell!.steps[0]![0], top, 'the noise is heard');
  const noised: Edit[] = ids.map((_, tokenIndex) => ({
    ...{ site: 'embed', layer: 'embed', tokenIndex, op: 'add' },
    vector: Float32Array.from({ length: width }, (_, i) => Math.cos(i + tokenIndex)),
  }));
  const restored: Edit[] = ids.map((_, tokenIndex) => ({
    ...{ site: 'embed', layer: 'embed', tokenIndex },
    vector: states('embed', tokenIndex),
  }));
  const both = await nextLogits(engine, [{ tokenIds: ids, ownEdits: noised, edits: restored }]);
  const whole = await nextLogits(engine, [{ tokenIds: ids, edits: restored }]);
  assertSameBits(both[0]!, whole[0]!, 'own edits first, then the patch');
  const wrong = await nextLogits(engine, [{ tokenIds: ids, ownEdits: restored, edits: noised }]);
  const alone = await nextLogits(engine, [{ tokenIds: ids, edits: noised }]);
  assertSameBits(wrong[0]!, alone[0]!, 'the order counts');
  assert.ok(clean[0]!.every((value, i) => Math.abs(value - whole[0]![i]!) < 0.05));
});

test('a cell that restores the clean embedding where the only noise is gives the clean run', async () => {
  const own: OwnEdit = { ...everything({ kind: 'noise', sigma: 3 }), at: [parseSpan('7')] };
  const [plain, noised] = [at(TARGET, '7'), { ...at(TARGET, '7'), edits: [own] }];
  const layers = { sourceLayers: 'embed', targetLayers: 'embed' };
  const clean = await readings(experimentOf(plain, layers, plain));
  assert.deepEqual(await readings(experimentOf(plain, layers, noised)), clean);
  const patch = { op: 'scale' as const };
  assert.deepEqual(await readings(experimentOf(plain, { ...layers, patch }, plain)), clean);
  assert.notDeepEqual(await readings(experimentOf(plain, { ...layers, patch }, noised)), clean);
});

test('own edits are done in unpatched cells and controls, too, and after the prompt where that is asked for', async () => {
  const own = everything({ kind: 'random', norm: 20 }, { layers: '1', atGenerated: true });
  const controls = { random: 1, unpatched: true };
  const experiment = (into: PromptAt) => experimentOf(source, { ...unpatched, controls }, into);
  const [plain, changed] = [
    await cellsOf(await planOf(experiment(target))),
    await cellsOf(await planOf(experiment(edited(own)))),
  ];
  assert.deepEqual(plain.map(({ control }) => control).sort(), ['none', 'random', 'unpatched']);
  for (const [i, cell] of changed.entries()) assert.notDeepEqual(cell.steps, plain[i]!.steps, cell.control);
  const once = await cellsOf(await planOf(experiment(edited({ ...own, atGenerated: false }))));
  assert.deepEqual(once[0]!.steps[0], changed[0]!.steps[0]);
  assert.notDeepEqual(once[0]!.steps.slice(1), changed[0]!.steps.slice(1));
});

test("a variant without the target's own edits stands beside one that has them", async () => {
  const own = everything({ kind: 'noise', sigma: 3 });
  const experiment = experimentOf(
    source,
    { ...unpatched, variants: [{ name: 'noised' }, { name: 'clean' }] },
    edited(own),
  );
  const samples = experiment.samples.map((sample) => ({ ...sample, variants: { clean: { target } } }));
  const cells = await cellsOf(await planOf({ ...experiment, samples }));
  const [clean] = await cellsOf(await planOf(experimentOf(source, unpatched)));
  const stepsOf = (variant: string) => cells.find((cell) => cell.variant === variant)!.steps;
  assert.deepEqual(stepsOf('clean'), clean!.steps);
  assert.notDeepEqual(stepsOf('noised'), clean!.steps);
});

test('of two edits of one state the own one is done first, whatever their ops and the other rows', async () => {
  const tokenIds = tokens(engine, TARGET);
  const of = (seed: number) => Float32Array.from({ length: width }, (_, i) => Math.sin(seed * (i + 1)));
  const place = { site: 'resid_out', layer: 1, tokenIndex: 5 } as const;
  const [u, w] = [of(1), of(2)];
  const twice = [
    { tokenIds, ownEdits: [{ ...place, op: 'add', vector: u }], edits: [{ ...place, vector: w }] },
    { tokenIds, ownEdits: [{ ...place, vector: u }], edits: [{ ...place, op: 'add', vector: w }] },
    {
      tokenIds,
      ownEdits: [{ ...place, op: 'scale', alpha: 2 }],
      edits: [{ ...place, op: 'scale', alpha: 3 }],
    },
  ] as const;
  const once = [
    { tokenIds, edits: [{ ...place, vector: w }] },
    { tokenIds, edits: [{ ...place, vector: u.map((value, i) => value + w[i]!) }] },
    { tokenIds, edits: [{ ...place, op: 'scale', alpha: 6 }] },
  ] as const;
  const [found, expected] = [await nextLogits(engine, twice), await nextLogits(engine, once)];
  for (const [i, logits] of found.entries()) assertSameBits(logits, expected[i]!, `row ${i}`);
  const always = { ...place, atGenerated: true } as const;
  const reading = { maxTokens: 4 };
  const [both] = await patched(
    engine,
    [{ tokenIds, ownEdits: [{ ...always, op: 'add', vector: u }], edits: [{ ...always, vector: w }] }],
    reading,
  );
  const [alone] = await patched(engine, [{ tokenIds, edits: [{ ...always, vector: w }] }], reading);
  assert.deepEqual(both!.tokenIds, alone!.tokenIds);
  for (const [i, { logits }] of both!.steps.entries())
    assertSameBits(logits!, alone!.steps[i]!.logits!, `step ${i}`);
});

test('two own edits of one state are refused by the engine, as two others are', async () => {
  const tokenIds = tokens(engine, TARGET);
  const one = { site: 'resid_out', layer: 1, tokenIndex: 5, op: 'scale', alpha: 2 } as const;
  for (const row of [{ ownEdits: [one, one], edits: [] }, { edits: [one, one] }])
    await assertRefused(
      () => patched(engine, [{ tokenIds, ...row }]),
      'bad_input',
      /Two edits of one row write/,
    );
});

test('a mean in an own edit is captured where the edit is, by the model of the target', async () => {
  const own = (of: Vector): OwnEdit => ({ at: [parseSpan('3'), parseSpan('6')], layers: '1', vector: of });
  const ids = tokens(engine, SOURCE);
  const state = (await captured(engine, ids, [1]))(1, ids.length - 1);
  const path = writeFile('own.npy', npyFile([width], state));
  const run = (of: Vector) => readings(experimentOf(source, unpatched, edited(own(of))));
  const byMean = await run({ kind: 'mean', prompts: [source] });
  assert.deepEqual(byMean, await run({ kind: 'file', path }));
  assert.notDeepEqual(byMean, await run({ kind: 'mean', prompts: [other] }));
});

test('an encoder has own edits, too', async () => {
  const model = await open(writeFile('t5.gguf', writeGguf(t5())));
  const text = (position: string): PromptAt => at('the cat is on a mat', position);
  const own: OwnEdit = {
    at: [parseSpan('1..2')],
    layers: '0',
    op: 'add',
    vector: { kind: 'random', norm: 9 },
  };
  const textsOf = async (into: PromptAt, targetSide: 'encoder' | 'decoder') => {
    const experiment = experimentOf(text('1'), { ...unpatched, sourceSide: 'encoder', targetSide }, into);
    const plan = makePlan(experiment, model.tokenizer, model.record);
    return (await new ChunkRunner(plan, model).run(0)).map((outcome) =>
      outcome.steps[0]!.map(({ logprob }) => logprob),
    );
  };
  const plain = await textsOf(text('3'), 'encoder');
  assert.notDeepEqual(await textsOf({ ...text('3'), edits: [own] }, 'encoder'), plain);
  await assertRefused(
    () => textsOf({ ...text('3'), edits: [{ ...own, atGenerated: true }] }, 'encoder'),
    'bad_input',
    /An encoder reads no generated tokens/,
  );
  await model.close();
});
