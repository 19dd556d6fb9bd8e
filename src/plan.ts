/**
 * Experiment -> plan: every prompt as token ids, every position as an index, every cell named. Pure data,
 * made with a tokenizer alone; the same experiment gives the same plan.
 */
import { type ResolvedToken, resolveContinuation } from './continuation.js';
import type { Tokenizer } from './engine.js';
import { PatchscopeError } from './errors.js';
import type { Experiment, Side } from './patchscope.js';
import { type Place, parsePlaces } from './places.js';
import { inputOf, type ResolvedPrompt, resolvePrompt } from './prompts.js';

export interface PlannedSample {
  readonly name: string;
  readonly source: ResolvedPrompt;
  readonly target: ResolvedPrompt;
}

export interface Cell {
  /** Index in `samples`. */
  readonly sample: number;
  readonly source: Place;
  readonly target: Place;
  /** What its tokens are drawn with, where they are drawn. */
  readonly seed: number;
}

export interface Plan {
  readonly experiment: Experiment;
  readonly samples: readonly PlannedSample[];
  /** In the order of execution: cells that write at one target layer are neighbours. */
  readonly cells: readonly Cell[];
  /** What is scored behind each target, where it is given. */
  readonly continuation?: readonly ResolvedToken[];
}

/** What a plan has to know of a model. */
export interface ModelShape {
  readonly layerCount: number;
  /** Blocks of the encoder, where there is one. */
  readonly encoderLayerCount?: number;
  /** Most tokens of a prompt and its continuation. */
  readonly promptTokens: number;
}

/** @throws PatchscopeError `bad_input` where the experiment does not fit the model. */
export function makePlan(experiment: Experiment, tokenizer: Tokenizer, shape: ModelShape): Plan {
  const samples = experiment.samples.map(({ name, source, target }) => ({
    name,
    source: resolvePrompt(source.prompt, source.position, tokenizer, 'source', experiment.sourceSide),
    target: resolvePrompt(target.prompt, target.position, tokenizer, 'target', experiment.targetSide),
  }));
  const continuation = resolveContinuation(experiment.reading, tokenizer);
  const following = continuation?.length ?? experiment.reading.maxTokens;
  for (const { source, target } of samples) {
    checkLength(source, 0, 'source', shape);
    checkLength(target, Math.max(0, following - 1), 'target', shape);
  }
  const pairs = placePairs(experiment, shape);
  const cells = samples.flatMap((_, sample) =>
    pairs.map(([source, target], i) => ({
      sample,
      source,
      target,
      seed: experiment.seed + sample * pairs.length + i,
    })),
  );
  return { experiment, samples, cells, ...(continuation && { continuation }) };
}

function placePairs(experiment: Experiment, { layerCount, encoderLayerCount = 0 }: ModelShape) {
  const { sourceLayers, sourceSite, sourceSide, targetLayers, targetSite, targetSide } = experiment;
  const layersOf = (side: Side = 'decoder') => (side === 'encoder' ? encoderLayerCount : layerCount);
  const sources = parsePlaces(sourceLayers, layersOf(sourceSide), sourceSite);
  if (targetLayers === 'same') {
    return sources.map((source): [Place, Place] => {
      const [target] = parsePlaces(String(source.layer), layersOf(targetSide), targetSite);
      return [source, target!];
    });
  }
  return parsePlaces(targetLayers, layersOf(targetSide), targetSite).flatMap((target) =>
    sources.map((source): [Place, Place] => [source, target]),
  );
}

/** @throws PatchscopeError `bad_input` where a prompt with its continuation is longer than the context. */
export function checkLength(
  prompt: ResolvedPrompt,
  following: number,
  which: string,
  { promptTokens }: ModelShape,
): void {
  const { tokenIds, encoderTokenIds = [] } = inputOf(prompt);
  const tokens = Math.max(encoderTokenIds.length, tokenIds.length + following);
  if (tokens > promptTokens) {
    throw new PatchscopeError(
      'bad_input',
      `The ${which} prompt needs ${tokens} tokens where the context holds ${promptTokens}: shorten it, or use a larger -c.`,
    );
  }
}
