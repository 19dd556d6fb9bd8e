import type { Layer, Site } from './patchscope.js';

/** What came out of one cell: its identity and the outcome, which make a row of a results file. */
export interface Observation extends Outcome {
  /** Index of the sample in its experiment. */
  readonly sample: number;
  /** Name of the variant, which holds prompts, positions and what the patch does. */
  readonly variant: string;
  readonly sourceSite: Site;
  readonly targetSite: Site;
  /** Null where nothing was patched: the control `unpatched`. */
  readonly sourceLayer: Layer | null;
  readonly targetLayer: Layer | null;
  readonly mapping: string;
  readonly control: Control;
  /** Counts repetitions of a control that draws. */
  readonly draw: number;
}

/** What was patched instead of the captured state; `none`: that state. */
export type Control = 'none' | 'random' | 'shuffled' | 'unpatched';

export interface Outcome {
  readonly status: 'ok' | 'failed';
  /** Reason of a failure: code and sentence. */
  readonly error: string | null;
  /** Generated text. */
  readonly text: string | null;
  readonly tokenIds: readonly number[];
  /**
   * The most probable tokens of each step, the chosen one and the tracked ones, each once and by rank;
   * step 0 is the first.
   */
  readonly steps: readonly (readonly TokenScore[])[];
  /** Values of this cell by the names of metrics. */
  readonly scores: Readonly<Record<string, number>>;
}

/** The log-probability is natural; rank 0 is the most probable token. */
export interface TokenScore {
  readonly tokenId: number;
  readonly token: string;
  readonly logprob: number;
  readonly rank: number;
}
