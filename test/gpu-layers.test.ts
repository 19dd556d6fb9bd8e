/** `-ngl` and `-sm`: which blocks go to which devices, what is refused, and that states are found on any device. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { checkSplitMode } from '../src/devices.js';
import { type EstimateTask, estimateNeeds } from '../src/gpu-layers/estimate.js';
import { layersThatFit } from '../src/gpu-layers/fit.js';
import { ALL_LAYERS, type LayerOptions, resolveGpuLayers } from '../src/gpu-layers/resolve.js';
import { assertClose, assertRefused, assertSentence, largestDifference, runChild } from './support.js';

const world = fileURLToPath(new URL('world/world.gguf', import.meta.url));
const worldLayers = 6;

const task: EstimateTask = {
  path: world,
  cells: 1024,
  cacheBytes: 2 ** 31,
  batchTokens: 512,
  flashAttention: true,
  typeK: 'f16',
  typeV: 'f16',
};

/** Ten blocks and the output, a gigabyte each. */
const needs = Array.from({ length: 12 }, (_, layers) => layers * 1e9);

test('as many blocks fit a device as its free memory holds, with a tenth to spare', () => {
  assert.equal(layersThatFit(needs, [20e9]), 11);
  assert.equal(layersThatFit(needs, [12.3e9]), 11);
  assert.equal(layersThatFit(needs, [12.1e9]), 10);
  assert.equal(layersThatFit(needs, [5e9]), 4);
  assert.equal(layersThatFit(needs, [1e9]), 0);
  assert.equal(layersThatFit(needs, [0]), 0);
});

test('every one of several devices has room for its share and one block more', () => {
  for (const free of [
    [6e9, 6e9],
    [12e9, 4e9],
    [3e9, 3e9, 9e9],
  ]) {
    const layers = layersThatFit(needs, free);
    const total = free.reduce((sum, bytes) => sum + bytes, 0);
    const roomy = (n: number) => free.every((bytes) => (needs[n]! * bytes) / total + 1e9 <= 0.9 * bytes);
    assert.ok(layers > 0 && layers < 11 && roomy(layers) && !roomy(layers + 1), `${free}: ${layers}`);
  }
  assert.ok(layersThatFit(needs, [6e9, 6e9]) > layersThatFit(needs, [6e9]));
});

/** Says what was noted, and fails if an estimate is made that none is wanted of. */
async function resolved(options: Partial<LayerOptions>): Promise<{ layers: number; notes: string[] }> {
  const notes: string[] = [];
  const layers = await resolveGpuLayers({
    asked: 'auto',
    freeBytes: [8e9],
    gpusAreOff: false,
    task,
    onNote: (line) => notes.push(line),
    estimate: () => assert.fail('an estimate was made'),
    ...options,
  });
  return { layers, notes };
}

test('nothing is estimated without a GPU, or where the number is given', async () => {
  assert.deepEqual(await resolved({ freeBytes: [] }), { layers: 0, notes: [] });
  assert.deepEqual(await resolved({ freeBytes: [], asked: 0 }), { layers: 0, notes: [] });
  assert.deepEqual(await resolved({ asked: 0 }), { layers: 0, notes: [] });
  assert.deepEqual(await resolved({ asked: 7 }), { layers: 7, notes: [] });
  assert.deepEqual(await resolved({ asked: 'all' }), { layers: ALL_LAYERS, notes: [] });
});

test('auto takes what fits, and says so where that is not all', async () => {
  const estimate = async () => needs;
  assert.deepEqual(await resolved({ estimate, freeBytes: [20e9] }), { layers: 11, notes: [] });
  const { layers, notes } = await resolved({ estimate, freeBytes: [5e9] });
  assert.equal(layers, 4);
  assert.match(notes.join('\n'), /^-ngl auto is 4 of 11: all would need 11\.0 GB where the GPU has 5\.0 GB/);
  assertSentence(notes[0]!);
});

test('where no estimate can be had all blocks go to the GPU, with a note', async () => {
  const { layers, notes } = await resolved({ estimate: () => Promise.reject(new Error('it broke.')) });
  assert.equal(layers, ALL_LAYERS);
  assert.match(notes.join('\n'), /could not be estimated \(it broke\)/);
  assertSentence(notes[0]!);
});

test('blocks for a GPU that is not there are refused', async () => {
  await assertRefused(
    () => resolved({ asked: 3, freeBytes: [] }),
    'no_device',
    /-ngl 3 .*none was found.*-ngl 0/,
  );
  await assertRefused(
    () => resolved({ asked: 'all', freeBytes: [], gpusAreOff: true }),
    'no_device',
    /-ngl all .*--gpu is off/,
  );
});

test('the estimate of a file: one need for each number of blocks, growing with blocks, cells and K/V type', async () => {
  const plain = await estimateNeeds(task);
  assert.equal(plain.length, worldLayers + 2);
  assert.equal(plain[0], 0);
  for (let i = 1; i < plain.length; i++) assert.ok(plain[i]! > plain[i - 1]!, `${i}: ${plain}`);
  const last = plain.length - 1;
  assert.ok(plain[last]! > 1e6 && plain[last]! < 1e9, String(plain[last]));
  const large = await estimateNeeds({ ...task, cells: 65536 });
  assert.ok(large[last]! > plain[last]!);
  const bounded = await estimateNeeds({ ...task, cells: 65536, cacheBytes: 1 });
  assert.ok(Math.abs(bounded[last]! - plain[last]!) < 1, 'the cache is bounded by its bytes');
  const fine = await estimateNeeds({ ...task, cells: 65536, typeK: 'f32', typeV: 'f32' });
  assert.ok(fine[last]! > large[last]!);
});

