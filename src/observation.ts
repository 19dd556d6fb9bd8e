import type { Control, Layer, Site } from './patchscope.js';

/** What came out of one cell. */
export interface Outcome {
  readonly status: 'ok' | 'failed';
  /** Reason of a failure: code and sentence. */
  readonly error: string | null;
  /** Generated text. */
  readonly text: string | null;
  readonly tokenIds: readonly number[];
  /** Of each step the most probable tokens, the one that was chosen and those tracked, by rank; step 0 is the first. */
  readonly steps: readonly (readonly TokenScore[])[];
  /** Metrics of this cell alone, by name. */
  readonly scores: Readonly<Record<string, number>>;
  /**
   * Norm of the vector that was patched, as captured, mapped or drawn and before op and alpha, in norms of the
   * state that the target prompt itself has at that place and position. Left out where there is no such vector; of
   * several that of the first position, at the cell's own layers.
   */
  readonly normRatio?: number;
  /** Of each token of the continuation, where it was asked for. */
  readonly relevancy?: readonly TokenRelevancy[];
}

/** Probability of a token as it was read, and as it is read in its place where nothing is patched. */
export interface TokenRelevancy {
  readonly tokenId: number;
  readonly probability: number;
  readonly unpatched: number;
}

/** One cell (sample x variant x source layer x target layer x control) and what came out: the row of a results file. */
export interface Observation extends Outcome {
  /** Index of the sample in its experiment. */
  readonly sample: number;
  /** With the sample it names prompts, positions and what the patch does. */
  readonly variant: string;
  readonly sourceSite: Site;
  readonly targetSite: Site;
  /** Of the moves of its variant, where that goes through several positions, the cell's first. Default: 0. */
  readonly move?: number;
  /** Null where nothing was patched. */
  readonly sourceLayer: Layer | null;
  readonly targetLayer: Layer | null;
  /** Its name. */
  readonly mapping: string;
  readonly control: Control;
  /** Counts draws of the cell, and repetitions of a control: k draws, then k more for each further repetition. */
  readonly draw: number;
  /** Whether another outcome came of it when its chunk was run again. Left out where it was run once. */
  readonly differs?: boolean;
}

/** The log-probability is natural; rank 0 is the most probable token. */
export interface TokenScore {
  readonly tokenId: number;
  readonly token: string;
  readonly logprob: number;
  readonly rank: number;
}

/** What a linear probe found in the states of one group of samples, in one variant. */
export interface Probe {
  readonly variant: string;
  /** Empty: samples without one. */
  readonly group: string;
  /** It saw no other samples than those whose fact the model knows. */
  readonly known: boolean;
  readonly samples: number;
  readonly subjects: number;
  readonly classes: number;
  /** Why there are no predictions, or not at all layers; null where all are there. */
  readonly note: string | null;
  readonly predictions: readonly ProbePrediction[];
}

/** Of one sample at one source layer, by a probe that it was held out from. */
export interface ProbePrediction {
  readonly sample: number;
  readonly sourceSite: Site;
  readonly sourceLayer: Layer;
  readonly fold: number;
  /** The class. */
  readonly predicted: string;
  readonly correct: boolean;
}
