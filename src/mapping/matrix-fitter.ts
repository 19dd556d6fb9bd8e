/** Linear, affine and low-rank maps by least squares. */
import type { NativeLeastSquares } from '../native.js';
import type { Fit, FitTask, Fitter } from './fit.js';
import { matrices } from './maps.js';

export class MatrixFitter implements Fitter {
  readonly #task: FitTask;
  readonly #sums: NativeLeastSquares;

  constructor(task: FitTask) {
    const { kind, source, target, targets, threads } = task;
    this.#task = task;
    this.#sums = matrices().leastSquares(source.width, targets * target.width, kind !== 'linear', threads);
  }

  add(x: Float32Array, ys: readonly Float32Array[]): Promise<void> {
    const { source, target } = this.#task;
    return this.#sums.add(x, sideBySide(ys, x.length / source.width, target.width));
  }

  async solve(): Promise<Fit[]> {
    const { kind, targets, ridge: asked, options } = this.#task;
    if (kind === 'low-rank') {
      const { down, up, bias, ridge, condition } = await this.#sums.solveLowRank(
        asked,
        options.rank!,
        targets,
      );
      return mapsOf({ down, up, bias }, targets, { ridge, condition });
    }
    const { weights, bias, ridge, condition } = await this.#sums.solve(asked);
    return mapsOf({ weight: weights, ...(bias.length > 0 && { bias }) }, targets, { ridge, condition });
  }
}

/** Tensors of all targets, one after the other -> the maps of each. */
export function mapsOf<T extends Omit<Fit, 'map'>>(
  tensors: Readonly<Record<string, Float32Array>>,
  targets: number,
  fit: T,
): (T & Pick<Fit, 'map'>)[] {
  const part = (all: Float32Array, i: number) =>
    all.subarray((i * all.length) / targets, ((i + 1) * all.length) / targets);
  return Array.from({ length: targets }, (_, i) => ({
    ...fit,
    map: Object.fromEntries(Object.entries(tensors).map(([name, all]) => [name, part(all, i)])),
  }));
}

/** Rows of several matrices as one row each. */
export function sideBySide(parts: readonly Float32Array[], rows: number, width: number): Float32Array {
  if (parts.length === 1) return parts[0]!;
  const all = new Float32Array(rows * parts.length * width);
  parts.forEach((part, i) => {
    for (let row = 0; row < rows; row++) {
      all.set(part.subarray(row * width, (row + 1) * width), (row * parts.length + i) * width);
    }
  });
  return all;
}
