/** One place's states as x of a fit, those of some other places as y, from a stream of both. */
import { PatchscopeError } from '../errors.js';
import type { KindOptions, MappingKind, MapRecord } from '../patchscope.js';
import { KernelFitter } from './kernel-fitter.js';
import type { FittedMap, Widths } from './maps.js';
import { MatrixFitter } from './matrix-fitter.js';
import { MlpFitter } from './mlp-fitter.js';
import { IdentityFitter, MeanFitter, ScaleFitter } from './plain-fitters.js';

export interface FitTask extends Widths {
  readonly kind: MappingKind;
  /** As `optionsOf` gives them. */
  readonly options: KindOptions;
  /** As in `MapRecord`. */
  readonly ridge: number;
  /** Of whatever the kind draws. */
  readonly seed: number;
  /** Places that the states are mapped to, each by a map of its own. */
  readonly targets: number;
  readonly threads: number;
  readonly signal?: AbortSignal | undefined;
}

export type Fit = Pick<MapRecord, 'ridge' | 'condition' | 'bandwidth'> & { readonly map: FittedMap };

export interface Fitter {
  /** Rows of the source, and as many of each target. */
  add(x: Float32Array, ys: readonly Float32Array[]): Promise<void>;
  /** Of each target, in their order; nothing can be added afterwards. */
  solve(): Promise<Fit[]>;
}

/** @throws PatchscopeError `bad_input` where the kind can't have such widths. */
export function makeFitter(task: FitTask): Fitter {
  const { kind, source, target } = task;
  switch (kind) {
    case 'linear':
    case 'affine':
    case 'low-rank':
      return new MatrixFitter(task);
    case 'kernel':
      return new KernelFitter(task);
    case 'mlp':
      return new MlpFitter(task);
  }
  if (source.width !== target.width) {
    throw new PatchscopeError(
      'bad_input',
      `The kind ${kind} can't map states of ${source.width} floats to ${target.width}: take affine or linear.`,
    );
  }
  switch (kind) {
    case 'scale':
      return new ScaleFitter(task);
    case 'mean-difference':
      return new MeanFitter(task);
    case 'identity':
      return new IdentityFitter(task);
  }
}

/** How many pairs a kind needs without a ridge, so that there is one best map. */
export function leastPairs(kind: MappingKind, width: number, { features = 0 }: KindOptions): number {
  return {
    ...{ identity: 0, scale: 1, 'mean-difference': 1, mlp: 1 },
    ...{ linear: width, affine: width + 1, 'low-rank': width + 1, kernel: features + 1 },
  }[kind];
}

/** Most bytes of memory that the fit of one source place takes at once. */
export function fitBytes(
  {
    kind,
    options,
    source,
    target,
    targets,
  }: Pick<FitTask, 'kind' | 'options' | 'source' | 'target' | 'targets'>,
  pairs: number,
): number {
  const outputs = targets * target.width;
  const sums = (inputs: number) => 8 * inputs * (2 * inputs + outputs);
  switch (kind) {
    case 'identity':
    case 'scale':
    case 'mean-difference':
      return 0;
    case 'linear':
    case 'affine':
      return sums(source.width);
    case 'low-rank':
      return sums(source.width) + 8 * outputs * source.width + 24 * target.width ** 2;
    case 'kernel':
      return sums(options.features!);
    case 'mlp':
      return 4 * pairs * (2 * source.width + outputs + target.width);
  }
}
