/** The linear probe against scikit-learn (reference/make_statistics.py), and the laws it must keep. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { gaussians } from '../src/random.js';
import { coordinates, gramMatrix } from '../src/statistics/coordinates.js';
import { groupedFolds } from '../src/statistics/folds.js';
import { innerProducts } from '../src/statistics/inner-products.js';
import { probe } from '../src/statistics/probe.js';

interface Regression {
  readonly width: number;
  readonly c: number;
  readonly samples: number[];
  readonly labels: number[];
  /** How many of the first samples. */
  readonly trained: number;
  readonly loss: number;
  readonly predictions: number[];
}

const { regressions }: { readonly regressions: Regression[] } = JSON.parse(
  readFileSync(new URL('reference/statistics.json', import.meta.url), 'utf8'),
);

function rows(values: ArrayLike<number>, width: number): Float32Array[] {
  return Array.from({ length: values.length / width }, (_, i) =>
    Float32Array.from({ length: width }, (_, k) => values[i * width + k]!),
  );
}

test('loss and predictions are those of scikit-learn', () => {
  for (const { width, c, samples, labels, trained, loss, predictions } of regressions) {
    const names = labels.map((label) => `class ${label}`);
    const folds = labels.map((_, i) => Number(i >= trained));
    const result = probe({ states: rows(samples, width), labels: names, folds, c, maxIterations: 1000 });
    const fit = result.fits[1]!;
    assert.ok(Math.abs(fit.loss - loss) < 1e-4, `${fit.loss} is not ${loss}`);
    assert.ok(fit.loss > loss - 1e-6, 'nothing is below the minimum');
    assert.deepEqual(
      result.predictions.slice(trained),
      predictions.map((label) => `class ${label}`),
    );
  }
});

/** States of 12 subjects, 5 each, in 3 classes; the first numbers tell the classes apart by so much. */
function made(signal: number, width = 20) {
  const noise = rows(gaussians(60 * width, 2), width);
  const subjects = noise.map((_, i) => `subject ${Math.floor(i / 5)}`);
  const labels = noise.map((_, i) => `class ${Math.floor(i / 5) % 3}`);
  for (const [i, state] of noise.entries()) state[Math.floor(i / 5) % 3]! += signal;
  return { states: noise, labels, subjects };
}

test('what is in the states is found, what is not is not', () => {
  const [clear, none] = [made(20), made(0)];
  const folds = groupedFolds(clear.subjects, 3, 7);
  assert.equal(probe({ ...clear, folds }).accuracy, 1);
  assert.ok(probe({ ...none, folds }).accuracy < 0.6);
});

test('a subject that is held out is not known from its other samples', () => {
  // each subject has a direction of its own, which says nothing of the others
  const { states, labels, subjects } = made(0, 32);
  for (const [i, state] of states.entries()) state[10 + Math.floor(i / 5)]! += 50;
  const apart = probe({ states, labels, folds: groupedFolds(subjects, 3, 7) });
  const straddling = probe({ states, labels, folds: subjects.map((_, i) => i % 3) });
  assert.equal(straddling.accuracy, 1);
  assert.ok(apart.accuracy < 0.6, `${apart.accuracy}`);
});

test('moving all states, or turning them, changes nothing', () => {
  const data = made(2);
  const folds = groupedFolds(data.subjects, 3, 7);
  const expected = probe({ ...data, folds });
  const moved = data.states.map((state) => state.map((value) => value + 1000));
  const turned = data.states.map((state) => state.toReversed());
  for (const states of [moved, turned]) {
    const found = probe({ ...data, states, folds });
    assert.deepEqual(found.predictions, expected.predictions);
    found.fits.forEach(({ loss }, i) => {
      assert.ok(Math.abs(loss - expected.fits[i]!.loss) < 1e-3, `${loss}`);
    });
  }
});

test('a fit of states thousands long comes near its minimum soon, and says how near', () => {
  const data = made(2, 80);
  const states = data.states.map((state) =>
    state.map((value, k) => value * (k === 5 ? 4000 : k < 9 ? 300 : 10)),
  );
  const folds = groupedFolds(data.subjects, 3, 7);
  const least = probe({ ...data, states, folds, maxIterations: 5000 }).fits;
  probe({ ...data, states, folds }).fits.forEach(({ loss, slope, iterations }, i) => {
    assert.ok(least[i]!.slope <= 0.003, `${least[i]!.slope}`);
    assert.equal(iterations, 100);
    assert.ok(
      slope > least[i]!.slope && loss - least[i]!.loss < 4e-5 * states.length,
      `${loss} ${least[i]!.loss}`,
    );
  });
});

