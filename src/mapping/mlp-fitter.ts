/** One hidden layer, by steps down the slope of the mean square (Adam). Keeps all pairs: it sees each many times. */
import { joined } from '../floats.js';
import { gaussians, uniforms } from '../random.js';
import type { Fit, FitTask, Fitter } from './fit.js';
import { type FittedMap, matrices } from './maps.js';

/** Pairs of one step. */
const BATCH = 128;
const EPSILON = 1e-8;

export class MlpFitter implements Fitter {
  readonly #task: FitTask;
  readonly #x: Float32Array[] = [];
  readonly #ys: Float32Array[][] = [];

  constructor(task: FitTask) {
    this.#task = task;
  }

  async add(x: Float32Array, ys: readonly Float32Array[]): Promise<void> {
    this.#x.push(x);
    this.#ys.push([...ys]);
  }

  async solve(): Promise<Fit[]> {
    const { source, target, targets } = this.#task;
    const x = joined(this.#x.splice(0));
    const from = columnsOf(x, source.width);
    normalize(x, from.mean, from.deviation);
    const fits: Fit[] = [];
    for (let i = 0; i < targets; i++) {
      const y = joined(this.#ys.map((ys) => ys[i]!));
      const { mean, deviation } = columnsOf(y, target.width);
      // one number for all: the axes keep their weights in what is minimized
      const size = Math.sqrt(deviation.reduce((sum, value) => sum + value * value, 0) / target.width);
      const to = { mean, deviation: deviation.fill(size) };
      normalize(y, to.mean, to.deviation);
      fits.push({ ridge: 0, condition: null, map: this.#unfold(await this.#train(x, y), from, to) });
    }
    return fits;
  }

  async #train(x: Float32Array, y: Float32Array): Promise<Float32Array> {
    const { options, source, target, seed, threads, signal } = this.#task;
    const { hidden, activation, epochs, rate } = options;
    const count = x.length / source.width;
    const batch = Math.min(BATCH, count);
    const steps = Math.floor(count / batch);
    const begin = firstParameters(source.width, hidden!, target.width, seed);
    const mlp = matrices().mlp(source.width, hidden!, target.width, activation!, batch, begin, threads);
    const uniform = uniforms(seed + 1);
    const order = Uint32Array.from({ length: count }, (_, i) => i);
    for (let epoch = 0; epoch < epochs!; epoch++) {
      signal?.throwIfAborted();
      shuffle(order, uniform);
      const rows = order.subarray(0, steps * batch);
      const falling = rate! * (1 - epoch / epochs!);
      await mlp.train(rowsOf(x, source.width, rows), rowsOf(y, target.width, rows), falling, EPSILON);
    }
    return mlp.parameters();
  }

  /** Parameters between normalized rows -> tensors of a map between rows as they are. */
  #unfold(parameters: Float32Array, from: Columns, to: Columns): FittedMap {
    const { options, source, target } = this.#task;
    const [inputs, hidden, outputs] = [source.width, options.hidden!, target.width];
    let at = 0;
    const take = (count: number) => {
      at += count;
      return parameters.subarray(at - count, at);
    };
    const [hiddenWeight, hiddenBias] = [take(hidden * inputs), take(hidden)];
    const [weight, bias] = [take(outputs * hidden), take(outputs)];
    const scaled = hiddenWeight.map((value, i) => value / from.deviation[i % inputs]!);
    const moved = hiddenBias.map((value, j) => {
      let sum = value;
      for (let i = 0; i < inputs; i++) {
        sum -= (hiddenWeight[j * inputs + i]! / from.deviation[i]!) * from.mean[i]!;
      }
      return sum;
    });
    return {
      hidden_weight: scaled,
      hidden_bias: moved,
      weight: weight.map((value, i) => value * to.deviation[Math.floor(i / hidden)]!),
      bias: bias.map((value, j) => value * to.deviation[j]! + to.mean[j]!),
    };
  }
}

interface Columns {
  readonly mean: Float64Array;
  /** 1 where a column is the same everywhere. */
  readonly deviation: Float64Array;
}

function columnsOf(rows: Float32Array, width: number): Columns {
  const count = rows.length / width;
  const [mean, deviation] = [new Float64Array(width), new Float64Array(width)];
  for (let i = 0; i < rows.length; i++) mean[i % width]! += rows[i]! / count;
  for (let i = 0; i < rows.length; i++) deviation[i % width]! += (rows[i]! - mean[i % width]!) ** 2 / count;
  return { mean, deviation: deviation.map((variance) => Math.sqrt(variance) || 1) };
}

function normalize(rows: Float32Array, mean: Float64Array, deviation: Float64Array): void {
  const width = mean.length;
  for (let i = 0; i < rows.length; i++) rows[i] = (rows[i]! - mean[i % width]!) / deviation[i % width]!;
}

/** Weights as large as keep the size of what goes through (He and others, 2015); no biases. */
function firstParameters(inputs: number, hidden: number, outputs: number, seed: number): Float32Array {
  const drawn = gaussians(hidden * (inputs + 1) + outputs * (hidden + 1), seed);
  const first = hidden * inputs;
  const second = first + hidden;
  return drawn.map((value, i) => {
    if (i < first) return value * Math.sqrt(2 / inputs);
    if (i < second || i >= second + outputs * hidden) return 0;
    return value * Math.sqrt(1 / hidden);
  });
}

/** Every order is as likely as any other (Fisher and Yates). */
function shuffle(order: Uint32Array, uniform: () => number): void {
  for (let i = order.length - 1; i > 0; i--) {
    const k = Math.floor(uniform() * (i + 1));
    [order[i], order[k]] = [order[k]!, order[i]!];
  }
}

function rowsOf(rows: Float32Array, width: number, order: Uint32Array): Float32Array {
  const out = new Float32Array(order.length * width);
  order.forEach((row, i) => {
    out.set(rows.subarray(row * width, (row + 1) * width), i * width);
  });
  return out;
}
