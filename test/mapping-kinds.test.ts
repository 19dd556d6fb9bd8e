/** Laws of the kinds of mappings: what each finds, against numpy and against what rows were made with. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { test } from 'node:test';
import { type Fit, type FitTask, makeFitter } from '../src/mapping/fit.js';
import { optionsOf, ridgeOf } from '../src/mapping/kind-options.js';
import { applyMap, type FittedMap, matrices, parameterCount } from '../src/mapping/maps.js';
import { Quality } from '../src/mapping/quality.js';
import { loadAddon } from '../src/native.js';
import { type KindOptions, type MappingKind, mappingKinds } from '../src/patchscope.js';
import { gaussians } from '../src/random.js';
import { assertRefused, assertSameBits } from './support.js';

const addon = loadAddon('cpu');

type Rows = readonly (readonly number[])[];
interface Made {
  readonly weight: Rows;
  readonly bias: readonly number[];
  readonly applied: Rows;
}

const reference = JSON.parse(
  fs.readFileSync(new URL('reference/least-squares.json', import.meta.url), 'utf8'),
) as {
  readonly x: Rows;
  readonly y: Rows;
  readonly new: Rows;
  readonly low_rank: readonly (Made & { readonly rank: number; readonly ridge: number })[];
  readonly kernel: Made & {
    readonly ridge: number;
    readonly frequencies: Rows;
    readonly phases: readonly number[];
  };
  readonly mlp: readonly {
    readonly activation: 'relu' | 'silu';
    readonly tensors: readonly (Rows | readonly number[])[];
    readonly applied: Rows;
  }[];
};
const rows = (values: Rows) => Float32Array.from(values.flat());
const [x, y, fresh] = [rows(reference.x), rows(reference.y), rows(reference.new)];
const [inputs, outputs] = [reference.x[0]!.length, reference.y[0]!.length];

interface Given {
  readonly widths?: readonly [inputs: number, outputs: number];
  readonly options?: KindOptions;
  readonly ridge?: number;
  readonly seed?: number;
  readonly pieces?: number;
}

async function fit(
  kind: MappingKind,
  from: Float32Array,
  to: readonly Float32Array[],
  { widths = [inputs, outputs], options = {}, ridge, seed = 1, pieces = 1 }: Given = {},
): Promise<(Fit & Pick<FitTask, 'kind' | 'options'>)[]> {
  const [source, target] = [{ width: widths[0] }, { width: widths[1] }];
  const used = { kind, options: optionsOf(kind, options, { source, target }) };
  const fitter = makeFitter({
    ...{ ...used, ridge: ridgeOf(kind, ridge), seed, source, target },
    ...{ targets: to.length, threads: 1 },
  });
  const count = from.length / source.width;
  for (let i = 0; i < pieces; i++) {
    const part = (all: Float32Array, width: number) =>
      all.slice(Math.floor((i * count) / pieces) * width, Math.floor(((i + 1) * count) / pieces) * width);
    await fitter.add(
      part(from, source.width),
      to.map((all) => part(all, target.width)),
    );
  }
  return (await fitter.solve()).map((found) => ({ ...used, ...found }));
}

/** Largest difference as a part of the largest expected value. */
function relative(actual: Float32Array, expected: ArrayLike<number>): number {
  assert.equal(actual.length, expected.length);
  const values = Array.from(expected);
  return (
    Math.max(...values.map((value, i) => Math.abs(value - actual[i]!))) / Math.max(...values.map(Math.abs))
  );
}

const none = new Float32Array();
/** up times down, (outputs, inputs). */
async function productOf({ down, up }: FittedMap, width: number): Promise<Float32Array> {
  const rank = down!.length / width;
  const transposed = Float32Array.from(down!, (_, i) => down![(i % rank) * width + Math.floor(i / rank)]!);
  const columns = await addon.applyAffine(up!, none, transposed, rank, 1);
  const height = columns.length / width;
  return Float32Array.from(columns, (_, i) => columns[(i % width) * height + Math.floor(i / width)]!);
}

for (const { rank, ridge, weight, bias, applied } of reference.low_rank) {
  test(`low-rank, rank ${rank}, ridge ${ridge}: the same map as numpy's, and rows become the same`, async () => {
    const [first, found] = await fit('low-rank', x, [y.map((value) => value + 1), y], {
      ...{ options: { rank }, ridge, pieces: 3 },
    });
    assert.ok(relative(await productOf(found!.map, inputs), weight.flat()) < 1e-6);
    assert.ok(relative(found!.map.bias!, bias) < 1e-6);
    assert.ok(relative(await applyMap(found!, found!.map, fresh, inputs, 1), applied.flat()) < 1e-5);
    assert.ok(
      relative(
        first!.map.bias!,
        bias.map((value) => value + 1),
      ) < 1e-6,
      'its own target',
    );
  });
}

