/** How well a score tells two kinds apart: the area under the ROC curve. */
import { checkNumbers } from './checks.js';
import { ranks } from './ranks.js';
import { draw, type Interval, percentiles, RESAMPLES } from './resampling.js';

export interface Auc extends Interval {
  readonly value: number;
}

/**
 * The probability that a positive scores higher than a negative, equal scores counted half (Mann and Whitney's U
 * over the number of pairs), with a bootstrap interval in which positives and negatives are drawn apart.
 *
 * @throws PatchscopeError `bad_input` where either kind has no score or one is no number.
 */
export function auc(positives: readonly number[], negatives: readonly number[], seed: number): Auc {
  const { ofPositives, ofNegatives, count } = placed(positives, negatives);
  const resampled = new Float64Array(RESAMPLES);
  // the second seed gives draws that have nothing to do with those of the first
  const drawPositives = resampler(ofPositives, seed);
  const drawNegatives = resampler(ofNegatives, ~seed);
  for (let k = 0; k < RESAMPLES; k++) resampled[k] = area(drawPositives(k), drawNegatives(k), count);
  return { value: area(ofPositives, ofNegatives, count), ...percentiles(resampled) };
}

/** As `auc`, without an interval: where scores depend on each other, theirs would be too narrow. */
export function areaUnderCurve(positives: readonly number[], negatives: readonly number[]): number {
  const { ofPositives, ofNegatives, count } = placed(positives, negatives);
  return area(ofPositives, ofNegatives, count);
}

/** Each score by its place among all different ones. */
function placed(positives: readonly number[], negatives: readonly number[]) {
  checkNumbers(positives, 'scores of positives');
  checkNumbers(negatives, 'scores of negatives');
  const order = ranks([...positives, ...negatives]);
  const places = new Map([...new Set(order)].sort((a, b) => a - b).map((rank, place) => [rank, place]));
  const all = Uint32Array.from(order, (rank) => places.get(rank)!);
  return {
    ofPositives: all.subarray(0, positives.length),
    ofNegatives: all.subarray(positives.length),
    count: places.size,
  };
}

function resampler(places: Uint32Array, seed: number): (k: number) => Uint32Array {
  const n = places.length;
  const drawn = new Uint32Array(n);
  return (k) => {
    draw(drawn, k * n, n, seed);
    return drawn.map((i) => places[i]!);
  };
}

/** Of scores that are known by their place among all different scores. */
function area(positives: Uint32Array, negatives: Uint32Array, placeCount: number): number {
  const counts = new Uint32Array(placeCount);
  for (const place of negatives) counts[place]!++;
  const lower = new Float64Array(placeCount);
  for (let place = 0, below = 0; place < placeCount; below += counts[place++]!)
    lower[place] = below + counts[place]! / 2;
  let won = 0;
  for (const place of positives) won += lower[place]!;
  return won / (positives.length * negatives.length);
}
