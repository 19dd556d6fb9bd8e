/** Damaged models: a tiny one with some of its keys, tensors or bytes changed, as a seed says. */
import { writeGguf } from '../fixtures/gguf.js';
import { damagedBytes, headerLength } from './damage-bytes.js';
import { keyChanges } from './damage-keys.js';
import { tensorChanges, writeWithOtherType } from './damage-tensors.js';
import { drawModel } from './draft.js';
import type { Random } from './random.js';

export interface Damaged {
  readonly bytes: Uint8Array;
  readonly what: string;
}

export function headerDamage(random: Random): Damaged {
  const draft = drawModel(random);
  if (random.chance(0.75))
    for (const change of random.times(1, 3, () => random.pick(keyChanges))) change(draft, random);
  const bytes = writeGguf(draft);
  if (draft.done.length > 1) return { bytes, what: draft.done.join(', ') };
  const changed = damagedBytes(bytes, headerLength(draft, bytes), random);
  return { bytes: changed.bytes, what: `${draft.done[0]}, ${changed.what}` };
}

export function tensorDamage(random: Random): Damaged {
  const draft = drawModel(random);
  for (const change of random.times(1, 3, () => random.pick(tensorChanges))) change(draft, random);
  if (random.chance(0.25)) random.pick(keyChanges)(draft, random);
  const retyped = draft.tensors.length > 0 && random.chance(0.3);
  const bytes = retyped ? writeWithOtherType(draft, random) : writeGguf(draft);
  return { bytes, what: draft.done.join(', ') };
}
