/** The experiments that come with the package, as the demo wants them. */
import { readExperiment } from './experiment-file/read-experiment.js';
import type { Experiment } from './patchscope.js';

export type BuiltInName =
  | 'token-identity'
  | 'logit-lens'
  | 'entity-description'
  | 'world-token-identity'
  | 'world-city';

/** Reads a built-in experiment, and the question it asks. */
export function builtInExperiment(name: BuiltInName): Experiment & { readonly about: string } {
  const { experiment, about } = readExperiment(name);
  return { ...experiment, about: about! };
}
