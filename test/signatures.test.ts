/** Signs of failure of single cells, what is repeated, and effects against controls: each against a way of its own to tell it. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import {
  ChunkRunner,
  cellAt,
  type Experiment,
  makePlan,
  openStore,
  type Plan,
  query,
  readExperiment,
  recordRun,
  run,
  runDetails,
  runHeader,
} from '../src/index.js';
import type { Outcome } from '../src/observation.js';
import { chunkRange } from '../src/plan/plan.js';
import { withoutHopelessProbe } from '../src/plan/probe-units.js';
import { cutRepeats } from '../src/plan/repeats.js';
import { uniforms } from '../src/random.js';
import { failureSigns } from '../src/statistics/failure-signs.js';
import { addControlled } from './report-records.js';
import { folder } from './store-records.js';
import { open, tinyPath } from './support.js';

type Row = Record<string, number | string | null>;

const world = fileURLToPath(new URL('world/world.gguf', import.meta.url));

function rowsOf(path: string, sql: string): Row[] {
  const { columns, rows } = query(path, sql);
  return rows.map((row) => Object.fromEntries(columns.map((name, i) => [name, row[i]])) as Row);
}

test('the view says of each cell what a direct look at all cells says', (t) => {
  const path = join(folder(t), 'r.db');
  const uniform = uniforms(5);
  const texts = ['', '  ', 'a b', 'anyway', 'x\ufffd', 'c'];
  const ids = [[5, 5, 5], [1, 2, 3], [1, 2, 1, 2, 1, 2], [7]];
  const one = <T>(list: readonly T[]) => list[Math.floor(uniform() * list.length)]!;
  addControlled(
    path,
    { names: ['a', 'b', 'c'], variants: ['v', 'w'], layers: ['embed', 0, 1], grid: true },
    () =>
      uniform() < 0.1
        ? 'failed'
        : { text: one(texts), tokenIds: one(ids), normRatio: 4 * uniform(), differs: uniform() < 0.2 },
  );
  const cells = rowsOf(path, 'SELECT * FROM observation ORDER BY id');
  const seen = rowsOf(path, 'SELECT * FROM signature ORDER BY observation_id');
  assert.equal(seen.length, cells.length);
  const beside = (cell: Row, columns: readonly string[], control: readonly string[]) =>
    cells.filter(
      (other) =>
        control.includes(`${other.control}`) && columns.every((column) => other[column] === cell[column]),
    );
  const flags = new Set<string>();
  cells.forEach((cell, i) => {
    const text = cell.text as string | null;
    const signs = text === null ? null : failureSigns(text, JSON.parse(`${cell.token_ids}`) as number[]);
    const meaningless = signs && Number(signs.empty || signs.repetitive || signs.unprintable);
    const same = beside(
      cell,
      ['sample_idx', 'variant', 'source_layer', 'target_layer', 'source_site', 'site', 'mapping_id'],
      ['random', 'shuffled'],
    ).filter((other) => other.text !== null);
    const sameAs = (control: string) => {
      const of = same.filter((other) => other.control === control);
      if (cell.control !== 'none' || text === null || of.length === 0) return null;
      return Number(of.some((other) => other.text === text));
    };
    const [unpatched] = beside(cell, ['sample_idx', 'variant'], ['unpatched']);
    const expected = {
      failed: Number(cell.status === 'failed'),
      not_finite: Number(cell.status === 'failed'),
      empty: signs && Number(signs.empty),
      repetitive: signs && Number(signs.repetitive),
      unprintable: signs && Number(signs.unprintable),
      meaningless,
      same_as_random: sameAs('random'),
      same_as_shuffled: sameAs('shuffled'),
      unrelated:
        cell.control !== 'none' || text === null || (same.length === 0 && meaningless !== 1)
          ? null
          : Number(same.some((other) => other.text === text) && meaningless === 0),
      contaminated:
        cell.control === 'unpatched' || text === null || unpatched!.text === null
          ? null
          : Number(text === unpatched!.text),
      norm_far:
        cell.norm_ratio === null
          ? null
          : Number(!(Number(cell.norm_ratio) >= 0.5 && Number(cell.norm_ratio) <= 2)),
      differs: cell.differs,
    };
    const found = Object.fromEntries(Object.keys(expected).map((column) => [column, seen[i]![column]]));
    assert.deepEqual(found, expected, JSON.stringify(cell));
    for (const [sign, value] of Object.entries(expected)) flags.add(`${sign} ${value}`);
  });
  for (const sign of [
    'failed',
    'empty',
    'repetitive',
    'unprintable',
    'same_as_random',
    'same_as_shuffled',
    'unrelated',
    'contaminated',
    'norm_far',
  ])
    for (const value of [0, 1]) assert.ok(flags.has(`${sign} ${value}`), `no cell shows ${sign} ${value}`);
});

test('a layer has collapsed where it and all later ones say nothing but the unpatched text', (t) => {
  const path = join(folder(t), 'r.db');
  const said: Record<string, string> = { 0: 'anyway', 1: 'other', 2: 'anyway', 3: 'anyway' };
  addControlled(
    path,
    { names: ['a', 'b'], layers: [0, 1, 2, 3], grid: true },
    ({ sample, targetLayer, control }) => ({
      text: control === 'unpatched' || sample === 1 ? 'anyway' : said[`${targetLayer}`]!,
    }),
  );
  assert.deepEqual(
    rowsOf(
      path,
      "SELECT target_layer, cells, contaminated, collapsed FROM signature_by_layer WHERE control = 'none' ORDER BY 1",
    ),
    [
      { target_layer: 0, cells: 8, contaminated: 8, collapsed: 0 },
      { target_layer: 1, cells: 8, contaminated: 4, collapsed: 0 },
      { target_layer: 2, cells: 8, contaminated: 8, collapsed: 1 },
      { target_layer: 3, cells: 8, contaminated: 8, collapsed: 1 },
    ],
  );
});

/** A run of an experiment on a model, in a results file. */
async function stored(t: TestContext, model: string, experiment: Experiment) {
  const engine = await open(model, { threads: 1 });
  t.after(() => engine.close());
  const path = join(folder(t), 'r.db');
  const plan = makePlan(experiment, engine.tokenizer, engine.record);
  const chunks = run(plan, new ChunkRunner(plan, engine));
  const header = runHeader(plan, { command: 'test' });
  for await (const _ of recordRun(chunks, header, engine, () => openStore(path)));
  return { path, plan };
}

