/** Means over cells, how sure they are, and the views that show them. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { Observation } from '../src/observation.js';
import { Bootstrap, binomialInterval } from '../src/statistics/bootstrap.js';
import { query, type SqlValue } from '../src/store/query.js';
import { openStore } from '../src/store/store.js';
import { cell, contents, failedCell, folder, runOf } from './store-records.js';

const SAMPLES = 24;
const LAYERS = ['embed', 0, 1, 2] as const;

/** Numbers between 0 and 1, always the same. */
function numbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 48271) % (2 ** 31 - 1);
    return state / (2 ** 31 - 1);
  };
}

/** Every sample at every pair of layers, two draws of a control at one pair, and some cells that failed. */
const cells: readonly Observation[] = (() => {
  const next = numbers(5);
  const scores = (sample: number) => ({
    'answer-found': Number(next() < (sample % 3) / 2),
    'answer-rank': Math.floor(next() ** 3 * 50),
    'answer-logprob': Math.log(next()),
  });
  return Array.from({ length: SAMPLES }, (_, sample) => sample).flatMap((sample) => [
    ...LAYERS.flatMap((sourceLayer) =>
      LAYERS.map((targetLayer, i) =>
        i === 3 && sample % 5 === 0
          ? failedCell({ sample, sourceLayer, targetLayer })
          : cell({ sample, sourceLayer, targetLayer, scores: scores(sample) }),
      ),
    ),
    ...[0, 1].map((draw) =>
      cell({ sample, sourceLayer: 1, targetLayer: 2, control: 'random', draw, scores: scores(sample) }),
    ),
    cell({
      sample,
      sourceLayer: null,
      targetLayer: null,
      control: 'unpatched',
      scores: { 'answer-rank': sample },
    }),
  ]);
})();

const groupOf = (sample: number) => (sample < 20 ? `relation ${sample % 3}` : undefined);

function results(test: TestContext, stored = cells, seed = 7): { path: string; runId: number } {
  const path = join(folder(test), 'r.db');
  const store = openStore(path);
  const [variant] = contents.variants;
  const indices = Array.from({ length: SAMPLES }, (_, i) => i);
  const runId = store.beginRun(runOf({ seed }), {
    prompts: contents.prompts,
    samples: indices.map((i) => {
      const group = groupOf(i);
      return { name: `sample ${i}`, ...(group !== undefined && { group }) };
    }),
    variants: indices.map((sample) => ({ ...variant!, sample })),
  });
  for (let i = 0; i * 100 < stored.length; i++)
    store.addChunk(runId, i, stored.slice(i * 100, i * 100 + 100));
  store.aggregate(runId);
  store.close();
  return { path, runId };
}

type Row = Readonly<Record<string, SqlValue>>;

function rows(path: string, sql: string): Row[] {
  const { columns, rows } = query(path, sql);
  return rows.map((row) => Object.fromEntries(columns.map((column, i) => [column, row[i]!])));
}

const layerNumber = (layer: Observation['sourceLayer']) => (layer === 'embed' ? -1 : layer);

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Values of a metric in the cells that fit. */
function valuesOf(name: string, fits: (cell: Observation) => boolean): number[] {
  return cells.flatMap((each) => (fits(each) && name in each.scores ? [each.scores[name]!] : []));
}

function near(actual: SqlValue | undefined, expected: number): void {
  assert.ok(Math.abs(Number(actual) - expected) < 1e-12, `${actual} is not ${expected}`);
}

test('a metric is the mean of the scores of its cells, over all samples and over each group', (t) => {
  const { path } = results(t);
  const found = rows(path, 'SELECT * FROM metric');
  for (const row of found) {
    const values = valuesOf(
      `${row.name}`,
      (each) =>
        layerNumber(each.sourceLayer) === row.source_layer &&
        layerNumber(each.targetLayer) === row.target_layer &&
        each.control === row.control &&
        (row.group === '' || groupOf(each.sample) === row.group),
    );
    assert.equal(row.n, values.length);
    near(row.value, mean(values));
    assert.ok(Number(row.ci_low) <= Number(row.value) && Number(row.value) <= Number(row.ci_high));
  }
  // 16 pairs and the drawn control have three metrics, the unpatched one has one; groups: all and three relations
  assert.equal(found.length, (17 * 3 + 1) * 4);
  assert.deepEqual(rows(path, `SELECT * FROM metric WHERE "group" = 'relation 0' AND n > 20`), []);
});

