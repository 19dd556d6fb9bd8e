/** Outcomes in columns: a clone of many small objects costs as much as a fast model's work on them. */
import type { Outcome, TokenScore } from '../observation.js';

/** Scores lie one after the other, step by step, cell by cell. */
export interface PackedOutcomes {
  readonly cells: readonly Pick<Outcome, 'status' | 'error' | 'text' | 'scores'>[];
  /** Of each cell. */
  readonly tokenCounts: Uint32Array;
  readonly tokenIds: Int32Array;
  readonly stepCounts: Uint32Array;
  /** Of each step. */
  readonly scoreCounts: Uint32Array;
  readonly scoredIds: Int32Array;
  readonly ranks: Int32Array;
  readonly logprobs: Float64Array;
  /** Each text once. */
  readonly tokens: readonly string[];
  /** Of each score, its place in `tokens`. */
  readonly tokenPlaces: Uint32Array;
}

export function packOutcomes(outcomes: readonly Outcome[]): PackedOutcomes {
  const steps = outcomes.flatMap((outcome) => outcome.steps);
  const scores = steps.flat();
  const places = new Map<string, number>();
  const placeOf = ({ token }: TokenScore): number => {
    const known = places.get(token);
    if (known !== undefined) return known;
    places.set(token, places.size);
    return places.size - 1;
  };
  const tokenPlaces = Uint32Array.from(scores, placeOf);
  return {
    cells: outcomes.map(({ status, error, text, scores }) => ({ status, error, text, scores })),
    tokenCounts: Uint32Array.from(outcomes, ({ tokenIds }) => tokenIds.length),
    tokenIds: Int32Array.from(outcomes.flatMap(({ tokenIds }) => tokenIds)),
    stepCounts: Uint32Array.from(outcomes, ({ steps }) => steps.length),
    scoreCounts: Uint32Array.from(steps, (step) => step.length),
    scoredIds: Int32Array.from(scores, ({ tokenId }) => tokenId),
    ranks: Int32Array.from(scores, ({ rank }) => rank),
    logprobs: Float64Array.from(scores, ({ logprob }) => logprob),
    tokens: [...places.keys()],
    tokenPlaces,
  };
}

export function unpackOutcomes(packed: PackedOutcomes): Outcome[] {
  let token = 0;
  let step = 0;
  let score = 0;
  const nextScore = (): TokenScore => {
    const at = score++;
    return {
      tokenId: packed.scoredIds[at]!,
      token: packed.tokens[packed.tokenPlaces[at]!]!,
      logprob: packed.logprobs[at]!,
      rank: packed.ranks[at]!,
    };
  };
  const nextStep = () => times(packed.scoreCounts[step++]!, nextScore);
  return packed.cells.map((cell, i) => ({
    ...cell,
    tokenIds: times(packed.tokenCounts[i]!, () => packed.tokenIds[token++]!),
    steps: times(packed.stepCounts[i]!, nextStep),
  }));
}

function times<T>(count: number, make: () => T): T[] {
  return Array.from({ length: count }, make);
}
