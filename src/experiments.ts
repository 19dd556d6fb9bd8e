/** The experiments that come with the package: files of data. */
import fs from 'node:fs';
import type { Experiment } from './patchscope.js';
import { parsePosition } from './positions.js';

interface PromptAt {
  readonly prompt: string;
  /** As typed on the command line. */
  readonly position: string;
}

/** Every source is a sample of its own; the target is the same for all. */
interface ExperimentFile extends Omit<Experiment, 'samples' | 'mapping'> {
  /** The question it asks, for a person. */
  readonly about: string;
  readonly sources: readonly PromptAt[];
  readonly target: PromptAt;
}

export type BuiltInName = 'token-identity' | 'entity-description' | 'world-token-identity' | 'known-answers';

/** Reads a built-in experiment, and the question it asks. */
export function builtInExperiment(name: BuiltInName): Experiment & { readonly about: string } {
  const file = new URL(`../src/experiments/${name}.json`, import.meta.url);
  const { sources, target, ...rest } = JSON.parse(fs.readFileSync(file, 'utf8')) as ExperimentFile;
  return {
    ...rest,
    mapping: { kind: 'identity' },
    samples: sources.map((source) => ({
      name: source.prompt,
      source: promptAt(source),
      target: promptAt(target),
    })),
  };
}

function promptAt({ prompt, position }: PromptAt) {
  return { prompt: { kind: 'text' as const, text: prompt }, position: parsePosition(position) };
}