test('low-rank of full rank is the affine map, of a lower one no nearer to what it was fitted to', async () => {
  const [affine] = await fit('affine', x, [y]);
  const r2: number[] = [];
  for (let rank = 1; rank <= outputs; rank++) {
    const [found] = await fit('low-rank', x, [y], { options: { rank } });
    r2.push(await r2Of(found!, x, y, inputs, outputs));
  }
  assert.deepEqual(
    r2,
    [...r2].sort((a, b) => a - b),
  );
  const [full] = await fit('low-rank', x, [y], { options: { rank: outputs } });
  assert.ok(relative(await productOf(full!.map, inputs), affine!.map.weight!) < 1e-6);
  assert.ok(relative(full!.map.bias!, affine!.map.bias!) < 1e-6);
});

test('low-rank finds a map of that rank again, narrow to wide and wide to narrow, in any number of threads', async () => {
  for (const [from, to] of [
    [150, 40],
    [40, 150],
    [120, 120],
    [5, 1],
    [1, 5],
    [2, 2],
  ] as const) {
    const rank = Math.min(7, from, to);
    const states = gaussians(400 * from, 1);
    const [down, up] = [gaussians(rank * from, 2), gaussians(to * rank, 3)];
    const made = await addon.applyAffine(
      up,
      gaussians(to, 4),
      await addon.applyAffine(down, none, states, from, 2),
      rank,
      2,
    );
    const [found] = await fit('low-rank', states, [made], { widths: [from, to], options: { rank } });
    assert.ok(relative(await applyMap(found!, found!.map, states, from, 1), made) < 1e-5, `${from} ${to}`);
    const bits = [];
    for (const threads of [1, 3]) {
      const sums = addon.leastSquares(from, to, true, threads);
      await sums.add(states, made);
      bits.push((await sums.solveLowRank(0, rank, 1)).down);
    }
    assertSameBits(bits[0]!, bits[1]!, 'threads');
  }
});

test("kernel: numpy's weights for the waves that were drawn, and rows become the same", async () => {
  const { frequencies, phases, ridge, weight, bias, applied } = reference.kernel;
  const waves = { frequencies: rows(frequencies), phases: Float32Array.from(phases) };
  const map = { ...waves, weight: rows(weight), bias: Float32Array.from(bias) };
  assert.ok(relative(await applyMap({ kind: 'kernel' }, map, fresh, inputs, 1), applied.flat()) < 1e-5);
  const cosines = await addon.applyWaves(waves.frequencies, waves.phases, x, inputs, 1);
  const sums = addon.leastSquares(phases.length, outputs, true, 1);
  await sums.add(cosines, y);
  const solved = await sums.solve(ridge);
  assert.ok(relative(solved.weights, weight.flat()) < 1e-6);
  assert.ok(relative(solved.bias, bias) < 1e-6);
});

test("kernel: what its waves say of two states is the Gaussian kernel's value, at the median distance too", async () => {
  const [width, count] = [6, 300];
  const states = gaussians(count * width, 5);
  for (const bandwidth of [1.5, undefined]) {
    const [found] = await fit('kernel', states, [states], {
      widths: [width, width],
      options: { features: 20_000 / 4, ...(bandwidth !== undefined && { bandwidth }) },
      ridge: 1,
    });
    const { frequencies, phases } = found!.map;
    const waves = await addon.applyWaves(frequencies!, phases!, states.slice(0, 2 * width), width, 1);
    const features = phases!.length;
    let mean = 0;
    for (let i = 0; i < features; i++) mean += (2 / features) * waves[i]! * waves[features + i]!;
    let square = 0;
    for (let i = 0; i < width; i++) square += (states[i]! - states[width + i]!) ** 2;
    assert.ok(Math.abs(mean - Math.exp(-square / (2 * found!.bandwidth! ** 2))) < 0.05, `${mean}`);
    // half of the squared distances of such states are below 10.7, twice the median of chi-square with 6
    if (bandwidth === undefined)
      assert.ok(Math.abs(found!.bandwidth! - Math.sqrt(10.7)) < 0.2, `${found!.bandwidth}`);
    else assert.equal(found!.bandwidth, bandwidth);
  }
});

