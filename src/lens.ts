/**
 * The logit lens as a Patchscope: T = S, i* = i, l* = the last layer, f = identity. What the model would
 * say next if a state were the last block's output.
 */
import type { Engine } from './engine.js';
import { concatenate } from './floats.js';
import { parseLayers } from './layers.js';
import type { Observation } from './observation.js';
import type { Layer, Prompt } from './patchscope.js';
import { checkLength } from './plan.js';
import { type ResolvedPrompt, resolvePrompt, tokenText } from './prompts.js';
import { captureLayers, failedReading, type RunOptions, withText } from './run.js';

export interface LensExperiment {
  readonly prompts: readonly { readonly name: string; readonly prompt: Prompt }[];
  /** As `Experiment.sourceLayers`. */
  readonly layers: string;
  readonly topK: number;
  /** Default: every position of a prompt. */
  readonly lastTokenOnly?: boolean;
  readonly seed: number;
}

export interface LensPlan {
  readonly experiment: LensExperiment;
  readonly samples: readonly { readonly name: string; readonly prompt: ResolvedPrompt }[];
  readonly layers: readonly Layer[];
  /** Positions read in each prompt. */
  readonly tokenIndexes: readonly (readonly number[])[];
  readonly cellCount: number;
}

/** @throws PatchscopeError `bad_input` where prompts or layers do not fit the model. */
export function planLens(experiment: LensExperiment, { tokenizer, record }: Engine): LensPlan {
  const samples = experiment.prompts.map(({ name, prompt }) => ({
    name,
    prompt: resolvePrompt(prompt, { kind: 'index', index: -1 }, tokenizer, 'given'),
  }));
  for (const { prompt } of samples) checkLength(prompt.tokenIds.length, 'given', record);
  const layers = parseLayers(experiment.layers, record.layerCount);
  const tokenIndexes = samples.map(({ prompt: { tokenIds, tokenIndex } }) =>
    experiment.lastTokenOnly ? [tokenIndex] : tokenIds.map((_, i) => i),
  );
  return { experiment, samples, layers, tokenIndexes, cellCount: layers.length * tokenIndexes.flat().length };
}

/** Bytes of states in memory at once, where one layer does not need more. */
const CHUNK_BYTES = 64 * 2 ** 20;

/** Some layers of one prompt at a time. */
function* chunksOf({ samples, layers, tokenIndexes }: LensPlan, width: number): Generator<[number, Layer[]]> {
  for (const sample of samples.keys()) {
    const layerBytes = tokenIndexes[sample]!.length * width * 4;
    const size = Math.max(1, Math.floor(CHUNK_BYTES / layerBytes));
    for (let begin = 0; begin < layers.length; begin += size)
      yield [sample, layers.slice(begin, begin + size)];
  }
}

/** Yields the observations of one prompt after the other: layer by layer, positions in order. */
export async function* runLens(
  plan: LensPlan,
  engine: Engine,
  options: RunOptions = {},
): AsyncGenerator<Observation[]> {
  for (const [sample, layers] of chunksOf(plan, engine.record.embeddingSize)) {
    if (options.signal?.aborted) return;
    const { prompt } = plan.samples[sample]!;
    const places = layers.flatMap((layer) =>
      plan.tokenIndexes[sample]!.map((tokenIndex) => ({ layer, tokenIndex })),
    );
    const [states] = await captureLayers(engine, [{ tokenIds: prompt.tokenIds, places }]);
    const found = states!.filter((state) => state instanceof Float32Array);
    const read =
      found.length > 0 ? await engine.lens(concatenate(found), { topK: plan.experiment.topK }) : [];
    const readings = read.values();
    const results = states!.map((state) =>
      state instanceof Float32Array ? readings.next().value! : { ...state, status: 'failed' as const },
    );
    yield places.map(({ layer, tokenIndex }, i) => {
      const result = results[i]!;
      const tokenId = prompt.tokenIds[tokenIndex]!;
      const token = tokenText(tokenId, engine.tokenizer);
      const place = {
        sample,
        variant: `${tokenIndex}->${tokenIndex}`,
        site: 'resid_out',
        sourceLayer: layer,
        targetLayer: engine.record.layerCount - 1,
        sourcePosition: tokenIndex,
        sourceTokenId: tokenId,
        sourceToken: token,
        targetPosition: tokenIndex,
        targetTokenId: tokenId,
        targetToken: token,
      };
      if (result.status === 'failed') return { ...place, ...failedReading(result) };
      const reading = result as Extract<typeof result, { readonly top: unknown }>;
      const top = reading.top[0];
      return {
        ...place,
        status: 'ok',
        error: null,
        text: top === undefined ? '' : tokenText(top.tokenId, engine.tokenizer),
        tokenIds: top === undefined ? [] : [top.tokenId],
        steps: [withText(reading, engine)],
      };
    });
  }
}
