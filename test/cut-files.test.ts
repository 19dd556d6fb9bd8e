/** Cut attention in an experiment file: what it means, what is kept of it, what is refused. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { AttentionCut } from '../src/engine.js';
import { readExperiment } from '../src/experiment-file/read-experiment.js';
import type { Layer } from '../src/patchscope.js';
import { cutsAt } from '../src/plan/cuts.js';
import { cellAt, makePlan, type Plan } from '../src/plan/plan.js';
import { parseSpan, resolveSpan } from '../src/positions.js';
import { recordRun, runHeader } from '../src/record-run.js';
import { ChunkRunner, run } from '../src/run.js';
import { query } from '../src/store/query.js';
import { openStore } from '../src/store/store.js';
import { folder, tinyPath } from './fixtures/disk.js';
import { assertBadInput, open } from './support.js';

const world = fileURLToPath(new URL('world/world.gguf', import.meta.url));
const engine = await open(world);

function experimentOf(cut: string, variants = '') {
  const path = join(folder(), 'cuts.yaml');
  const text = `name: cuts
samples: [{ person: paul quill, answer: bergen }]
answer: "{answer}"
source: { prompt: "i saw {person}", layers: 0 }
target: { prompt: "the city of {person} is", position: "{person}", layers: 0, cut: ${cut} }
edit: { op: scale }
${variants}
reading: { top: 1, tokens: 2 }
`;
  writeFileSync(path, text);
  return readExperiment(path).experiment;
}

const planOf = (cut: string, variants?: string) =>
  makePlan(experimentOf(cut, variants), engine.tokenizer, engine.record);

const variantsKept = (plan: Plan) => runHeader(plan, { command: '', experimentSource: '' }).contents.variants;

test('tokens are meant by index, range, text or all of them', () => {
  const tokens = ['', 'the ', 'ci', 'ty', ' of', ' of'].map((text) => Buffer.from(text));
  const span = (typed: string) => resolveSpan(parseSpan(typed), tokens, 'target');
  assert.deepEqual(span('all'), [0, 1, 2, 3, 4, 5]);
  assert.deepEqual(span('-2'), [4]);
  assert.deepEqual(span('1..-3'), [1, 2, 3]);
  assert.deepEqual(span('city'), [2, 3]);
  assert.deepEqual(span('e ci'), [1, 2]);
  assert.deepEqual(span('of#2'), [5]);
  assertBadInput(() => span('of'), /occurs 2 times/);
  assertBadInput(() => span('-1..1'), /5 to 1: begin with the earlier one/);
  assertBadInput(() => span('6'), /outside the target prompt/);
  assertBadInput(() => span('land'), /does not occur/);
});

test('a cut is resolved for each sample, is part of the plan and is kept with the variant', () => {
  const plan = planOf('[{ from: is, to: ["{person}", 1..2], layers: [0, 2..3], at-generated: true }]');
  const cuts = [{ from: [6], to: [4, 5, 1, 2], layers: [0, 2, 3], atGenerated: true }];
  assert.deepEqual(plan.pairs[0]!.cuts, cuts);
  assert.deepEqual(variantsKept(plan)[0]!.cuts, cuts);
  const uncut = planOf('[]');
  assert.equal(uncut.pairs[0]!.cuts, undefined);
  assert.equal(variantsKept(uncut)[0]!.cuts, undefined);
  assert.notEqual(plan.sha256, uncut.sha256);
});

test('a variant has its own cuts, or none', () => {
  const { pairs } = planOf(
    '[{ from: -1, to: 0 }]',
    'variants: [{ name: a }, { name: b, target: { cut: [] } }, { name: c, target: { cut: [{ from: 3, to: 1, layers: -1 }] } }]',
  );
  assert.deepEqual(
    pairs.map(({ cuts = [] }) => cuts.map(({ from, to, layers }) => [from, to, layers])),
    [[[[6], [0], [0, 1, 2, 3, 4, 5]]], [], [[[3], [1], [5]]]],
  );
});

test('the known-answers model no longer knows whose city it is once the name is cut off', async () => {
  const variants = `variants:
  - { name: plain, target: { cut: [] } }
  - { name: place, target: { cut: [{ from: is, to: the }] } }
  - { name: name }`;
  const plan = planOf('[{ from: is, to: "{person}" }]', variants);
  const texts: Record<string, string> = {};
  for await (const { observations } of run(plan, new ChunkRunner(plan, engine)))
    for (const { variant, text } of observations) texts[variant] = text!;
  assert.match(texts.plain!, /bergen/);
  assert.match(texts.place!, /bergen/);
  assert.doesNotMatch(texts.name!, /bergen/);
});

test('a cut that can not be made is refused before anything is run', () => {
  assertBadInput(() => planOf('[{ from: 1, to: 2 }]'), /has no edge/);
  assertBadInput(() => planOf('[{ from: 3, to: paula }]'), /does not occur/);
  assertBadInput(() => planOf('[{ from: 3, to: 1, layers: 6 }]'), /6/);
  assertBadInput(() => planOf('[{ from: 3, to: 1, layers: embed }]'), /no attention to cut/);
  assertBadInput(() => experimentOf('[{ from: 3 }]'), /cut\[0\]/);
  assertBadInput(() => experimentOf('[{ from: 3, to: [] }]'), /cut\[0\]\.to/);
});

test.after(() => engine.close());

test('a window of layers follows the layer of the cell, and is cut where the model ends', () => {
  const cuts = [{ from: [4], to: [1], layers: { around: 3 } }];
  const at = (layer: Layer | undefined, around = 3) =>
    cutsAt(
      [
        { ...cuts[0]!, layers: { around } },
        { ...cuts[0]!, layers: [2] },
      ],
      layer,
      6,
    ).map(({ layers }) => layers);
  assert.deepEqual(at(0), [[0, 1], [2]]);
  assert.deepEqual(at(3), [[2, 3, 4], [2]]);
  assert.deepEqual(at(5), [[4, 5], [2]]);
  assert.deepEqual(at(3, 1), [[3], [2]]);
  assert.deepEqual(at(3, 4), [[2, 3, 4, 5], [2]]);
  assert.deepEqual(at(3, 99), [[0, 1, 2, 3, 4, 5], [2]]);
  assert.deepEqual(at(undefined), [[2]]);
  assertBadInput(
    () => experimentOf('[{ from: is, to: 1, layers: { around: 0 } }]'),
    /a whole number of at least 1/,
  );
  const embed = 'variants: [{ name: early, target: { layers: [embed, 1] } }]';
  assertBadInput(
    () => planOf('[{ from: is, to: 1, layers: { around: 3 } }]', embed),
    /'early' cuts attention .* embed is no block/,
  );
});

test('each cell of a sweep of windows is the prompt with its own layers cut, told beside the prompt as it is', async () => {
  const variants = `variants:
  - { name: person, target: { layers: all } }
  - { name: nothing, target: { layers: all, cut: [] } }
controls: { unpatched: true }
metrics: [answer-probability]`;
  const experiment = experimentOf('[{ from: is, to: "{person}", layers: { around: 3 } }]', variants);
  const plan = makePlan(experiment, engine.tokenizer, engine.record);
  const path = join(folder(), 'windows.db');
  const recorded = { record: engine.record, tolerance: async () => 0 };
  const results = run(plan, new ChunkRunner(plan, engine));
  for await (const _ of recordRun(results, runHeader(plan, { command: '' }), recorded, () =>
    openStore(path),
  ));
  const { target, trackedTokens, cuts } = plan.pairs[0]!;
  const probability = async (own: AttentionCut[]) => {
    const rows = [{ tokenIds: target.tokenIds, edits: [], cuts: own, trackedTokens }];
    const [row] = await engine.patch(rows, { topK: 1, maxTokens: 1 });
    assert.ok(row?.status === 'ok');
    return Math.exp(row.steps[0]!.tracked.reduce((a, b) => (a.rank < b.rank ? a : b)).logprob);
  };
  const plain = await probability([]);
  const { from, to } = cuts![0]!;
  for (let layer = 0; layer < engine.record.layerCount; layer++) {
    const layers = [layer - 1, layer, layer + 1].filter((l) => l >= 0 && l < engine.record.layerCount);
    const cut = await probability([{ from, to, layers }]);
    const changes = query(
      path,
      `SELECT variant, value FROM effect WHERE name = 'answer-probability-change' AND control = 'unpatched'
        AND target_layer = ${layer} AND source_layer IS NOT NULL AND "group" = '' ORDER BY variant`,
    ).rows;
    assert.deepEqual(
      changes.map(([variant]) => variant),
      ['nothing', 'person'],
    );
    assert.equal(changes[0]![1], 0);
    const expected = (cut - plain) / plain;
    assert.ok(Math.abs(Number(changes[1]![1]) - expected) < 1e-3, `${layer}: ${changes[1]![1]} ${expected}`);
  }
});

test('attention knockout is a file: its windows over any model, its control without any', async () => {
  const { experiment } = readExperiment('attention-knockout', { limit: 1 });
  const tiny = await open(tinyPath('llama'));
  const plan = makePlan(experiment, tiny.tokenizer, tiny.record);
  const outcomes = await new ChunkRunner(plan, tiny).run(0);
  const said = new Map<string, Set<number>>();
  for (const [i, { scores }] of outcomes.entries()) {
    const { pair, control } = cellAt(plan, i);
    const key = control === 'none' ? pair.variant : control;
    said.set(key, (said.get(key) ?? new Set()).add(scores['answer-probability']!));
  }
  assert.equal(said.get('unpatched')!.size, 1);
  assert.deepEqual(said.get('nothing'), said.get('unpatched'), 'nothing cut changes nothing');
  const [plain] = said.get('unpatched')!;
  for (const variant of ['subject', 'relation', 'all others'])
    assert.ok(![...said.get(variant)!].includes(plain!), `${variant} changes nothing`);
  await tiny.close();
});