for (const { activation, tensors, applied } of reference.mlp) {
  test(`mlp, ${activation}: rows become what numpy says`, async () => {
    const [hidden_weight, hidden_bias, weight, bias] = tensors.map((values) =>
      Float32Array.from(values.flat()),
    );
    const map = { hidden_weight, hidden_bias, weight, bias } as FittedMap;
    const kind = { kind: 'mlp', options: { activation } } as const;
    assert.ok(relative(await applyMap(kind, map, fresh, inputs, 1), applied.flat()) < 1e-5);
  });

  test(`mlp, ${activation}: a step goes down the slope that finite differences have`, async () => {
    const [from, hidden, to, count] = [5, 4, 3, 20];
    const [a, b] = [gaussians(count * from, 1), gaussians(count * to, 2)];
    const begin = gaussians(hidden * (from + 1) + to * (hidden + 1), 3);
    const mlp = addon.mlp(from, hidden, to, activation, count, begin, 1);
    // Adam's first step is rate g / (|g| + epsilon): with both far above g, it is g
    const far = 1e4;
    const loss = await mlp.train(a, b, far, far);
    const after = await mlp.parameters();
    assert.ok(Math.abs(loss - lossOf(begin, a, b, [from, hidden, to], activation)) < 1e-5 * loss);
    begin.forEach((value, i) => {
      const at = (by: number) =>
        lossOf(
          Float64Array.from(begin, (other, k) => (k === i ? other + by : other)),
          a,
          b,
          [from, hidden, to],
          activation,
        );
      const slope = (at(1e-4) - at(-1e-4)) / 2e-4;
      assert.ok(
        Math.abs(value - after[i]! - slope) < 2e-3 * Math.max(1, Math.abs(slope)),
        `${i}: ${value - after[i]!} ${slope}`,
      );
    });
  });
}

/** Mean square of the differences, from the definition. */
function lossOf(
  parameters: ArrayLike<number>,
  a: Float32Array,
  b: Float32Array,
  [from, hidden, to]: readonly [number, number, number],
  activation: 'relu' | 'silu',
): number {
  const at = (i: number) => parameters[i]!;
  const [second, last] = [hidden * (from + 1), hidden * (from + 1) + to * hidden];
  let sum = 0;
  for (let row = 0; row < a.length / from; row++) {
    const middle = Array.from({ length: hidden }, (_, j) => {
      let value = at(hidden * from + j);
      for (let i = 0; i < from; i++) value += at(j * from + i) * a[row * from + i]!;
      return activation === 'relu' ? Math.max(0, value) : value / (1 + Math.exp(-value));
    });
    for (let k = 0; k < to; k++) {
      let value = at(last + k);
      middle.forEach((state, j) => {
        value += at(second + k * hidden + j) * state;
      });
      sum += (value - b[row * to + k]!) ** 2;
    }
  }
  return sum / b.length;
}

async function r2Of(
  found: Fit & Pick<FitTask, 'kind' | 'options'>,
  from: Float32Array,
  to: Float32Array,
  width: number,
  widthOfTarget: number,
): Promise<number> {
  const quality = new Quality(widthOfTarget);
  quality.add(await applyMap(found, found.map, from, width, 1), to);
  return quality.r2!;
}

test('where what states become is no straight line, kernel and mlp are nearer than affine, on states they never saw', async () => {
  const [from, to, count] = [4, 3, 1200];
  const states = gaussians(count * from, 1).map((value) => 50 + 10 * value);
  const become = new Float32Array(count * to);
  for (let row = 0; row < count; row++) {
    const [a, b, c] = Array.from({ length: 3 }, (_, i) => (states[row * from + i]! - 50) / 10);
    become.set([7 + Math.sin(2 * a!), 3 * b! * c!, Math.abs(a! - b!)], row * to);
  }
  const half = count / 2;
  const r2 = new Map<string, number>();
  for (const [kind, options] of [
    ['affine', {}],
    ['kernel', { features: 300 }],
    ['mlp', { hidden: 64, activation: 'silu', epochs: 300, rate: 0.01 }],
    ['mlp', { hidden: 64, activation: 'relu', epochs: 300, rate: 0.01 }],
  ] as const) {
    const [found] = await fit(kind, states.slice(0, half * from), [become.slice(0, half * to)], {
      ...{ widths: [from, to], options, pieces: 5 },
    });
    const name = `${kind} ${'activation' in options ? options.activation : ''}`;
    r2.set(name, await r2Of(found!, states.slice(half * from), become.slice(half * to), from, to));
  }
  const told = JSON.stringify([...r2]);
  assert.ok(r2.get('affine ')! < 0.2, told);
  for (const [name, value] of r2) if (name !== 'affine ') assert.ok(value > 0.8, told);
});

