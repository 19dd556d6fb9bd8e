/** The built-in experiments with vectors: each runs as it is, on a tiny model, and on one whose answers are known. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Engine } from '../src/engine.js';
import { readExperiment } from '../src/experiment-file/read-experiment.js';
import type { Observation } from '../src/observation.js';
import { makePlan } from '../src/plan/plan.js';
import { ChunkRunner, run } from '../src/run.js';
import { openVectors } from '../src/vectors/open-vectors.js';
import { captured, open, tinyPath, tokens, writeFile } from './support.js';
import { npyFile } from './vector-files.js';

const tiny = await open(tinyPath('llama'));
const world = await open(fileURLToPath(new URL('world/world.gguf', import.meta.url)));
test.after(async () => {
  await tiny.close();
  await world.close();
});

async function cellsOf(engine: Engine, name: string, set: string[], limit = 1): Promise<Observation[]> {
  const { experiment } = readExperiment(name, { set, limit });
  const opened = await openVectors(experiment, { source: engine, target: engine });
  const plan = makePlan(opened, engine.tokenizer, engine.record);
  const cells: Observation[] = [];
  for await (const { observations } of run(plan, new ChunkRunner(plan, engine))) cells.push(...observations);
  for (const { status, error } of cells) assert.equal(status, 'ok', `${error}`);
  return cells;
}

const paul = 'samples=[{ subject: paul quill, prompt: the city of paul quill is, answer: bergen }]';
/** The known-answers model has no answer with a blank before it. */
const worldAnswer = 'answer="{answer}"';

test('causal tracing finds where a fact is: the state of a name brings it back until it has been read', async () => {
  const cells = await cellsOf(world, 'causal-tracing', [
    ...[paul, worldAnswer],
    'source.position="{subject}"',
    'draws=1',
  ]);
  const of = (variant: string, control: string, layer: number | null) =>
    cells.find((cell) => cell.variant === variant && cell.control === control && cell.targetLayer === layer)!
      .scores['answer-logprob']!;
  const clean = of('clean', 'none', 0);
  const corrupted = of('state', 'unpatched', null);
  assert.ok(clean > -0.5, `clean ${clean}`);
  assert.ok(corrupted < clean - 2, `corrupted ${corrupted}`);
  assert.ok(of('state', 'none', 1) > -0.5, `restored ${of('state', 'none', 1)}`);
  const last = world.record.layerCount - 1;
  assert.ok(Math.abs(of('state', 'none', last) - corrupted) < 0.05, 'behind the last block nobody looks');
  const unpatched = cells.filter(({ control }) => control === 'unpatched');
  const noised = unpatched
    .filter(({ variant }) => variant !== 'clean')
    .map(({ scores }) => scores['answer-logprob']!);
  assert.ok(Math.max(...noised) - Math.min(...noised) < 0.01, 'the same noise in all variants');
});

test('mean ablation of a name takes its fact away, that of nothing leaves it', async () => {
  const prompts =
    'source.vector={ mean: [the city of ulrich kern, the city of marta north, the city of irma abel] }';
  const set = [
    paul.replace('subject: paul quill, ', ''),
    worldAnswer,
    prompts,
    'target.position=quill',
    'variants=[{ name: mean }, { name: own, source: { vector: { mean: [the city of paul quill] } } }]',
  ];
  const cells = await cellsOf(world, 'mean-ablation', [...set, 'source.layers=0..2']);
  for (const layer of [0, 1, 2]) {
    const of = (variant: string) =>
      cells.find((cell) => cell.variant === variant && cell.targetLayer === layer)!.scores['answer-logprob']!;
    assert.ok(of('own') > -0.5, `own at ${layer}: ${of('own')}`);
    assert.ok(layer > 0 || of('mean') < of('own') - 1, `mean at ${layer}: ${of('mean')}`);
  }
});

test('a vector of a file explains itself at the right scale', async () => {
  const ids = tokens(world, 'i saw paul quill');
  const state = (await captured(world, ids, [0]))(0, ids.length - 1);
  const file = writeFile('names.npy', npyFile([1, state.length], state));
  const cells = await cellsOf(world, 'vector-self-explanation', [
    `source.vector.file=${file}`,
    'samples=[{ feature: 0, word: bergen, says: bergen }]',
    'target={ prompt: the city of x is, position: x, layers: [embed, 0] }',
    'variants=[{ name: one }, { name: none, edit: { alpha: 0 } }]',
    'reading={ tokens: 1 }',
    'metrics=[answer-rank]',
  ]);
  const ranks = (variant: string) =>
    cells
      .filter((cell) => cell.variant === variant && cell.control === 'none')
      .map(({ scores }) => scores['answer-rank']);
  assert.deepEqual(ranks('one'), [0, 0]);
  assert.ok(ranks('none').every((rank) => rank! > 0));
});

test('steering goes as far as its scale, and is nothing at none', async () => {
  const variants = 'variants=[{ name: none, edit: { alpha: 0 } }, { name: some, edit: { alpha: 4 } }]';
  const cells = await cellsOf(tiny, 'steering', ['source.layers=0..1', variants, 'reading.tokens=4']);
  const of = (variant: string, control = 'none') =>
    cells.filter((cell) => cell.variant === variant && cell.control === control).map(({ steps }) => steps);
  assert.deepEqual(
    of('none'),
    [0, 1].map(() => of('none', 'unpatched')[0]!),
  );
  for (const steps of of('some')) assert.notDeepEqual(steps, of('none')[0]);
});

for (const [name, set] of [
  ['causal-tracing', []],
  ['steering', ['source.layers=0..2', 'reading.tokens=3']],
  ['mean-ablation', []],
  ['languages', []],
  ['vector-self-explanation', ['target.layers=[embed, 0]']],
] as const) {
  test(`${name} runs as it is, but for layers the model lacks`, async () => {
    const width = tiny.record.embeddingSize;
    const own = npyFile([6, width], new Float32Array(6 * width).fill(0.5));
    const file =
      name === 'vector-self-explanation' ? [`source.vector.file=${writeFile('own.npy', own)}`] : [];
    const cells = await cellsOf(tiny, name, [...set, ...file], 2);
    assert.ok(cells.length > 0);
    assert.equal(new Set(cells.map(({ sample }) => sample)).size, 2);
  });
}
