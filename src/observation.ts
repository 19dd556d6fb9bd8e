import type { EditOp, Layer, Site } from './patchscope.js';

/** What came out of one cell (sample x source layer x target layer): the row of a results file. */
export interface Observation {
  /** Index of the sample in its experiment. */
  readonly sample: number;
  /** Tells apart cells of one sample and pair of layers, such as the position read by a lens. */
  readonly variant: string;
  readonly sourceSite: Site;
  readonly targetSite: Site;
  readonly sourceLayer: Layer;
  readonly targetLayer: Layer;
  readonly sourcePosition: number;
  readonly sourceTokenId: number;
  readonly sourceToken: string;
  readonly targetPosition: number;
  readonly targetTokenId: number;
  readonly targetToken: string;
  /** What the patch did to the state it met. */
  readonly op: EditOp;
  readonly alpha: number;
  readonly atGenerated: boolean;
  readonly status: 'ok' | 'failed';
  /** Reason of a failure: code and sentence. */
  readonly error: string | null;
  /** Generated text. */
  readonly text: string | null;
  readonly tokenIds: readonly number[];
  /** The most probable tokens of each step, and the one that was chosen; step 0 is the first. */
  readonly steps: readonly (readonly TokenScore[])[];
}

/** The log-probability is natural; rank 0 is the most probable token. */
export interface TokenScore {
  readonly tokenId: number;
  readonly token: string;
  readonly logprob: number;
  readonly rank: number;
}
