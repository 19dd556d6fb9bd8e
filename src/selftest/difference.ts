/** How far apart two ways of computing the same are. */

/** As many as the engine's tolerance is measured on. */
const COMPARED = 10;

/** Largest difference of the most probable tokens' log-probabilities, in nats; NaN where a logit is none. */
export function logprobDifference(expected: Float32Array, actual: Float32Array): number {
  const [inExpected, inActual] = [logTotal(expected), logTotal(actual)];
  const best = [...expected.keys()].sort((a, b) => expected[b]! - expected[a]!).slice(0, COMPARED);
  return largest(best.map((i) => expected[i]! - inExpected - (actual[i]! - inActual)));
}

/** As a part of the largest number. */
export function stateDifference(expected: Float32Array, actual: Float32Array): number {
  return largest([...expected].map((value, i) => value - actual[i]!)) / largest([...expected]);
}

export function norm(state: Float32Array): number {
  return Math.sqrt(state.reduce((sum, value) => sum + value * value, 0));
}

/** NaN is larger than any number. */
export function largest(values: readonly number[]): number {
  return values.reduce((most, value) => (Math.abs(value) <= most ? most : Math.abs(value)), 0);
}

export function smallest(values: readonly number[]): number {
  return values.reduce((least, value) => (value >= least ? least : value), Number.POSITIVE_INFINITY);
}

function logTotal(logits: Float32Array): number {
  const most = logits.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  return most + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0));
}
