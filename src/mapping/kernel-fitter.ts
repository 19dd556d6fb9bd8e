/** Least squares on random Fourier features (Rahimi and Recht, 2007), which stand for a Gaussian kernel. */
import { joined } from '../floats.js';
import type { NativeLeastSquares } from '../native.js';
import { gaussians, uniforms } from '../random.js';
import type { Fit, FitTask, Fitter } from './fit.js';
import { type FittedMap, matrices, wavesOf } from './maps.js';
import { mapsOf, sideBySide } from './matrix-fitter.js';

/** Rows whose distances say how wide the kernel is. */
const ROWS_OF_MEDIAN = 256;

export class KernelFitter implements Fitter {
  readonly #task: FitTask;
  readonly #sums: NativeLeastSquares;
  /** Pairs of rows that wait until there are enough to draw waves for. */
  #waiting: (readonly [x: Float32Array, ys: readonly Float32Array[]])[] = [];
  #waves: (FittedMap & { readonly frequencies: Float32Array }) | undefined;
  #bandwidth = Number.NaN;

  constructor(task: FitTask) {
    const { options, target, targets, threads } = task;
    this.#task = task;
    this.#sums = matrices().leastSquares(options.features!, targets * target.width, true, threads);
  }

  async add(x: Float32Array, ys: readonly Float32Array[]): Promise<void> {
    this.#waiting.push([x, ys]);
    const count = this.#waiting.reduce((sum, [rows]) => sum + rows.length, 0) / this.#task.source.width;
    if (this.#waves !== undefined || count >= ROWS_OF_MEDIAN) await this.#addWaiting();
  }

  async solve(): Promise<Fit[]> {
    await this.#addWaiting();
    const { ridge: asked, targets } = this.#task;
    const { weights: weight, bias, ridge, condition } = await this.#sums.solve(asked);
    const fit = { ridge, condition, bandwidth: this.#bandwidth };
    return mapsOf({ weight, bias }, targets, fit).map(({ map, ...rest }) => ({
      ...rest,
      map: { ...this.#waves, ...map },
    }));
  }

  async #addWaiting(): Promise<void> {
    const { source, target, threads } = this.#task;
    this.#waves ??= this.#draw(joined(this.#waiting.map(([x]) => x)));
    for (const [x, ys] of this.#waiting) {
      const waves = await wavesOf(this.#waves, x, source.width, threads);
      await this.#sums.add(waves, sideBySide(ys, x.length / source.width, target.width));
    }
    this.#waiting = [];
  }

  #draw(rows: Float32Array): FittedMap & { readonly frequencies: Float32Array } {
    const { options, source, seed } = this.#task;
    const { width } = source;
    this.#bandwidth =
      options.bandwidth ?? (medianDistance(rows.subarray(0, ROWS_OF_MEDIAN * width), width) || 1);
    const uniform = uniforms(seed + 1);
    return {
      frequencies: gaussians(options.features! * width, seed).map((value) => value / this.#bandwidth),
      phases: Float32Array.from({ length: options.features! }, () => 2 * Math.PI * uniform()),
    };
  }
}

function medianDistance(rows: Float32Array, width: number): number {
  const squares: number[] = [];
  for (let a = 0; a < rows.length; a += width) {
    for (let b = 0; b < a; b += width) {
      let square = 0;
      for (let i = 0; i < width; i++) square += (rows[a + i]! - rows[b + i]!) ** 2;
      squares.push(square);
    }
  }
  const sorted = Float64Array.from(squares).sort();
  return Math.sqrt(sorted[sorted.length >> 1] ?? 0);
}