test('means and intervals come from the cells and the seed alone', (t) => {
  const order = 'SELECT * FROM metric ORDER BY name, control, source_layer, target_layer, "group"';
  const first = rows(results(t).path, order);
  const { path, runId } = results(t, cells.toReversed());
  assert.deepEqual(rows(path, order), first);
  const store = openStore(path);
  store.aggregate(runId);
  assert.deepEqual(rows(path, order), first);
  store.resumeRun(runId);
  assert.deepEqual(rows(path, order), [], 'they would not be of the cells to come');
  store.close();

  const other = rows(results(t, cells, 8).path, order);
  const without = (found: Row[]) => found.map(({ ci_low, ci_high, ...row }) => row);
  assert.deepEqual(without(other), without(first));
  assert.notDeepEqual(other, first);
});

test('layer_grid has a row for each pair of layers, metric_by_layer one for each source layer', (t) => {
  const { path } = results(t);
  const grid = rows(path, `SELECT * FROM layer_grid WHERE name = 'answer-logprob' AND control = 'none'`);
  assert.deepEqual(new Set(grid.map((row) => `${row.source_layer} ${row.target_layer}`)).size, 16);
  assert.equal(grid.length, 16);
  assert.ok(grid.every((row) => row.mapping === 'identity' && row.run_name === 'patch'));
  const byLayer = rows(
    path,
    `SELECT source_layer, value, n FROM metric_by_layer WHERE name = 'answer-logprob' AND control = 'none'`,
  );
  const live = rows(
    path,
    `SELECT source_layer, avg(value) AS value, count(*) AS n
    FROM observation JOIN score ON observation_id = observation.id AND name = 'answer-logprob'
    WHERE control = 'none' GROUP BY source_layer`,
  );
  assert.equal(byLayer.length, LAYERS.length);
  byLayer.forEach((row, i) => {
    assert.deepEqual([row.source_layer, row.n], [live[i]!.source_layer, live[i]!.n]);
    near(row.value, Number(live[i]!.value));
  });
  assert.deepEqual(
    rows(path, `SELECT source_layer, value, n FROM metric_by_layer WHERE control = 'unpatched'`),
    [{ source_layer: null, value: (SAMPLES - 1) / 2, n: SAMPLES }],
  );
});

test('best_cell has the best cell of each sample by each metric', (t) => {
  const { path } = results(t);
  const best = rows(path, 'SELECT * FROM best_cell');
  assert.equal(best.length, SAMPLES * 3);
  for (const { name, sample, value, source_layer, target_layer } of best) {
    const own = cells.filter((each) => `sample ${each.sample}` === sample && each.control === 'none');
    const values = own.flatMap((each) => each.scores[`${name}`] ?? []);
    assert.equal(value, name === 'answer-rank' ? Math.min(...values) : Math.max(...values));
    // cells are in the order of layers
    const first = own.find((each) => each.scores[`${name}`] === value)!;
    assert.deepEqual(
      [source_layer, target_layer],
      [layerNumber(first.sourceLayer), layerNumber(first.targetLayer)],
    );
  }
});

test('success_by_group tells cells and samples that found an answer', (t) => {
  const { path } = results(t);
  const found = rows(path, 'SELECT * FROM success_by_group');
  assert.equal(found.length, 4 * 2);
  for (const row of found) {
    const own = cells.filter(
      (each) =>
        (groupOf(each.sample) ?? null) === row.group &&
        each.control === row.control &&
        'answer-found' in each.scores,
    );
    const solved = new Set(
      own.filter(({ scores }) => scores['answer-found'] === 1).map(({ sample }) => sample),
    );
    const samples = new Set(own.map(({ sample }) => sample)).size;
    assert.deepEqual([row.cells, row.samples], [own.length, samples]);
    near(row.success, mean(own.map(({ scores }) => scores['answer-found']!)));
    near(row.solved, solved.size / samples);
  }
});