test('the same seed gives the same bits, another one others, and each of several targets has its own map', async () => {
  const [from, to] = [6, 4];
  const states = gaussians(300 * from, 1);
  const become = [gaussians(300 * to, 2), gaussians(300 * to, 3)];
  for (const [kind, options] of [
    ['kernel', { features: 40 }],
    ['mlp', { hidden: 8, epochs: 3 }],
  ] as const) {
    const maps = async (seed: number, targets: readonly Float32Array[]) =>
      (await fit(kind, states, targets, { widths: [from, to], options, seed, pieces: 2 })).map(
        ({ map }) => map,
      );
    const [one, again, other] = [await maps(1, become), await maps(1, become), await maps(2, become)];
    const alone = await maps(1, [become[1]!]);
    for (const part of Object.keys(one[0]!)) {
      assertSameBits(one[0]![part]!, again[0]![part]!, `${kind} ${part}`);
      assertSameBits(one[1]![part]!, alone[0]![part]!, `${kind} ${part} alone`);
    }
    assert.notDeepEqual(one[0]!.weight, other[0]!.weight);
    assert.notDeepEqual(one[0]!.weight, one[1]!.weight);
  }
});

test('mean-difference adds how far the means are apart', async () => {
  const width = 3;
  const states = Float32Array.from([1, 2, 3, 3, 2, 1]);
  const [found] = await fit('mean-difference', states, [Float32Array.of(5, 5, 5, 9, 7, 5)], {
    widths: [width, width],
    pieces: 2,
  });
  assert.deepEqual([...found!.map.bias!], [5, 4, 3]);
  assert.deepEqual([...(await applyMap(found!, found!.map, states, width, 1))], [6, 6, 6, 8, 6, 4]);
});

test('the parameters that are told are those of the fitted tensors', async () => {
  const square = y.slice(0, 7 * outputs);
  for (const kind of mappingKinds) {
    const own: Partial<Record<MappingKind, KindOptions>> = {
      'low-rank': { rank: 2 },
      kernel: { features: 5 },
      mlp: { hidden: 3, epochs: 1 },
    };
    const options = own[kind] ?? {};
    const [found] = await fit(kind, square, [square], { widths: [outputs, outputs], options, ridge: 0 });
    const fitted = Object.entries(found!.map).filter(([name]) => name !== 'frequencies' && name !== 'phases');
    const widths = { source: { width: outputs }, target: { width: outputs } };
    assert.equal(
      parameterCount({ kind, options: found!.options, ...widths }),
      fitted.reduce((sum, [, values]) => sum + values.length, 0),
      kind,
    );
  }
});

test('options of other kinds, and those out of bounds, are refused', async () => {
  const widths = { source: { width: 8 }, target: { width: 5 } };
  const refused = (kind: MappingKind, options: KindOptions, says: RegExp) =>
    assertRefused(() => optionsOf(kind, options, widths), 'bad_input', says);
  await refused('affine', { rank: 2 }, /kind affine has no rank: .* take the kind low-rank/);
  await refused('mlp', { features: 2 }, /kind mlp has no features: .* take the kind kernel/);
  await refused('low-rank', {}, /needs a rank: give one from 1 to 5/);
  for (const rank of [0, 6, 1.5]) await refused('low-rank', { rank }, /rank is .* from 1 to 5/);
  await refused('kernel', { features: 0 }, /number of features is 0 where/);
  await refused('kernel', { bandwidth: 0 }, /bandwidth is 0 where a number above 0/);
  await refused('mlp', { hidden: 1e9 }, /number of hidden is 1000000000 where/);
  await refused('mlp', { epochs: 0.5 }, /number of epochs is 0.5 where/);
  await refused('mlp', { rate: Number.NaN }, /rate is NaN where/);
  for (const kind of ['identity', 'scale', 'mean-difference', 'mlp'] as const) {
    await assertRefused(() => ridgeOf(kind, 0.1), 'bad_input', new RegExp(`kind ${kind} has no ridge`));
  }
  await assertRefused(
    () => fit('mean-difference', x, [y]),
    'bad_input',
    /mean-difference can't map states of 13 floats to 7/,
  );
});

test('rows that are no whole batches, and parameters of another shape, are refused', async () => {
  assert.throws(() => void matrices().mlp(2, 2, 2, 'relu', 1, new Float32Array(3), 1), /not as many/);
  const mlp = matrices().mlp(1, 1, 1, 'relu', 2, new Float32Array(4), 1);
  await assert.rejects(mlp.train(new Float32Array(3), new Float32Array(3), 0.1, 1e-8), /no whole batches/);
  await assert.rejects(mlp.train(new Float32Array(2), new Float32Array(4), 0.1, 1e-8), /not as wide/);
});
