/**
 * Samples in as few dimensions as they span: inner products of samples tell all that a linear method with a penalty
 * on squared weights can see of them.
 */
import { innerProducts } from './inner-products.js';

/** At i * n + j the inner product of samples i and j, of n samples one behind the other. */
export function gramMatrix(samples: Float64Array, width: number): Float64Array {
  const n = samples.length / width;
  return innerProducts(samples, n, samples, n, width);
}

/** Of the longest squared length what rounding leaves of nothing. */
const ROUNDING = 1e-13;

/**
 * Coordinates of all samples in the space that those of `basis` span, after the mean of these has been taken off: a
 * row each coordinate. They are the columns of a Cholesky decomposition with pivots (Higham, Accuracy and Stability
 * of Numerical Algorithms, section 10.3).
 */
export function coordinates(gram: Float64Array, basis: readonly number[]): Float64Array {
  const n = Math.sqrt(gram.length);
  const products = centred(gram, n, basis);
  const rest = Float64Array.from({ length: n }, (_, i) => products[i * n + i]!);
  const longest = Math.max(...basis.map((i) => rest[i]!));
  const rows = new Float64Array(basis.length * n);
  let count = 0;
  for (; count < basis.length; count++) {
    const pivot = basis.reduce((best, i) => (rest[i]! > rest[best]! ? i : best));
    if (!(rest[pivot]! > ROUNDING * longest)) break;
    const row = rows.subarray(count * n, (count + 1) * n);
    row.set(products.subarray(pivot * n, (pivot + 1) * n));
    for (let k = 0; k < count; k++) {
      const factor = rows[k * n + pivot]!;
      for (let i = 0; i < n; i++) row[i]! -= factor * rows[k * n + i]!;
    }
    const length = Math.sqrt(rest[pivot]!);
    for (let i = 0; i < n; i++) {
      row[i]! /= length;
      rest[i]! -= row[i]! ** 2;
    }
    rest[pivot] = 0;
  }
  return rows.slice(0, count * n);
}

/** Inner products after the mean of the `basis` samples has been taken off all. */
function centred(gram: Float64Array, n: number, basis: readonly number[]): Float64Array {
  const withMean = Float64Array.from({ length: n }, (_, i) => mean(basis.map((j) => gram[i * n + j]!)));
  const square = mean(basis.map((j) => withMean[j]!));
  return gram.map((product, at) => product - withMean[Math.floor(at / n)]! - withMean[at % n]! + square);
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** `count` rows of `width` -> `width` rows of `count`. */
export function transposed(rows: Float64Array, count: number, width: number): Float64Array {
  const columns = new Float64Array(rows.length);
  for (let i = 0; i < count; i++) {
    for (let k = 0; k < width; k++) columns[k * count + i] = rows[i * width + k]!;
  }
  return columns;
}
