/** Finds out which of several things that were computed together are broken by themselves. */
import type { ContextPool } from './context-pool.js';

export interface Attempt<T> {
  /** What came out broken. */
  readonly broken: readonly T[];
  /** What was not begun, since something before it came out broken. */
  readonly waiting: readonly T[];
}

/**
 * Works through parts of a list. NaN spreads to what is computed beside it and, through the cache, to what
 * comes after it: broken items are tried again in halves and then alone, each time in a new context, and
 * given up only if nothing else can be the cause.
 */
export async function isolateBroken<T>(
  parts: readonly (readonly T[])[],
  pool: ContextPool,
  attempt: (part: readonly T[]) => Promise<Attempt<T>>,
  giveUp: (item: T) => void,
): Promise<void> {
  const open = [...parts].reverse();
  const retried = new Set<T>();
  for (let part = open.pop(); part !== undefined; part = open.pop()) {
    const { broken, waiting } = await attempt(part);
    if (waiting.length > 0) open.push(waiting);
    if (broken.length === 0) continue;
    pool.discard();
    const [item] = broken as readonly [T];
    if (part.length > 1) {
      const middle = broken.length >> 1;
      open.push(...[broken.slice(0, middle), broken.slice(middle)].filter((half) => half.length > 0));
    } else if (!retried.has(item)) {
      retried.add(item);
      open.push(part);
    } else {
      giveUp(item);
    }
  }
}
