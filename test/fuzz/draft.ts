/** Numbers near what is right and at the edges of what a type holds; models on their way to being damaged. */
import type { Gguf, Tensor, Value } from '../fixtures/gguf.js';
import { badKinds, goodKinds, type ModelKind, tinyModel } from '../fixtures/models.js';
import type { Random } from './random.js';

/** A model, and what was done to it. */
export interface Draft {
  readonly metadata: Map<string, Value>;
  readonly tensors: Tensor[];
  readonly done: string[];
}

export type Change = (draft: Draft, random: Random) => void;

const known = new Map<ModelKind, Gguf>();

/** Most of them of an architecture that is not refused anyway. */
export function drawModel(random: Random): Draft {
  const kind = random.pick(random.chance(0.85) ? goodKinds : badKinds);
  const model = known.get(kind) ?? tinyModel(kind);
  known.set(kind, model);
  return { metadata: new Map(model.metadata), tensors: [...model.tensors], done: [kind] };
}

const bits = [2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 20, 24, 31, 32];

export const edges: readonly number[] = [
  ...[0, 1, 2, 100, 1000],
  ...bits.flatMap((count) => [2 ** count - 1, 2 ** count, 2 ** count + 1]),
];

/** Near what is right, or an edge of some kind. */
export function drawNumber(random: Random, right: number): number {
  const near = [right - 1, right + 1, right * 2, Math.floor(right / 2), right + 2, -right, right * 3];
  return random.chance(0.4) ? random.pick(near) : random.pick(edges);
}
