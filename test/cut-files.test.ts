/** Cut attention in an experiment file: what it means, what is kept of it, what is refused. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { readExperiment } from '../src/experiment-file/read-experiment.js';
import { makePlan, type Plan } from '../src/plan/plan.js';
import { parseSpan, resolveSpan } from '../src/positions.js';
import { runHeader } from '../src/record-run.js';
import { ChunkRunner, run } from '../src/run.js';
import { folder } from './fixtures/disk.js';
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
    pairs.map(({ cuts = [] }) => cuts.map(({ from, to, layers }) => [from, to, layers.length])),
    [[[[6], [0], 6]], [], [[[3], [1], 1]]],
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
