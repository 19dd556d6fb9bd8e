/**
 * At i * bCount + j the inner product of row i of a and row j of b, each `width` long. Two rows meet four at a time,
 * so that each number read serves several products.
 */
export function innerProducts(
  a: Float64Array,
  aCount: number,
  b: Float64Array,
  bCount: number,
  width: number,
): Float64Array {
  const products = new Float64Array(aCount * bCount);
  const [aEven, bEven] = [aCount - (aCount % 2), bCount - (bCount % 4)];
  for (let i = 0; i < aEven; i += 2) {
    for (let j = 0; j < bEven; j += 4)
      twoByFour(a, i * width, b, j * width, width, products, i * bCount + j, bCount);
  }
  for (let i = 0; i < aCount; i++) {
    for (let j = i < aEven ? bEven : 0; j < bCount; j++)
      products[i * bCount + j] = product(a, i * width, b, j * width, width);
  }
  return products;
}

function twoByFour(
  a: Float64Array,
  a0: number,
  b: Float64Array,
  b0: number,
  width: number,
  products: Float64Array,
  at: number,
  stride: number,
): void {
  const a1 = a0 + width;
  const b1 = b0 + width;
  const b2 = b1 + width;
  const b3 = b2 + width;
  let [s00, s01, s02, s03] = [0, 0, 0, 0];
  let [s10, s11, s12, s13] = [0, 0, 0, 0];
  for (let k = 0; k < width; k++) {
    const x = a[a0 + k]!;
    const y = a[a1 + k]!;
    const p = b[b0 + k]!;
    const q = b[b1 + k]!;
    const r = b[b2 + k]!;
    const s = b[b3 + k]!;
    s00 += x * p;
    s01 += x * q;
    s02 += x * r;
    s03 += x * s;
    s10 += y * p;
    s11 += y * q;
    s12 += y * r;
    s13 += y * s;
  }
  products[at] = s00;
  products[at + 1] = s01;
  products[at + 2] = s02;
  products[at + 3] = s03;
  products[at + stride] = s10;
  products[at + stride + 1] = s11;
  products[at + stride + 2] = s12;
  products[at + stride + 3] = s13;
}

function product(a: Float64Array, a0: number, b: Float64Array, b0: number, width: number): number {
  let sum = 0;
  for (let k = 0; k < width; k++) sum += a[a0 + k]! * b[b0 + k]!;
  return sum;
}
