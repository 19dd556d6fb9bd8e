/** One place's states as x of least squares, those of some other places as y, from a stream of both. */
import { PatchscopeError } from '../errors.js';
import type { NativeLeastSquares } from '../native.js';
import type { MappingKind, MapRecord } from '../patchscope.js';
import { type FittedMap, matrices, type Widths } from './maps.js';

export interface FitTask extends Widths {
  readonly kind: MappingKind;
  /** As in `MapRecord`. */
  readonly ridge: number;
  /** Places that the states are mapped to, each by a map of its own. */
  readonly targets: number;
  readonly threads: number;
}

export type Fit = Pick<MapRecord, 'ridge' | 'condition'> & { readonly map: FittedMap };

export interface Fitter {
  /** Rows of the source, and as many of each target. */
  add(x: Float32Array, ys: readonly Float32Array[]): Promise<void>;
  /** Of each target, in their order; nothing can be added afterwards. */
  solve(): Promise<Fit[]>;
}

/** @throws PatchscopeError `bad_input` where the kind can't have such widths, or such a ridge. */
export function makeFitter(task: FitTask): Fitter {
  const { kind, ridge, source, target } = task;
  if (!Number.isFinite(ridge) || ridge < 0) {
    throw new PatchscopeError('bad_input', `The ridge is ${ridge} where a number of at least 0 is needed.`);
  }
  if (kind === 'linear' || kind === 'affine') return new MatrixFitter(task);
  if (ridge > 0) {
    throw new PatchscopeError('bad_input', `The kind ${kind} has no ridge: leave it out.`);
  }
  if (source.width !== target.width) {
    throw new PatchscopeError(
      'bad_input',
      `The kind ${kind} can't map states of ${source.width} floats to ${target.width}: take affine or linear.`,
    );
  }
  return kind === 'scale' ? new ScaleFitter(task.targets) : new IdentityFitter(task.targets);
}

/** How many pairs a kind needs without a ridge, so that there is one best map. */
export function leastPairs(kind: MappingKind, width: number): number {
  return { identity: 0, scale: 1, linear: width, affine: width + 1 }[kind];
}

/** Most bytes of memory that the fit of one source place takes at once. */
export function fitBytes({ kind, source, target, targets }: Omit<FitTask, 'ridge' | 'threads'>): number {
  if (kind === 'identity' || kind === 'scale') return 0;
  return 8 * source.width * (2 * source.width + targets * target.width);
}

class MatrixFitter implements Fitter {
  readonly #task: FitTask;
  readonly #sums: NativeLeastSquares;

  constructor(task: FitTask) {
    const { kind, source, target, targets, threads } = task;
    this.#task = task;
    this.#sums = matrices().leastSquares(source.width, targets * target.width, kind === 'affine', threads);
  }

  add(x: Float32Array, ys: readonly Float32Array[]): Promise<void> {
    const { source, target } = this.#task;
    return this.#sums.add(x, sideBySide(ys, x.length / source.width, target.width));
  }

  async solve(): Promise<Fit[]> {
    const { source, target, targets, ridge: asked } = this.#task;
    const { weights, bias, ridge, condition } = await this.#sums.solve(asked);
    const size = target.width * source.width;
    return Array.from({ length: targets }, (_, i) => ({
      ridge,
      condition,
      map: {
        weight: weights.subarray(i * size, (i + 1) * size),
        ...(bias.length > 0 && { bias: bias.subarray(i * target.width, (i + 1) * target.width) }),
      },
    }));
  }
}

/** Rows of several matrices as one row each. */
function sideBySide(parts: readonly Float32Array[], rows: number, width: number): Float32Array {
  if (parts.length === 1) return parts[0]!;
  const all = new Float32Array(rows * parts.length * width);
  parts.forEach((part, i) => {
    for (let row = 0; row < rows; row++) {
      all.set(part.subarray(row * width, (row + 1) * width), (row * parts.length + i) * width);
    }
  });
  return all;
}

class ScaleFitter implements Fitter {
  #squares = 0;
  readonly #products: number[];

  constructor(targets: number) {
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
      ridge: 0,
      condition: null,
      map: { factor: Float32Array.of(sum / this.#squares) },
    }));
  }
}

class IdentityFitter implements Fitter {
  readonly #targets: number;

  constructor(targets: number) {
    this.#targets = targets;
  }

  async add(): Promise<void> {}

  async solve(): Promise<Fit[]> {
    return Array.from({ length: this.#targets }, () => ({ ridge: 0, condition: null, map: {} }));
  }
}

function product(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}