const at = (text: string) => ({
  prompt: { kind: 'text' as const, text },
  position: { kind: 'index' as const, index: -1 },
});

test('a state put back where it was is as long as what it meets, and is contaminated by its own reading', async (t) => {
  const experiment: Experiment = {
    name: 'identity',
    samples: ['the cat and the dog', 'in the house'].map((text) => ({
      name: text,
      source: at(text),
      target: at(text),
    })),
    sourceLayers: 'embed,all',
    targetLayers: 'same',
    mapping: { kind: 'identity' },
    reading: { topK: 2, maxTokens: 4, stop: [] },
    controls: { random: 1, shuffled: 1, unpatched: true },
    seed: 1,
  };
  const { path } = await stored(t, tinyPath('llama'), experiment);
  const none = rowsOf(path, "SELECT * FROM signature WHERE control = 'none'");
  assert.ok(none.length > 4);
  for (const { contaminated, norm_ratio, norm_far } of none) {
    assert.deepEqual([contaminated, norm_far], [1, 0]);
    assert.ok(Math.abs(Number(norm_ratio) - 1) < 1e-3, `${norm_ratio}`);
  }
  // a random vector has the norm of the captured state, and an unpatched cell has no vector
  const ratios = rowsOf(path, 'SELECT control, norm_ratio FROM signature');
  for (const { norm_ratio } of ratios.filter(({ control }) => control === 'random'))
    assert.ok(Math.abs(Number(norm_ratio) - 1) < 1e-3, `${norm_ratio}`);
  for (const { norm_ratio } of ratios.filter(({ control }) => control === 'unpatched'))
    assert.equal(norm_ratio, null);
  const wrong = rowsOf(
    path,
    `SELECT 1 FROM signature JOIN observation AS cell ON cell.id = observation_id
    JOIN observation AS plain ON plain.sample_idx = cell.sample_idx AND plain.control = 'unpatched'
    WHERE cell.control <> 'unpatched' AND contaminated <> (cell.text = plain.text)`,
  );
  assert.deepEqual(wrong, []);
});