test('folds keep subjects together, hold every sample once, are even and follow the seed', () => {
  const subjects = Array.from({ length: 100 }, (_, i) => `subject ${i % 23}`);
  const folds = groupedFolds(subjects, 4, 3);
  for (let i = 0; i + 23 < 100; i++) assert.equal(folds[i], folds[i + 23]);
  const sizes = [0, 1, 2, 3].map((fold) => folds.filter((other) => other === fold).length);
  assert.ok(Math.max(...sizes) - Math.min(...sizes) <= 5, `${sizes}`);
  assert.deepEqual(groupedFolds(subjects, 4, 3), folds);
  assert.notDeepEqual(groupedFolds(subjects, 4, 4), folds);
});

test('coordinates keep all inner products of the samples they are of, in as few numbers as these span', () => {
  const width = 9;
  const samples = Float64Array.from(gaussians(7 * width, 5));
  samples.copyWithin(width, 0, width); // twice the same
  const basis = [0, 1, 2, 3, 4, 5];
  const found = coordinates(gramMatrix(samples, width), basis);
  assert.equal(found.length / 7, 4, 'five samples less their mean');
  const means = Array.from({ length: width }, (_, k) =>
    basis.reduce((sum, i) => sum + samples[i * width + k]! / basis.length, 0),
  );
  const of = (i: number) => means.map((mean, k) => samples[i * width + k]! - mean);
  const product = (a: number[], b: number[]) => a.reduce((sum, value, k) => sum + value * b[k]!, 0);
  const point = (i: number) => Array.from({ length: 4 }, (_, row) => found[row * 7 + i]!);
  for (const i of [...basis, 6]) {
    for (const j of basis) {
      assert.ok(Math.abs(product(point(i), point(j)) - product(of(i), of(j))) < 1e-9);
    }
  }
});

test('inner products do not depend on how many there are', () => {
  const width = 5;
  for (const [aCount, bCount] of [
    [1, 1],
    [2, 4],
    [3, 5],
    [5, 11],
    [4, 3],
  ] as const) {
    const a = Float64Array.from(gaussians(aCount * width, 1));
    const b = Float64Array.from(gaussians(bCount * width, 2));
    const found = innerProducts(a, aCount, b, bCount, width);
    for (let i = 0; i < aCount; i++) {
      for (let j = 0; j < bCount; j++) {
        let sum = 0;
        for (let k = 0; k < width; k++) sum += a[i * width + k]! * b[j * width + k]!;
        assert.equal(found[i * bCount + j], sum);
      }
    }
  }
});

test('what cannot be probed is said in one sentence', () => {
  const data = made(1);
  const folds = groupedFolds(data.subjects, 3, 7);
  const withNaN = data.states.map((state, i) => (i === 4 ? state.with(2, Number.NaN) : state));
  const cases: [() => unknown, RegExp][] = [
    [() => groupedFolds(['a', 'a', 'b'], 3, 1), /^There are 2 subjects for 3 folds/],
    [() => groupedFolds([], 3, 1), /There are 0 subjects for 3 folds/],
    [() => groupedFolds(['a', 'b'], 1, 1), /can't be 1 folds/],
    [() => probe({ states: [], labels: [], folds: [] }), /no states to probe/],
    [() => probe({ ...data, folds, states: withNaN }), /^Number 3 of the numbers of state 5 is NaN/],
    [() => probe({ ...data, folds, labels: data.labels.map(() => 'x') }), /All states are of the class 'x'/],
    [() => probe({ ...data, folds: folds.map(() => 0) }), /All states are in one fold/],
    [() => probe({ ...data, folds: folds.slice(1) }), /60 states, 60 classes and 59 folds/],
    [
      () => probe({ ...data, folds, labels: folds.map((fold) => (fold === 1 ? 'x' : 'y')) }),
      /^Without fold 1 there is no class but 'y' to learn from/,
    ],
    [
      () => probe({ ...data, folds, states: data.states.with(3, new Float32Array(7)) }),
      /State 4 has 7 numbers/,
    ],
  ];
  for (const [call, message] of cases) {
    assert.throws(call, (error: { code: string; message: string }) => {
      assert.equal(error.code, 'bad_input');
      assert.match(error.message, message);
      return true;
    });
  }
});
