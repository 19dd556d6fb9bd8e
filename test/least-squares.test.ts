/** Laws of the matrices under mappings: least squares against numpy, and what their bits may depend on. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { test } from 'node:test';
import { loadAddon, type NativeAffineMap } from '../src/native.js';
import { gaussians } from '../src/random.js';
import { assertSameBits } from './support.js';

const addon = loadAddon('cpu');

interface Reference {
  readonly x: readonly number[][];
  readonly y: readonly number[][];
  readonly new: readonly number[][];
  readonly fits: readonly {
    readonly kind: 'linear' | 'affine';
    readonly ridge: number;
    readonly weight: readonly number[][];
    readonly bias: readonly number[];
    readonly applied: readonly number[][];
  }[];
}

const reference = JSON.parse(
  fs.readFileSync(new URL('reference/least-squares.json', import.meta.url), 'utf8'),
) as Reference;
const rows = (values: readonly number[][]) => Float32Array.from(values.flat());

async function fit(
  x: Float32Array,
  y: Float32Array,
  inputs: number,
  { hasBias = true, ridge = 0, threads = 1, pieces = 1 } = {},
): Promise<NativeAffineMap> {
  const count = x.length / inputs;
  const outputs = y.length / count;
  const sums = addon.leastSquares(inputs, outputs, hasBias, threads);
  for (let i = 0; i < pieces; i++) {
    const [begin, end] = [Math.floor((i * count) / pieces), Math.floor(((i + 1) * count) / pieces)];
    await sums.add(x.subarray(begin * inputs, end * inputs), y.subarray(begin * outputs, end * outputs));
  }
  return sums.solve(ridge);
}

/** Largest difference as a part of the largest expected value. */
function relative(actual: Float32Array, expected: readonly number[]): number {
  assert.equal(actual.length, expected.length);
  const scale = Math.max(...expected.map(Math.abs));
  return Math.max(...expected.map((value, i) => Math.abs(value - actual[i]!))) / scale;
}

for (const { kind, ridge, weight, bias, applied } of reference.fits) {
  test(`${kind}, ridge ${ridge}: the same map as numpy's, and rows become the same`, async () => {
    const inputs = reference.x[0]!.length;
    const map = await fit(rows(reference.x), rows(reference.y), inputs, {
      hasBias: kind === 'affine',
      ridge,
      pieces: 3,
    });
    assert.ok(relative(map.weights, weight.flat()) < 1e-6);
    if (kind === 'affine') assert.ok(relative(map.bias, bias) < 1e-6);
    else assert.equal(map.bias.length, 0);
    assert.equal(map.ridge, ridge);
    const made = await addon.applyAffine(map.weights, map.bias, rows(reference.new), inputs, 1);
    assert.ok(relative(made, applied.flat()) < 1e-5);
  });
}

test('a map that rows were made with is found again, at widths that do not fill tiles and blocks', async () => {
  for (const [inputs, outputs, count] of [
    [1, 1, 2],
    [5, 9, 20],
    [48, 8, 300],
    [131, 17, 700],
    [300, 260, 640],
  ] as const) {
    const x = gaussians(count * inputs, 1).map((value) => 3 * value + 1);
    const weight = gaussians(outputs * inputs, 2);
    const bias = gaussians(outputs, 3);
    const y = await addon.applyAffine(weight, bias, x, inputs, 2);
    const map = await fit(x, y, inputs, { threads: 2 });
    assert.ok(relative(map.weights, [...weight]) < 1e-5, `${inputs} -> ${outputs}`);
    assert.ok(relative(map.bias, [...bias]) < 1e-4, `${inputs} -> ${outputs}`);
  }
});

test('rows become what plain sums of products say', async () => {
  const [inputs, outputs, count] = [37, 11, 13];
  const x = gaussians(count * inputs, 1);
  const weight = gaussians(outputs * inputs, 2);
  const bias = gaussians(outputs, 3);
  const made = await addon.applyAffine(weight, bias, x, inputs, 1);
  for (let row = 0; row < count; row++) {
    for (let j = 0; j < outputs; j++) {
      let sum = bias[j]!;
      for (let i = 0; i < inputs; i++) sum += x[row * inputs + i]! * weight[j * inputs + i]!;
      assert.ok(Math.abs(made[row * outputs + j]! - sum) < 1e-5);
    }
  }
});