test('in the known-answers model a right answer has no sign, and a patch behind the last block that reads it is contaminated', async (t) => {
  const { experiment } = readExperiment('known-answers', {
    set: [
      ...['target.layers=[0, 5]', 'source.layers=2', 'controls.shuffled=0', 'variants=[{ name: seen }]'],
      'expected=[{ about: a person, metric: answer-first-token, least: 0 }]',
    ],
    limit: 4,
  });
  const { path } = await stored(
    t,
    world,
    withoutHopelessProbe(experiment, () => {}),
  );
  const cells = rowsOf(
    path,
    `SELECT target_layer, meaningless, contaminated, score.value AS found
    FROM signature JOIN score USING (observation_id) WHERE control = 'none' AND name = 'answer-first-token'`,
  );
  assert.equal(cells.length, 8);
  for (const { target_layer, meaningless, contaminated, found } of cells) {
    assert.deepEqual(
      [meaningless, contaminated, found],
      target_layer === 0 ? [0, 0, 1] : [0, 1, 0],
      `${target_layer}`,
    );
  }
  const collapse = rowsOf(
    path,
    "SELECT target_layer, collapsed FROM signature_by_layer WHERE control = 'none' ORDER BY 1",
  );
  assert.deepEqual(
    collapse.map(({ collapsed }) => collapsed),
    [0, 1],
  );
  const effects = rowsOf(
    path,
    `SELECT source_layer, target_layer, control, value, n, samples FROM effect
    WHERE name = 'answer-first-token' AND "group" = '' ORDER BY source_layer, target_layer, control`,
  );
  const overall = effects.find(
    (row) => row.source_layer === null && row.target_layer === null && row.control === 'unpatched',
  )!;
  assert.deepEqual([overall.value, overall.n, overall.samples], [0.5, 8, 4]);
  for (const [layer, value] of [
    [0, 1],
    [5, 0],
  ]) {
    const effect = effects.find(
      (row) => row.source_layer === null && row.target_layer === layer && row.control === 'unpatched',
    );
    assert.equal(effect!.value, value);
  }
});

const repeated: Experiment = {
  name: 'repeat',
  samples: ['the cat', 'the dog', 'a mat', 'the sea'].map((text) => ({
    name: text,
    source: at(text),
    target: at('in the house there'),
  })),
  sourceLayers: 'all',
  targetLayers: 'all',
  mapping: { kind: 'identity' },
  reading: { topK: 2, maxTokens: 3, stop: [] },
  metrics: [],
  controls: { random: 1, shuffled: 1, unpatched: true, repeat: 1 },
  seed: 3,
};

test('a chunk that is run again on an engine is the same to the bit, and this is stored', async (t) => {
  const { path, plan } = await stored(t, tinyPath('llama'), repeated);
  assert.equal(plan.repeats.length, 1);
  const [begin, end] = chunkRange(plan, plan.repeats[0]!);
  const { repeats } = runDetails(path);
  assert.deepEqual(repeats, { cells: end - begin, differing: 0 });
  assert.ok(repeats!.cells <= plan.cellCount / 10);
});

