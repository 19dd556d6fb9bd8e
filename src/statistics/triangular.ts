/** Symmetric positive definite matrices as lower triangles L, of which they are L L' (Cholesky). */

/** @param matrix n rows of n. */
export function lowerTriangle(matrix: Float64Array, n: number): Float64Array {
  const lower = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let rest = matrix[i * n + j]!;
      for (let k = 0; k < j; k++) rest -= lower[i * n + k]! * lower[j * n + k]!;
      lower[i * n + j] = i === j ? Math.sqrt(rest) : rest / lower[j * n + j]!;
    }
  }
  return lower;
}

/** Turns the n rows of X, each `width` long, into those of L^-1 X. */
export function solveRows(lower: Float64Array, n: number, rows: Float64Array, width: number): void {
  for (let i = 0; i < n; i++) {
    const own = i * width;
    for (let j = 0; j < i; j++) {
      const factor = lower[i * n + j]!;
      const other = j * width;
      for (let k = 0; k < width; k++) rows[own + k]! -= factor * rows[other + k]!;
    }
    for (let k = 0; k < width; k++) rows[own + k]! /= lower[i * n + i]!;
  }
}

/** x -> L x. */
export function timesVector(lower: Float64Array, n: number, x: Float64Array): Float64Array {
  return x.map((_, i) => {
    let sum = 0;
    for (let j = 0; j <= i; j++) sum += lower[i * n + j]! * x[j]!;
    return sum;
  });
}

/** x -> L'^-1 x. */
export function solveTransposed(lower: Float64Array, n: number, x: Float64Array): Float64Array {
  const solved = x.slice();
  for (let i = n - 1; i >= 0; i--) {
    solved[i]! /= lower[i * n + i]!;
    for (let j = 0; j < i; j++) solved[j]! -= lower[i * n + j]! * solved[i]!;
  }
  return solved;
}
