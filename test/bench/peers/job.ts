/** A workload as data: token ids, layers and positions, which every peer reads. */
import { cellAt, type Plan } from '../../../src/index.js';
import { needPrompt } from '../../../src/plan/sources.js';
import type { Workload } from '../workloads.js';

export interface Job {
  readonly threads: number;
  readonly tokens: number;
  /** Rows at once, where a peer batches. */
  readonly batch: number;
  readonly cells: readonly JobCell[];
}

interface JobCell {
  readonly source: readonly number[];
  readonly sourcePosition: number;
  readonly sourceLayer: number;
  readonly target: readonly number[];
  readonly targetPosition: number;
  readonly targetLayer: number;
}

/** With 32 to 128 the peers' times differ by a few hundredths, and more rows take more memory. */
const PEER_BATCH = 64;

/** The cells of a plan in its order. */
export function jobOf(plan: Plan, { tokens }: Workload, threads: number): Job {
  const cells = Array.from({ length: plan.cellCount }, (_, i) => {
    const { pair, source, target } = cellAt(plan, i);
    const prompt = needPrompt(pair.source, 'a peer captures prompts');
    return {
      source: prompt.tokenIds,
      sourcePosition: prompt.tokenIndex,
      sourceLayer: Number(source.layer),
      target: pair.target.tokenIds,
      targetPosition: pair.target.tokenIndex,
      targetLayer: Number(target.layer),
    };
  });
  return { threads, tokens, batch: PEER_BATCH, cells };
}

/** What a peer says of its work; `ours.ts` says the same. */
export interface JobResult {
  readonly seconds: number;
  /** Of each cell. */
  readonly tokens: readonly (readonly number[])[];
  /** Of all its processes. */
  readonly peakBytes: number;
  readonly versions: Readonly<Record<string, string>>;
}
