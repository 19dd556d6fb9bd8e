/** Two hops: the data's chains, the choice of a cell, and the experiment on the known-answers model. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { readExperiment } from '../src/experiment-file/read-experiment.js';
import type { Prompt } from '../src/patchscope.js';
import { makePlan } from '../src/plan/plan.js';
import { recordRun, runHeader } from '../src/record-run.js';
import { renderReport } from '../src/report/report.js';
import { ChunkRunner, run } from '../src/run.js';
import { cellChoice } from '../src/statistics/cell-choice.js';
import { query } from '../src/store/query.js';
import { openStore } from '../src/store/store.js';
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
    bridge: variants!['first-hop']!.answer,
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
  // each hop by itself has an answer of its own, and both must be known
  assert.deepEqual(sushi?.bridge, ['Japan']);
  assert.deepEqual(experiment.known, ['first-hop', 'second-hop']);
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
  const samples = entities.slice(0, 24).map((person, i) => {
    const friend = entities[person.friend]!;
    // every third one is asked for a friend that it does not have
    const said = i % 3 === 0 ? name(person) : name(friend);
    return { person: name(person), bridge: name(friend), said, object: friend.city };
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
        { name: 'first-hop', answer: '{said}', ...asked('the friend of {person} is') },
        { name: 'second-hop', ...asked('the city of {bridge} is') },
      ],
      known: ['first-hop', 'second-hop'],
      reading: { top: 1, tokens: 2 },
      metrics: ['answer-found'],
      controls: { random: 1 },
    }),
  );
  const engine = await open(fileURLToPath(new URL('world/world.gguf', import.meta.url)));
  try {
    const plan = makePlan(readExperiment(path).experiment, engine.tokenizer, engine.record);
    const right = new Map<string, number[][]>();
    const db = join(folder(), 'hops.db');
    const header = runHeader(plan, { command: 'test' });
    const chunks = recordRun(run(plan, new ChunkRunner(plan, engine)), header, engine, () => openStore(db));
    for await (const { observations } of chunks)
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

    // known where each hop by itself holds its own answer, and counted apart from all
    const { rows } = query(db, 'SELECT sample_idx FROM known_sample ORDER BY 1');
    const isKnown = (_: unknown, i: number) =>
      ['first-hop none', 'second-hop none'].every((key) => right.get(key)![i]![0] === 1);
    const known = samples.map((_, i) => i).filter(isKnown);
    assert.deepEqual(rows.flat(), known);
    assert.ok(known.length >= 12 && known.every((i) => i % 3 !== 0), `${known}`);
    const answers = query(
      db,
      "SELECT answer FROM variant WHERE sample_idx = 1 AND name IN ('first-hop', 'patched') ORDER BY name",
    );
    assert.deepEqual(answers.rows, [[JSON.stringify([samples[1]!.bridge])], [null]]);
    const { data } = renderReport(db, ['1']).parts.find(({ name }) => name === 'cell-choice-answer-found')!;
    const column = (name: string) => data.columns.indexOf(name);
    for (const [variant, control] of [
      ['patched', 'none'],
      ['patched', 'random'],
      ['vanilla', 'none'],
    ] as const) {
      for (const [facts, some] of [
        ['all', samples.map((_, i) => i)],
        ['known', known],
      ] as const) {
        const [row, ...more] = data.rows.filter(
          (row) =>
            row[column('variant')] === variant &&
            row[column('control')] === control &&
            row[column('facts')] === facts,
        );
        assert.deepEqual(more, []);
        const { someCell } = cellChoice(some.map((i) => right.get(`${variant} ${control}`)![i]!));
        assert.deepEqual(
          ['samples', 'some cell'].map((name) => row![column(name)]),
          [some.length, someCell],
        );
      }
    }
  } finally {
    await engine.close();
  }
});
