/**
 * Smallest value of a smooth convex function, by L-BFGS (Nocedal and Wright, Numerical Optimization, 2nd edition,
 * algorithms 7.4 and 7.5, with the Wolfe conditions of section 3.1 reached by bisection).
 */

export interface Evaluation {
  readonly value: number;
  readonly gradient: Float64Array;
}

export interface Minimum extends Evaluation {
  readonly place: Float64Array;
  readonly iterations: number;
}

const MEMORY = 30;
const DECREASE = 1e-4;
const CURVATURE = 0.9;
const TRIES = 60;

/** Ends where `isDone` says so of the gradient, after so many iterations or where no step goes lower in floating point. */
export function minimise(
  evaluate: (place: Float64Array) => Evaluation,
  start: Float64Array,
  isDone: (gradient: Float64Array) => boolean,
  maxIterations: number,
): Minimum {
  let place = start;
  let current = evaluate(place);
  const steps: Step[] = [];
  let iterations = 0;
  while (iterations < maxIterations && !isDone(current.gradient)) {
    const direction = descent(current.gradient, steps);
    const first = steps.length === 0 ? 1 / norm(current.gradient) : 1;
    const found = search(evaluate, place, current, direction, first);
    if (found === undefined) break;
    iterations++;
    const change = sum(found.place, place, -1);
    const bend = sum(found.gradient, current.gradient, -1);
    const product = dot(change, bend);
    if (product > 0) steps.push({ change, bend, product });
    if (steps.length > MEMORY) steps.shift();
    place = found.place;
    current = found;
  }
  return { place, value: current.value, gradient: current.gradient, iterations };
}

interface Step {
  readonly change: Float64Array;
  /** Change of the gradient. */
  readonly bend: Float64Array;
  readonly product: number;
}

/** The two-loop recursion. */
function descent(gradient: Float64Array, steps: readonly Step[]): Float64Array {
  const direction = gradient.map((value) => -value);
  const shares = new Float64Array(steps.length);
  for (let k = steps.length - 1; k >= 0; k--) {
    const { change, bend, product } = steps[k]!;
    shares[k] = dot(change, direction) / product;
    add(direction, bend, -shares[k]!);
  }
  const last = steps.at(-1);
  if (last !== undefined) {
    const scale = last.product / dot(last.bend, last.bend);
    for (let i = 0; i < direction.length; i++) direction[i]! *= scale;
  }
  steps.forEach(({ change, bend, product }, k) => {
    add(direction, change, shares[k]! - dot(bend, direction) / product);
  });
  return direction;
}

function search(
  evaluate: (place: Float64Array) => Evaluation,
  place: Float64Array,
  { value, gradient }: Evaluation,
  direction: Float64Array,
  first: number,
): (Evaluation & { readonly place: Float64Array }) | undefined {
  const fall = dot(gradient, direction);
  let [low, high] = [0, Number.POSITIVE_INFINITY];
  for (let step = first, tries = 0; tries < TRIES; tries++) {
    const moved = sum(place, direction, step);
    const next = evaluate(moved);
    if (!(next.value <= value + DECREASE * step * fall)) high = step;
    else if (dot(next.gradient, direction) < CURVATURE * fall) low = step;
    else return { ...next, place: moved };
    step = high === Number.POSITIVE_INFINITY ? 2 * step : (low + high) / 2;
  }
  return undefined;
}

function dot(a: Float64Array, b: Float64Array): number {
  let total = 0;
  for (let i = 0; i < a.length; i++) total += a[i]! * b[i]!;
  return total;
}

export function norm(a: Float64Array): number {
  return Math.sqrt(dot(a, a));
}

/** a += factor b. */
function add(a: Float64Array, b: Float64Array, factor: number): void {
  for (let i = 0; i < a.length; i++) a[i]! += factor * b[i]!;
}

/** a + factor b. */
function sum(a: Float64Array, b: Float64Array, factor: number): Float64Array {
  const total = a.slice();
  add(total, b, factor);
  return total;
}
