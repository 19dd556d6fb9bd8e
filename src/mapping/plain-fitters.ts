/** Maps of which a sum or two say all. */
import type { Fit, FitTask, Fitter } from './fit.js';

const exact = { ridge: 0, condition: null };

export class IdentityFitter implements Fitter {
  readonly #targets: number;

  constructor({ targets }: FitTask) {
    this.#targets = targets;
  }

  async add(): Promise<void> {}

  async solve(): Promise<Fit[]> {
    return Array.from({ length: this.#targets }, () => ({ ...exact, map: {} }));
  }
}

export class ScaleFitter implements Fitter {
  #squares = 0;
  readonly #products: number[];

  constructor({ targets }: FitTask) {
    this.#products = new Array<number>(targets).fill(0);
  }

  async add(x: Float32Array, ys: readonly Float32Array[]): Promise<void> {
    this.#squares += product(x, x);
    ys.forEach((y, i) => {
      this.#products[i]! += product(x, y);
    });
  }

  async solve(): Promise<Fit[]> {
    return this.#products.map((sum) => ({
      ...exact,
      map: { factor: Float32Array.of(sum / this.#squares) },
    }));
  }
}

export class MeanFitter implements Fitter {
  #rows = 0;
  readonly #differences: Float64Array[];

  constructor({ targets, target }: FitTask) {
    this.#differences = Array.from({ length: targets }, () => new Float64Array(target.width));
  }

  async add(x: Float32Array, ys: readonly Float32Array[]): Promise<void> {
    const width = this.#differences[0]!.length;
    this.#rows += x.length / width;
    this.#differences.forEach((sums, i) => {
      const y = ys[i]!;
      for (let k = 0; k < y.length; k++) sums[k % width]! += y[k]! - x[k]!;
    });
  }

  async solve(): Promise<Fit[]> {
    return this.#differences.map((sums) => ({
      ...exact,
      map: { bias: Float32Array.from(sums, (sum) => sum / this.#rows) },
    }));
  }
}

function product(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}
