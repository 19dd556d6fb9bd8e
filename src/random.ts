/** Seeded random numbers: the same seed gives the same ones on every machine. */
import { createHash } from 'node:crypto';
import { uniformFloat64 } from 'pure-rand/distribution/uniformFloat64';
import { mersenne } from 'pure-rand/generator/mersenne';

/** Numbers of the interval [0, 1). */
export function uniforms(seed: number): () => number {
  const generator = mersenne(seed);
  return () => uniformFloat64(generator);
}

/** The seed of one draw among many, each told by whole numbers: unlike those of its neighbours. */
export function seedOf(...numbers: readonly number[]): number {
  return createHash('sha256').update(numbers.join()).digest().readUInt32LE() >>> 1;
}

/** Independent draws of the standard normal distribution (Box and Muller's transform). */
export function gaussians(count: number, seed: number): Float32Array {
  const uniform = uniforms(seed);
  return Float32Array.from({ length: count }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    return radius * Math.cos(2 * Math.PI * uniform());
  });
}
