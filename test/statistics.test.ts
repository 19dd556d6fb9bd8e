/** Statistics against scipy and scikit-learn (reference/make_statistics.py), and the laws they must keep. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { uniforms } from '../src/random.js';
import { auc } from '../src/statistics/auc.js';
import { Bootstrap } from '../src/statistics/bootstrap.js';
import { pearson, spearman } from '../src/statistics/correlation.js';
import { moments } from '../src/statistics/moments.js';
import { twoSidedTail } from '../src/statistics/t-distribution.js';
import { bonferroni, pairedTTest } from '../src/statistics/t-test.js';

interface Pairs {
  readonly a: number[];
  readonly b: number[];
  readonly rounded?: number[];
  readonly t: number;
  readonly p: number;
  readonly sd: number;
  readonly pearson?: [number, number];
  readonly spearman?: [number, number];
}

const reference: {
  readonly tails: [t: number, df: number, p: number][];
  readonly tests: Pairs[];
  readonly areas: { positives: number[]; negatives: number[]; auc: number }[];
} = JSON.parse(readFileSync(new URL('reference/statistics.json', import.meta.url), 'utf8'));

function near(actual: number, expected: number, relative: number): void {
  assert.ok(Math.abs(actual - expected) <= relative * Math.abs(expected), `${actual} is not ${expected}`);
}

const badInput = (message: RegExp) => (error: unknown) => {
  const { code, message: found } = error as { code: string; message: string };
  assert.equal(code, 'bad_input');
  assert.match(found, message);
  return true;
};

test('tails of the t distribution are those of scipy', () => {
  for (const [t, df, p] of reference.tails) near(twoSidedTail(t, df), p, 1e-11);
  assert.equal(twoSidedTail(0, 3), 1);
  assert.equal(twoSidedTail(Number.NEGATIVE_INFINITY, 3), 0);
  // with one degree of freedom there is a closed form, which scipy misses by 3e-9 here
  near(twoSidedTail(1e-8, 1), 1 - (2 / Math.PI) * Math.atan(1e-8), 1e-15);
});

test('paired t-tests, standard deviations and correlations are those of scipy', () => {
  for (const { a, b, rounded, ...expected } of reference.tests) {
    const { t, df, p } = pairedTTest(a, b);
    near(t, expected.t, 1e-10);
    near(p, expected.p, 1e-10);
    assert.equal(df, a.length - 1);
    near(pairedTTest(b, a).t, -expected.t, 1e-10);
    near(moments(a).sd, expected.sd, 1e-12);
    if (rounded === undefined) continue;
    for (const [found, [r, p]] of [
      [pearson(a, b), expected.pearson!],
      [spearman(rounded, b), expected.spearman!],
    ] as const) {
      near(found.r, r, 1e-10);
      near(found.p, p, 1e-9);
    }
  }
});

test('p-values made together count for more, and never for more than 1', () => {
  assert.deepEqual(bonferroni([0.001, 0.25, 0.5]), [0.003, 0.75, 1]);
  assert.deepEqual(bonferroni([]), []);
});

test('equal differences have a test too', () => {
  assert.deepEqual(pairedTTest([1, 2], [1, 2]), { meanDifference: 0, t: 0, df: 1, p: 1 });
  assert.deepEqual(pairedTTest([2, 3], [1, 2]), {
    meanDifference: 1,
    t: Number.POSITIVE_INFINITY,
    df: 1,
    p: 0,
  });
});

test('areas under the curve are those of scikit-learn, and turn over with their kinds', () => {
  for (const { positives, negatives, auc: expected } of reference.areas) {
    const { value, low, high } = auc(positives, negatives, 1);
    near(value, expected, 1e-14);
    assert.ok(0 <= low && low <= value && value <= high && high <= 1);
    near(auc(negatives, positives, 1).value, 1 - expected, 1e-14);
    assert.deepEqual(auc(positives, negatives, 1), { value, low, high });
  }
  assert.deepEqual(auc([2, 2], [1, 1, 1], 5), { value: 1, low: 1, high: 1 });
  assert.deepEqual(auc([1, 1], [1], 5), { value: 0.5, low: 0.5, high: 0.5 });
});

/** How many of the intervals hold the truth. */
function held(count: number, truth: number, interval: (i: number) => { low: number; high: number }): number {
  return Array.from({ length: count }, (_, i) => interval(i)).filter(
    ({ low, high }) => low <= truth && truth <= high,
  ).length;
}

test('about nineteen of twenty intervals hold the true area', () => {
  const next = uniforms(3);
  const list = (n: number, shift: number) => Array.from({ length: n }, () => next() + shift);
  // P(u + 0.25 > v) for uniform u and v
  const truth = 1 - 0.75 ** 2 / 2;
  const count = held(300, truth, (i) => auc(list(40, 0.25), list(50, 0), i));
  assert.ok(count >= 270 && count <= 297, `${count} of 300`);
});

test('about nineteen of twenty intervals hold the true difference, narrower than those of unpaired samples', () => {
  const next = uniforms(4);
  const ones = new Array<number>(60).fill(1);
  let widths = 0;
  let unpaired = 0;
  const count = held(300, 0.3, (i) => {
    const shared = Array.from({ length: 60 }, () => 3 * next());
    const of = (shift: number) => ({ sums: shared.map((value) => value + next() + shift), counts: ones });
    const [a, b] = [of(0.3), of(0)];
    const interval = new Bootstrap(i).difference(a, b);
    widths += interval.high - interval.low;
    const turned = new Bootstrap(i).difference(a, { sums: b.sums.toReversed(), counts: ones });
    unpaired += turned.high - turned.low;
    return interval;
  });
  assert.ok(count >= 270 && count <= 297, `${count} of 300`);
  assert.ok(widths < unpaired / 2);
});

test('a difference of means weighs samples by their cells, and of a mean with itself is 0', () => {
  const a = { sums: [1, 4, 9], counts: [1, 2, 3] };
  assert.deepEqual(new Bootstrap(1).difference(a, a), { low: 0, high: 0 });
  const more = { sums: a.sums.map((sum, i) => sum + 2 * a.counts[i]!), counts: a.counts };
  const { low, high } = new Bootstrap(1).difference(more, a);
  near(low, 2, 1e-12);
  near(high, 2, 1e-12);
});

test('what no statistic can be had of is said in one sentence', () => {
  const cases: [() => unknown, RegExp][] = [
    [() => pairedTTest([1], [2]), /^Of the first values there is one: at least 2 must be given\.$/],
    [() => pairedTTest([1, 2], [2]), /2 first values and 1 second/],
    [
      () => pairedTTest([1, Number.NaN], [2, 3]),
      /^Number 2 of the first values is NaN: each must be finite\.$/,
    ],
    [() => pearson([1, 1, 1], [1, 2, 3]), /All first values are equal/],
    [() => spearman([1, 2, 3], [1, 2, Number.NaN]), /Number 3 of the second values is NaN/],
    [() => moments([]), /^Of the values there are none/],
    [() => auc([], [1], 1), /scores of positives there are none/],
    [() => auc([1], [Number.POSITIVE_INFINITY], 1), /Number 1 of the scores of negatives is Infinity/],
    [
      () => new Bootstrap(1).difference({ sums: [1], counts: [1] }, { sums: [], counts: [] }),
      /1 samples and 0/,
    ],
    [
      () => new Bootstrap(1).difference({ sums: [1], counts: [1] }, { sums: [0], counts: [0] }),
      /Sample 1 has no cell/,
    ],
  ];
  for (const [call, message] of cases) assert.throws(call, badInput(message));
});
