/** Edges of attention that a row cuts. */
import type { AttentionCut } from './engine.js';

/** The first token of a prompt that is cut off from an earlier one; infinity where there is none. */
export function earliestCut(cuts: readonly Pick<AttentionCut, 'from' | 'to'>[]): number {
  const first = cuts.flatMap(({ from, to }) => {
    const earliest = Math.min(...to);
    return from.filter((tokenIndex) => tokenIndex > earliest);
  });
  return Math.min(...first);
}
