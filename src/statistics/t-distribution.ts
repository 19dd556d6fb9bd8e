/** Student's t distribution with a whole number of degrees of freedom. */

/**
 * P(|T| > |t|): the regularised incomplete beta function I_x(df / 2, 1 / 2) at x = df / (df + t^2)
 * (Abramowitz and Stegun, 26.7.1 and 26.5.8).
 */
export function twoSidedTail(t: number, df: number): number {
  if (t === 0) return 1;
  if (!Number.isFinite(t)) return Number.isNaN(t) ? Number.NaN : 0;
  const a = df / 2;
  const b = 1 / 2;
  const square = t * t;
  const x = df / (df + square);
  const y = square / (df + square);
  const front = (Math.exp(a * -Math.log1p(square / df)) * Math.sqrt(y)) / betaWithHalf(df);
  // the fraction converges fast on one side of the mean
  return x < (a + 1) / (a + b + 2)
    ? (front * betaFraction(a, b, x)) / a
    : 1 - (front * betaFraction(b, a, y)) / b;
}

/** B(df / 2, 1 / 2), from B(1 / 2, 1 / 2) = pi and B(1, 1 / 2) = 2. */
function betaWithHalf(df: number): number {
  let value = df % 2 === 1 ? Math.PI : 2;
  for (let a = df % 2 === 1 ? 0.5 : 1; a < df / 2; a++) value *= a / (a + 0.5);
  return value;
}

/** The continued fraction of I_x(a, b), by Lentz's method (Numerical Recipes, 6.4). */
function betaFraction(a: number, b: number, x: number): number {
  let c = 1;
  let d = 1 / (1 - ((a + b) * x) / (a + 1));
  let value = d;
  for (let m = 1, change = 0; Math.abs(change - 1) > Number.EPSILON; m++) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 / (1 + even * d);
    c = 1 + even / c;
    value *= c * d;
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / (1 + odd * d);
    c = 1 + odd / c;
    change = c * d;
    value *= change;
  }
  return value;
}
