/** What readings are compared with, so that one can tell whether to believe them. */
import { PatchscopeError } from '../errors.js';
import type { Experiment } from '../patchscope.js';

/** @throws PatchscopeError `bad_input` where a metric compares readings with others that are not run. */
export function checkFidelity({ metrics = [], variants = [], controls = {} }: Experiment): void {
  const { random = 0, shuffled = 0, unpatched = false } = controls;
  if (metrics.includes('agreement') && variants.length < 2) {
    throw new PatchscopeError(
      'bad_input',
      'The metric agreement compares what several variants say, and there is only one: add variants that ask the same in other words.',
    );
  }
  if (metrics.includes('unlike-controls') && random + shuffled + Number(unpatched) === 0) {
    throw new PatchscopeError(
      'bad_input',
      'The metric unlike-controls compares readings with those of controls, and there are none: add random, shuffled or unpatched to controls.',
    );
  }
}
