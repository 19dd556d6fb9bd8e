/**
 * Experiment -> plan: every prompt as token ids, every position as an index, every cell named. Pure data,
 * made with a tokenizer alone; the same experiment gives the same plan.
 */
import type { Tokenizer } from './engine.js';
import { PatchscopeError } from './errors.js';
import { parseLayers } from './layers.js';
import type { Experiment, Layer } from './patchscope.js';
import { type ResolvedPrompt, resolvePrompt } from './prompts.js';

export interface PlannedSample {
  readonly name: string;
  readonly source: ResolvedPrompt;
  readonly target: ResolvedPrompt;
}

export interface Cell {
  /** Index in `samples`. */
  readonly sample: number;
  readonly sourceLayer: Layer;
  readonly targetLayer: Layer;
}

export interface Plan {
  readonly experiment: Experiment;
  readonly samples: readonly PlannedSample[];
  /** In the order of execution: cells that write at one target layer are neighbours. */
  readonly cells: readonly Cell[];
}

/** What a plan has to know of a model. */
export interface ModelShape {
  readonly layerCount: number;
  /** Most tokens of a prompt and its continuation. */
  readonly promptTokens: number;
}

/** @throws PatchscopeError `bad_input` where the experiment does not fit the model. */
export function makePlan(experiment: Experiment, tokenizer: Tokenizer, shape: ModelShape): Plan {
  const sourceLayers = parseLayers(experiment.sourceLayers, shape.layerCount);
  const samples = experiment.samples.map(({ name, source, target }) => ({
    name,
    source: resolvePrompt(source.prompt, source.position, tokenizer, 'source'),
    target: resolvePrompt(target.prompt, target.position, tokenizer, 'target'),
  }));
  for (const { source, target } of samples) {
    checkLength(source.tokenIds.length, 'source', shape);
    checkLength(target.tokenIds.length + Math.max(0, experiment.reading.maxTokens - 1), 'target', shape);
  }
  const pairs = layerPairs(sourceLayers, experiment.targetLayers, shape.layerCount);
  const cells = samples.flatMap((_, sample) =>
    pairs.map(([sourceLayer, targetLayer]) => ({ sample, sourceLayer, targetLayer })),
  );
  return { experiment, samples, cells };
}

function layerPairs(sourceLayers: readonly Layer[], targets: string, layerCount: number): [Layer, Layer][] {
  if (targets === 'same') return sourceLayers.map((layer) => [layer, layer]);
  return parseLayers(targets, layerCount).flatMap((target) =>
    sourceLayers.map((source): [Layer, Layer] => [source, target]),
  );
}

/** @throws PatchscopeError `bad_input` where a prompt with its continuation is longer than the context. */
export function checkLength(tokens: number, which: string, { promptTokens }: ModelShape): void {
  if (tokens > promptTokens) {
    throw new PatchscopeError(
      'bad_input',
      `The ${which} prompt needs ${tokens} tokens where the context holds ${promptTokens}: shorten it, or use a larger -c.`,
    );
  }
}