test('the bits of a mapped row depend neither on other rows nor on threads, those of a fit not on threads', async () => {
  const [inputs, outputs, count] = [270, 50, 40];
  const x = gaussians(count * inputs, 1);
  const weight = gaussians(outputs * inputs, 2);
  const none = new Float32Array();
  const together = await addon.applyAffine(weight, none, x, inputs, 2);
  for (const row of [0, 7, 39]) {
    const alone = await addon.applyAffine(weight, none, x.slice(row * inputs, (row + 1) * inputs), inputs, 1);
    assertSameBits(together.slice(row * outputs, (row + 1) * outputs), alone, `row ${row}`);
  }
  const [one, two] = [
    await fit(x, together, inputs, { ridge: 0.1, threads: 1 }),
    await fit(x, together, inputs, { ridge: 0.1, threads: 2 }),
  ];
  assertSameBits(one.weights, two.weights, 'weights');
});

test('the identity changes no bit of a row', async () => {
  const width = 33;
  const x = gaussians(5 * width, 1);
  const identity = new Float32Array(width * width);
  for (let i = 0; i < width; i++) identity[i * width + i] = 1;
  assertSameBits(await addon.applyAffine(identity, new Float32Array(width), x, width, 1), x, 'rows');
});

test('rows that leave more than one map raise the ridge, and are still mapped to what they were paired with', async () => {
  const [inputs, count] = [6, 50];
  const x = gaussians(count * inputs, 1);
  for (let row = 0; row < count; row++) {
    x[row * inputs + 3] = x[row * inputs + 1]!; // twice the same
    x[row * inputs + 5] = 2; // never another
  }
  const weight = gaussians(2 * inputs, 2);
  const y = await addon.applyAffine(weight, Float32Array.of(1, 2), x, inputs, 1);
  const map = await fit(x, y, inputs);
  assert.ok(map.ridge > 0 && map.ridge < 1e-6, `${map.ridge}`);
  assert.ok(map.condition < 1e12);
  const again = await addon.applyAffine(map.weights, map.bias, x, inputs, 1);
  assert.ok(relative(again, [...y]) < 1e-4);
  const constant = await fit(new Float32Array(4).fill(7), Float32Array.of(1, 2, 3, 6), 1);
  assert.ok(Math.abs(constant.bias[0]! + 7 * constant.weights[0]! - 3) < 1e-5, 'all the same: the mean of y');
});

test('the condition that is reported is that of the scaled sums of products', async () => {
  // two columns with correlation r have the condition (1 + r) / (1 - r), whatever their sizes
  const count = 4000;
  const [a, b] = [gaussians(count, 1), gaussians(count, 2)];
  const x = new Float32Array(2 * count);
  for (let i = 0; i < count; i++) x.set([a[i]! + 5, 1000 * (0.8 * a[i]! + 0.6 * b[i]!)], 2 * i);
  const { condition } = await fit(x, a, 2);
  assert.ok(Math.abs(condition - 9) < 1, `${condition}`);
});

test('NaN and infinity are refused, as are rows of other widths, and a second solution', async () => {
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
    const sums = addon.leastSquares(2, 1, true, 1);
    await assert.rejects(sums.add(Float32Array.of(1, bad), Float32Array.of(1)), { code: 'not_finite' });
    await assert.rejects(sums.add(Float32Array.of(1, 2), Float32Array.of(bad)), { code: 'not_finite' });
  }
  const sums = addon.leastSquares(2, 1, true, 1);
  await assert.rejects(sums.add(Float32Array.of(1, 2, 3), Float32Array.of(1)), /not as wide/);
  await assert.rejects(addon.leastSquares(2, 1, true, 1).solve(0), /no rows/);
  await sums.add(Float32Array.of(1, 2, 3, 5, 4, 4), Float32Array.of(1, 2, 3));
  await sums.solve(0);
  await assert.rejects(sums.solve(0), /solved already/);
  assert.throws(
    () => void addon.applyAffine(new Float32Array(6), new Float32Array(2), new Float32Array(4), 3, 1),
    /do not fit/,
  );
});
