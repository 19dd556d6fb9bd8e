/** The floats of a source or of a vector at one place, made of the states that were captured for it. */
import { norm } from './floats.js';
import type { EditOp } from './patchscope.js';
import type { Place } from './places.js';
import { isVector, promptsOf, type ResolvedSource } from './plan/sources.js';
import type { ResolvedPrompt } from './prompts.js';
import { gaussians } from './random.js';
import type { Failure, States } from './source-states.js';

/** What is drawn is drawn with the seed. */
export interface Wanted {
  readonly place: Place;
  readonly width: number;
  readonly seed: () => number;
}

/** @param states of its prompts. */
export function valuesOf(
  source: ResolvedSource,
  { place, width, seed }: Wanted,
  states: States,
): Float32Array | Failure {
  const stateOf = (prompt: ResolvedPrompt) => states.get(prompt)!.get(place)!;
  if (!isVector(source)) return stateOf(source);
  const failure = promptsOf(source)
    .map(stateOf)
    .find((state) => !(state instanceof Float32Array));
  if (failure !== undefined) return failure;
  const mean = (prompts: readonly ResolvedPrompt[]) => meanOf(prompts.map(stateOf) as Float32Array[]);
  switch (source.kind) {
    case 'mean':
      return Float32Array.from(mean(source.prompts));
    case 'difference': {
      const minus = mean(source.minus);
      return Float32Array.from(mean(source.prompts), (value, i) => value - minus[i]!);
    }
    case 'file': {
      const { values } = source.read!;
      return values instanceof Float32Array ? values : values[place.layer as number]!;
    }
    case 'zero':
      return new Float32Array(width);
    case 'noise': {
      const deviation = source.sigma * (source.deviation ?? 1);
      return gaussians(width, seed()).map((value) => deviation * value);
    }
    case 'random': {
      const direction = gaussians(width, seed());
      const factor = source.norm / norm(direction);
      return direction.map((value) => factor * value);
    }
  }
}

/** Why a vector that is known only now can't be added. */
export function directionless(op: EditOp, values: Float32Array): Failure | undefined {
  return op === 'norm-matched-add' && values.every((value) => value === 0)
    ? { code: 'bad_input', error: 'The vector is zero and has no direction, which norm-matched-add needs.' }
    : undefined;
}

/** As `valuesOf`; what is the same for many cells, and costs a pass over all prompts, is made once. */
export function valuesFrom(
  states: States,
): (source: ResolvedSource, wanted: Wanted) => Float32Array | Failure {
  const known = new Map<ResolvedSource, Map<Place, Float32Array | Failure>>();
  return (source, wanted) => {
    if (!isVector(source) || promptsOf(source).length === 0) return valuesOf(source, wanted, states);
    const ofSource = known.get(source) ?? new Map<Place, Float32Array | Failure>();
    known.set(source, ofSource);
    const values = ofSource.get(wanted.place) ?? valuesOf(source, wanted, states);
    ofSource.set(wanted.place, values);
    return values;
  };
}

/** Of one row it is that row, sign of zero and all. */
function meanOf([first, ...others]: readonly Float32Array[]): Float64Array {
  const sums = Float64Array.from(first!);
  for (const other of others) {
    for (const [i, value] of other.entries()) sums[i]! += value;
  }
  return sums.map((sum) => sum / (others.length + 1));
}