test('what can not be estimated is one reason', async () => {
  await assert.rejects(estimateNeeds({ ...task, typeK: 'f17' }), /no K\/V type f17/);
  const { NODE_OPTIONS } = process.env;
  process.env.NODE_OPTIONS = '--no-such-flag';
  const dies = estimateNeeds(task);
  if (NODE_OPTIONS === undefined) delete process.env.NODE_OPTIONS;
  else process.env.NODE_OPTIONS = NODE_OPTIONS;
  await assert.rejects(dies, /--no-such-flag/);
});

test('split modes in which a state can not be read are refused with the reason', async () => {
  assert.equal(checkSplitMode('none'), 'none');
  assert.equal(checkSplitMode('layer'), 'layer');
  await assertRefused(() => checkSplitMode('row'), 'bad_input', /-sm row cuts hidden states/);
  await assertRefused(() => checkSplitMode('tensor'), 'bad_input', /-sm tensor cuts hidden states/);
  await assertRefused(() => checkSplitMode('both'), 'bad_input', /-sm is 'both' where one of none, layer/);
});

/** Patches every layer of one prompt into another, with some of the blocks on a Vulkan device (Mesa's in software will do). */
const patchEverywhere = `
  process.env.GGML_VK_VISIBLE_DEVICES ??= '0';
  const layers = ['embed', 0, 1, 2, 3, 4, 5];
  const point = (layer, tokenIndex) => ({ site: layer === 'embed' ? 'embed' : 'resid_out', layer, tokenIndex });
  for (const gpuLayers of [0, 1, 2, 4, 'all']) {
    const engine = await open(${JSON.stringify(world)}, { gpu: 'vulkan', gpuLayers, typeK: 'f32', typeV: 'f32' })
      .catch((error) => { console.log(JSON.stringify({ refused: error.message })); process.exit(); });
    const ids = (text) => engine.tokenizer.tokenize(text, { bos: true, special: false });
    const [source, target] = [ids('i saw paul quill'), ids('the city of x is')];
    const at = target.length - 2;
    const [{ states }] = await engine.capture([
      { tokenIds: source, points: layers.map((layer) => point(layer, source.length - 1)) },
    ]);
    const edits = layers.map((layer, i) => [{ ...point(layer, at), vector: states[i] }]);
    const rows = await engine.patch(
      [[], ...edits].map((edits) => ({ tokenIds: target, edits })),
      { topK: 1, maxTokens: 1, logits: true },
    );
    console.log(JSON.stringify({
      gpuLayers: engine.record.gpuLayers,
      devices: engine.record.devices.length,
      logits: rows.map(({ steps }) => [...steps[0].logits]),
    }));
    await engine.close();
  }
`;

test('patched runs give the same with any number of blocks on a GPU device', async (t) => {
  const { code, stdout, stderr } = await runChild(patchEverywhere, { limit: 400_000 }); // a driver in software compiles shaders for minutes
  assert.equal(code, 0, stderr);
  const [reference, ...others] = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  if (reference.refused) return t.skip(`not run: ${reference.refused}`);
  assert.equal(reference.devices, 1);
  assert.deepEqual(
    others.map(({ gpuLayers, devices }) => [gpuLayers, devices]),
    [
      [1, 2],
      [2, 2],
      [4, 2],
      [worldLayers + 1, 2],
    ],
  );
  const [plain, ...edited] = reference.logits.map((row: number[]) => Float32Array.from(row));
  // what is written after the last layer that looks back changes nothing
  for (const row of edited.slice(0, 3))
    assert.ok(largestDifference(row, plain) > 0.5, 'the patch makes a difference');
  for (const { gpuLayers, logits } of others) {
    for (const [i, row] of reference.logits.entries()) {
      const where = `${gpuLayers} blocks on the device, row ${i}`;
      assertClose(Float32Array.from(logits[i]), Float32Array.from(row), 0.05, where);
    }
  }
});

for (const [option, value, says] of [
  ['-ngl', 'some', /-ngl is 'some' where auto, all or a whole number/],
  ['-ngl', '-1', /-ngl is '-1'/],
  ['-ngl', '1.5', /-ngl is '1\.5'/],
  ['-sm', 'row', /-sm row cuts/],
  ['--split-mode', 'x', /-sm is 'x'/],
] as const) {
  test(`${option} ${value} is one sentence and exit code 2`, () => {
    const command = fileURLToPath(new URL('../dist/cli.js', import.meta.url));
    const { status, stderr, stdout } = spawnSync(
      process.execPath,
      [command, 'lens', '-m', world, '-t', '1', '--prompt', 'x', '--no-db', option, value],
      { encoding: 'utf8' },
    );
    assert.equal(status, 2, stderr);
    assert.equal(stdout, '');
    assert.match(stderr, says);
    assertSentence(stderr.trim());
  });
}