test('the interval of zeros and ones is what the binomial distribution says', () => {
  for (const [hits, n] of [
    [0, 5],
    [5, 5],
    [1, 1],
    [3, 10],
    [1, 40],
    [39, 40],
    [200, 1000],
  ] as const) {
    // by the definition: probabilities of 0..n ones among n draws
    const logs = [0];
    for (let k = 1; k <= n; k++) logs.push(logs[k - 1]! + Math.log(k));
    const probability = (k: number) =>
      Math.exp(logs[n]! - logs[k]! - logs[n - k]!) * (hits / n) ** k * (1 - hits / n) ** (n - k);
    const quantile = (part: number) => {
      let k = 0;
      for (let reached = probability(0); reached < part; reached += probability(k)) k++;
      return k / n;
    };
    const { low, high } = binomialInterval(hits, n);
    assert.deepEqual([low, high], [quantile(0.025), quantile(0.975)], `${hits} of ${n}`);
  }
});

test('the interval of a million zeros and ones is as wide as statistics says', () => {
  const { low, high } = binomialInterval(300_000, 1_000_000);
  const error = 1.96 * Math.sqrt((0.3 * 0.7) / 1e6);
  assert.ok(Math.abs(low - (0.3 - error)) < 2e-6 && Math.abs(high - (0.3 + error)) < 2e-6, `${low} ${high}`);
});

test('drawn intervals agree with the binomial one, and follow their values', () => {
  const next = numbers(1);
  const bootstrap = new Bootstrap(3);
  const ones = Array.from({ length: 400 }, (_, i) => Number(i % 4 === 0));
  const single = ones.map(() => 1);
  const drawn = bootstrap.resampled({ sums: ones, counts: single });
  const exact = bootstrap.interval({ sums: ones, counts: single });
  assert.deepEqual(exact, binomialInterval(100, 400));
  assert.ok(Math.abs(drawn.low - exact.low) <= 0.01 && Math.abs(drawn.high - exact.high) <= 0.01);

  const sums = Array.from({ length: 300 }, () => next() * 8 - 4);
  const counts = sums.map((_, i) => 1 + (i % 3));
  const { low, high } = bootstrap.interval({ sums, counts });
  const moved = bootstrap.interval({ sums: sums.map((sum, i) => 2 * sum + 16 * counts[i]!), counts });
  near(moved.low, 2 * low + 16);
  near(moved.high, 2 * high + 16);
  const doubled = bootstrap.interval({ sums: sums.map((sum) => 2 * sum), counts: counts.map((n) => 2 * n) });
  near(doubled.low, low);
  near(doubled.high, high);
  assert.deepEqual(bootstrap.interval({ sums: [7, 7], counts: [2, 2] }), { low: 3.5, high: 3.5 });
});

test('an interval does not depend on what was drawn before it', () => {
  const next = numbers(2);
  // the last ones are too many to be kept
  const lists = [30, 5000, 30, 3000, 9000, 30].map((n) => Array.from({ length: n }, next));
  const together = new Bootstrap(4);
  for (const sums of lists) {
    const values = { sums, counts: sums.map(() => 1) };
    assert.deepEqual(together.interval(values), new Bootstrap(4).interval(values));
  }
});

test('nineteen of twenty intervals hold the true mean', () => {
  const next = numbers(9);
  const bootstrap = new Bootstrap(1);
  const held = Array.from({ length: 400 }, () => {
    const sums = Array.from({ length: 60 }, next);
    const { low, high } = bootstrap.interval({ sums, counts: sums.map(() => 1) });
    return low <= 0.5 && 0.5 <= high;
  }).filter(Boolean).length;
  assert.ok(held >= 366 && held <= 392, `${held} of 400`);
});
