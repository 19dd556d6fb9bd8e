/** Two hops: the data's chains, the choice of a cell, and the experiment on the known-answers model. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { readExperiment } from '../src/experiment-file/read-experiment.js';
import type { Prompt } from '../src/patchscope.js';
import { makePlan } from '../src/plan/plan.js';
import { ChunkRunner, run } from '../src/run.js';
import { cellChoice } from '../src/statistics/cell-choice.js';
import { folder } from './fixtures/disk.js';
import { assertBadInput, givenPrompt, open } from './support.js';

const textOf = (prompt: Prompt) => (prompt.kind === 'text' ? prompt.text : '');

test('each chain is a fact about a subject, then one about what it gave', () => {
  const { experiment } = readExperiment('multi-hop');
  const prompts = experiment.samples.map(({ source, target, variants, answer }) => ({
    first: textOf(givenPrompt(source)),
    second: textOf(target.prompt),
    vanilla: variants!.vanilla!.target!.prompt,
    known: variants!['second-hop']!.target!.prompt,
    answer,
  }));
  const sushi = prompts.find(
    ({ first, second }) => first === 'the country of origin for sushi' && second === 'The capital city of x',
  );
  assert.deepEqual(sushi?.vanilla, {
    kind: 'text',
    text: 'The capital city of the country of origin for sushi',
  });
  assert.deepEqual(sushi?.known, { kind: 'text', text: 'The capital city of Japan' });
  assert.deepEqual(sushi?.answer, ['Tokyo']);
  const groups = new Set(experiment.samples.map(({ group }) => group));
  assert.equal(groups.size, 6);
  assert.ok(experiment.samples.length >= 200, String(experiment.samples.length));
});

test('a cell is chosen on the other half: luck that differs from sample to sample is worth nothing', () => {
  const lucky = Array.from({ length: 8 }, (_, sample) =>
    Array.from({ length: 8 }, (_, cell) => Number(cell === sample)),
  );
  assert.deepEqual(cellChoice(lucky), { someCell: 1, heldOut: 0, chosen: [0, 1] });
  const good = lucky.map((row) => row.map((value, cell) => (cell === 5 ? 1 : value)));
  assert.deepEqual(cellChoice(good), { someCell: 1, heldOut: 1, chosen: [5, 5] });
  assertBadInput(() => cellChoice([[1, 0]]), /too few/);
  assertBadInput(() => cellChoice([[1, 0], [1]]), /different cells/);
});

test('in the known-answers world two hops fail when asked at once and succeed by a patch, not by chance', async () => {
  const { entities } = JSON.parse(readFileSync(new URL('world/world.json', import.meta.url), 'utf8')) as {
    entities: { first: string; last: string; friend: number; city: string }[];
  };
  const name = ({ first, last }: { first: string; last: string }) => `${first} ${last}`;
  const samples = entities.slice(0, 24).map((person) => {
    const friend = entities[person.friend]!;
    return { person: name(person), bridge: name(friend), object: friend.city };
  });
  const path = join(folder(), 'hops.json');
  const nothing = { source: { layers: 0 }, edit: { op: 'scale' } };
  const asked = (prompt: string) => ({ ...nothing, target: { prompt, position: -1, layers: 0 } });
  writeFileSync(
    path,
    JSON.stringify({
      name: 'hops',
      samples,
      answer: '{object}',
      source: { prompt: 'the friend of {person} is {bridge}', layers: 'embed,0..2' },
      target: { prompt: 'the city of x is', position: 'x', layers: 'embed,0,5' },
      variants: [
        { name: 'patched' },
        { name: 'vanilla', ...asked('the city of the friend of {person} is') },
        { name: 'second-hop', ...asked('the city of {bridge} is') },
      ],
      reading: { top: 1, tokens: 1 },
      metrics: ['answer-found'],
      controls: { random: 1 },
    }),
  );
  const engine = await open(fileURLToPath(new URL('world/world.gguf', import.meta.url)));
  try {
    const plan = makePlan(readExperiment(path).experiment, engine.tokenizer, engine.record);
    const right = new Map<string, number[][]>();
    for await (const { observations } of run(plan, new ChunkRunner(plan, engine)))
      for (const { variant, control, sample, scores } of observations) {
        const key = `${variant} ${control}`;
        const rows = right.get(key) ?? samples.map((): number[] => []);
        right.set(key, rows);
        rows[sample]!.push(scores['answer-found']!);
      }
    const of = (key: string) => cellChoice(right.get(key)!);
    assert.ok(of('patched none').heldOut >= 0.9, JSON.stringify(of('patched none')));
    assert.ok(of('patched none').someCell >= 0.9);
    assert.ok(of('vanilla none').someCell <= 0.1, JSON.stringify(of('vanilla none')));
    assert.ok(of('second-hop none').someCell >= 0.95);
    const random = of('patched random');
    assert.ok(random.heldOut <= 0.35, JSON.stringify(random));
    assert.ok(random.someCell > random.heldOut, 'some cell flatters chance too');
  } finally {
    await engine.close();
  }
});
