/** Whether readings of a model can be trusted on this machine, asked of the engine alone, before a long run. */
import type { Engine } from '../engine.js';
import {
  causality,
  finiteStates,
  identity,
  lastLayer,
  type Subject,
  subjectOf,
  subsetOfStates,
} from './laws.js';
import { NoResult, type SelfCheck, unmeasured } from './self-check.js';
import { tokenIdentity } from './words.js';

/** What each of them tells, as they are named where it can't be asked. */
const checks: readonly (readonly [string, (subject: Subject) => Promise<SelfCheck | SelfCheck[]>])[] = [
  ['states', finiteStates],
  ['capture', subsetOfStates],
  ['identity', identity],
  ['causality', causality],
  ['last layer', lastLayer],
  ['words', ({ engine }) => tokenIdentity(engine)],
];

/** Yields each answer as it is there; the signal ends it between two of them. */
export async function* selfTest(
  engine: Engine,
  { signal }: { readonly signal?: AbortSignal } = {},
): AsyncGenerator<SelfCheck> {
  const subject = await subjectOf(engine);
  for (const [name, check] of checks) {
    signal?.throwIfAborted();
    try {
      yield* [await check(subject)].flat();
    } catch (error) {
      if (!(error instanceof NoResult)) throw error;
      yield unmeasured(name, 'failed', error.message.replace(/[.]$/, ''));
    }
  }
}
