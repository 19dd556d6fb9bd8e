/**
 * Multinomial logistic regression with an L2 penalty, as scikit-learn defines it: C times the sum of -log p of each
 * sample's class, plus half the squared weights; intercepts are not penalised.
 */
import { transposed } from './coordinates.js';
import { innerProducts } from './inner-products.js';
import { type Evaluation, minimise, norm } from './lbfgs.js';
import { lowerTriangle, solveRows, solveTransposed, timesVector } from './triangular.js';

export interface Training {
  /** A row each coordinate, one number each sample; the fit is fast where their mean is 0. */
  readonly coordinates: Float64Array;
  /** Of each sample, from 0. */
  readonly classes: readonly number[];
  readonly classCount: number;
  readonly c: number;
  /** A fit that is not done by then ends all the same. */
  readonly maxIterations: number;
}

export interface Fit {
  /** A row each class, one number each coordinate. */
  readonly weights: Float64Array;
  readonly intercepts: Float64Array;
  /** C times the sum of -log p, plus half the squared weights. */
  readonly loss: number;
  /** Length of its gradient: where intercepts fit, the loss is above the smallest by half the square at most. */
  readonly slope: number;
  readonly iterations: number;
}

/** What p (1 - p) is about, once a fit tells most samples apart; the better it is met, the fewer iterations. */
const CURVATURE = 1e-3;
/** A fit ends where the loss has no steeper slope. */
const SLOPE = 0.003;

/**
 * States of a model are thousands long in some directions, and the loss bends accordingly. So it is sought with
 * weights v = L' w, where L L' = I + kappa X' X: the penalty on w is |v|^2 - kappa |X w|^2.
 */
export function fitLogistic(training: Training): Fit {
  if (training.classCount > 2) return fitRows(training);
  // one row of weights w would be enough, and is what scikit-learn penalises; in two rows, w / 2 and -w / 2, it costs half
  const half = fitRows({ ...training, c: training.c / 2 });
  return { ...half, loss: 2 * half.loss, slope: 2 * half.slope };
}

function fitRows({ coordinates, classes, classCount, c, maxIterations }: Training): Fit {
  const n = classes.length;
  const width = coordinates.length / n;
  const kappa = c * CURVATURE;
  const lower = bendTriangle(coordinates, n, width, kappa);
  const rows = coordinates.slice();
  solveRows(lower, width, rows, n);
  const samples = transposed(rows, width, n);
  const begin = classCount * width;

  const evaluate = (place: Float64Array): Evaluation => {
    const logits = innerProducts(place, classCount, samples, n, width);
    const { errors, intercepts, loss } = errorsAt(logits, place.subarray(begin), classes, c);
    let penalty = 0;
    for (let i = 0; i < begin; i++) penalty += place[i]! ** 2;
    for (let i = 0; i < logits.length; i++) {
      penalty -= kappa * logits[i]! ** 2;
      errors[i]! -= kappa * logits[i]!;
    }
    const gradient = new Float64Array(place.length);
    gradient.set(innerProducts(errors, classCount, rows, width, n));
    for (let i = 0; i < begin; i++) gradient[i]! += place[i]!;
    gradient.set(intercepts, begin);
    return { value: loss + penalty / 2, gradient };
  };

  const eachClass = (values: Float64Array, of: (row: Float64Array) => Float64Array) => {
    const mapped = values.slice();
    for (let at = 0; at < begin; at += width) mapped.set(of(values.subarray(at, at + width)), at);
    return mapped;
  };
  const slopeOf = (gradient: Float64Array) =>
    norm(eachClass(gradient, (row) => timesVector(lower, width, row)));
  // the slope is no less by w than by v, and takes longer to say
  const isDone = (gradient: Float64Array) => norm(gradient) <= SLOPE && slopeOf(gradient) <= SLOPE;
  const start = new Float64Array(begin + classCount);
  const { place, value, gradient, iterations } = minimise(evaluate, start, isDone, maxIterations);
  const weights = eachClass(place, (row) => solveTransposed(lower, width, row));
  return {
    weights: weights.slice(0, begin),
    intercepts: weights.slice(begin),
    loss: value,
    slope: slopeOf(gradient),
    iterations,
  };
}

/** The L of I + kappa X' X = L L'. */
function bendTriangle(coordinates: Float64Array, n: number, width: number, kappa: number): Float64Array {
  const bend = innerProducts(coordinates, width, coordinates, width, n).map((product) => kappa * product);
  for (let i = 0; i < width; i++) bend[i * width + i]! += 1;
  return lowerTriangle(bend, width);
}

/** C (p - y) class by class, its sum over samples, and C times the sum of -log p. */
function errorsAt(logits: Float64Array, intercepts: Float64Array, classes: readonly number[], c: number) {
  const n = classes.length;
  const classCount = intercepts.length;
  const errors = new Float64Array(logits.length);
  const sums = new Float64Array(classCount);
  const own = new Float64Array(classCount);
  let loss = 0;
  for (let i = 0; i < n; i++) {
    let most = Number.NEGATIVE_INFINITY;
    for (let k = 0; k < classCount; k++) {
      own[k] = logits[k * n + i]! + intercepts[k]!;
      if (own[k]! > most) most = own[k]!;
    }
    const right = classes[i]!;
    const rightLogit = own[right]! - most;
    let total = 0;
    for (let k = 0; k < classCount; k++) {
      own[k] = Math.exp(own[k]! - most);
      total += own[k]!;
    }
    loss += c * (Math.log(total) - rightLogit);
    for (let k = 0; k < classCount; k++) {
      const error = c * (own[k]! / total - Number(k === right));
      errors[k * n + i] = error;
      sums[k]! += error;
    }
  }
  return { errors, intercepts: sums, loss };
}