test('whatever bit is another the second time, that cell differs and no other does', async (t) => {
  const engine = await open(tinyPath('llama'), { threads: 1 });
  t.after(() => engine.close());
  const plan = makePlan(repeated, engine.tokenizer, engine.record);
  const runner = new ChunkRunner(plan, engine);
  const outcomes = new Map<number, Outcome[]>();
  for (const chunk of plan.repeats) outcomes.set(chunk, await runner.run(chunk));
  const nextBit = (value: number) => {
    const bits = new BigInt64Array(new Float64Array([value]).buffer);
    bits[0]! += 1n;
    return new Float64Array(bits.buffer)[0]!;
  };
  const changes: readonly ((outcome: Outcome) => Outcome)[] = [
    (one) => ({ ...one, text: `${one.text} ` }),
    (one) => ({ ...one, tokenIds: [...one.tokenIds.slice(0, -1), one.tokenIds.at(-1)! + 1] }),
    (one) => ({ ...one, normRatio: nextBit(one.normRatio ?? 1) }),
    ({ steps: [first, ...others], ...one }) => ({
      ...one,
      steps: [
        first!.map((score, i) => (i > 0 ? score : { ...score, logprob: nextBit(score.logprob) })),
        ...others,
      ],
    }),
    (one) => ({ ...one, status: 'failed', error: 'not_finite: a logit is NaN', text: null, steps: [] }),
  ];
  for (const change of [(one: Outcome) => structuredClone(one), ...changes]) {
    const [chunk] = plan.repeats;
    const there = outcomes.get(chunk!)!;
    const odd = there.length >> 1;
    let times = 0;
    const twice = {
      run: async () => there.map((one, i) => (times++ < there.length || i !== odd ? one : change(one))),
    };
    for await (const { observations } of run(plan, twice, { chunks: [chunk!] })) {
      const isChanged = changes.includes(change);
      assert.deepEqual(
        observations.map(({ differs }) => differs),
        there.map((_, i) => isChanged && i === odd),
        String(change),
      );
    }
  }
});

test('whatever is repeated, the plan has the same cells in the same blocks, and repeats are a tenth of them at most', () => {
  const arrangement = (sizes: readonly number[][]) => {
    const chunkStarts = [0];
    const blockStarts = [0];
    for (const block of sizes) {
      for (const size of block) chunkStarts.push(chunkStarts.at(-1)! + size);
      blockStarts.push(chunkStarts.length - 1);
    }
    return {
      cells: {} as Plan['cells'],
      chunkStarts: Uint32Array.from(chunkStarts),
      blockStarts: Uint32Array.from(blockStarts),
    };
  };
  for (const sizes of [[[1]], [[300]], [[5, 5], [2]], [[256, 256], [100], [256, 300, 7]]]) {
    const before = arrangement(sizes);
    const total = before.chunkStarts.at(-1)!;
    const blockCells = ({ chunkStarts, blockStarts }: Pick<Plan, 'chunkStarts' | 'blockStarts'>) =>
      [...blockStarts].map((chunk) => chunkStarts[chunk]);
    assert.deepEqual([...cutRepeats(before, { count: 0, seed: 1 }).chunkStarts], [...before.chunkStarts]);
    for (let seed = 0; seed < 5; seed++) {
      for (const count of [1, 2, 50]) {
        const after = cutRepeats(before, { count, seed });
        assert.deepEqual(after, cutRepeats(before, { count, seed }));
        assert.deepEqual(blockCells(after), blockCells(before));
        for (const start of before.chunkStarts) assert.ok(after.chunkStarts.includes(start));
        assert.equal(after.repeats.length, Math.min(count, before.chunkStarts.length - 1));
        assert.equal(new Set(after.repeats).size, after.repeats.length);
        const cells = after.repeats.map((chunk) => after.chunkStarts[chunk + 1]! - after.chunkStarts[chunk]!);
        for (const size of cells) assert.ok(size >= 1 && size <= Math.max(1, total / 10 / cells.length));
      }
    }
  }
});

test('a plan without repeats has the cells of one with them', async (t) => {
  const engine = await open(tinyPath('llama'), { threads: 1 });
  t.after(() => engine.close());
  const plans = [0, 1].map((repeat) =>
    makePlan({ ...repeated, controls: { ...repeated.controls, repeat } }, engine.tokenizer, engine.record),
  );
  const [without, once] = plans as [Plan, Plan];
  assert.equal(without.cellCount, once.cellCount);
  for (let i = 0; i < once.cellCount; i++) assert.deepEqual(cellAt(once, i), cellAt(without, i));
});
