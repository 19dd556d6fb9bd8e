/** How far apart two ways of computing the same are. */

/** As many as the engine's tolerance is measured on. */
const COMPARED = 10;

/** Largest difference of the most probable tokens' log-probabilities, in nats; NaN where a logit is none. */
export function logprobDifference(expected: Float32Array, actual: Float32Array): number {
  const [inExpected, inActual] = [logTotal(expected), logTotal(actual)];
  return largest(mostProbable(expected).map((i) => expected[i]! - inExpected - (actual[i]! - inActual)));
}

/** The vocabulary is gone through once: there are hundreds of thousands of tokens, at every position. */
function mostProbable(logits: Float32Array): number[] {
  const best: number[] = [];
  for (let id = 0; id < logits.length; id++) {
    if (best.length === COMPARED && logits[id]! <= logits[best.at(-1)!]!) continue;
    const place = best.findIndex((other) => logits[id]! > logits[other]!);
    best.splice(place < 0 ? best.length : place, 0, id);
    if (best.length > COMPARED) best.pop();
  }
  return best;
}

/** As a part of the largest number. */
export function stateDifference(expected: Float32Array, actual: Float32Array): number {
  return largest([...expected].map((value, i) => value - actual[i]!)) / largest([...expected]);
}

export function norm(state: Float32Array): number {
  return Math.sqrt(state.reduce((sum, value) => sum + value * value, 0));
}

/** NaN where one of them is. */
export function largest(values: readonly number[]): number {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

/** NaN where one of them is. */
export function smallest(values: readonly number[]): number {
  return values.reduce((least, value) => Math.min(least, value), Number.POSITIVE_INFINITY);
}

function logTotal(logits: Float32Array): number {
  const most = logits.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  return most + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0));
}
