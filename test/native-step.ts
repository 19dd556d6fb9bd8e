/** What the addon is asked for in one decode. */
import type { NativeReadings } from '../src/native.js';

export const everyIndex = (tokenIds: readonly number[]): number[] => tokenIds.map((_, i) => i);

/** What the addon is asked to read at these rows, where the most probable tokens are all that is wanted. */
export function nativeRead(rows: readonly number[], asked: Partial<NativeReadings> = {}) {
  return {
    topK: 1,
    tracked: new Int32Array(),
    logits: false,
    temperature: 0,
    sampledTopK: 0,
    sampledTopP: 1,
    ...asked,
    rows: Int32Array.from(rows),
    given: new Int32Array(rows.length).fill(-1),
    seeds: new Int32Array(rows.length),
    ownTracked: new Int32Array(),
    ownTrackedCounts: new Int32Array(rows.length),
  };
}

/** States that replace others, as the addon takes them. */
export const nativeReplace = (vectors: Float32Array, rows: number) => ({
  op: 'replace',
  alphas: new Float32Array(rows).fill(1),
  vectors,
});
