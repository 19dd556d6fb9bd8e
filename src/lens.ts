/**
 * The logit lens as a Patchscope: T = S, i* = i, l* = the last layer, f = identity. What the model would
 * say next if a state were the last block's output.
 */
import type { Engine } from './engine.js';
import { PatchscopeError } from './errors.js';
import { concatenate } from './floats.js';
import type { Observation } from './observation.js';
import type { Prompt, Site } from './patchscope.js';
import { type Place, parsePlaces } from './places.js';
import { checkLength } from './plan.js';
import { inputOf, positionTokens, type ResolvedPrompt, resolvePrompt, tokenText } from './prompts.js';
import { captureLayers, failedReading, type RunOptions, scoresOf, variantSite } from './run.js';

export interface LensExperiment {
  readonly prompts: readonly { readonly name: string; readonly prompt: Prompt }[];
  /** As `Experiment.sourceLayers`. */
  readonly layers: string;
  /** Where in its block a state lies: in the residual stream (`resid_out`, the default, or `resid_mid`), or what is added to it. */
  readonly site?: Exclude<Site, 'final_norm'>;
  readonly topK: number;
  /** Default: every position of a prompt, or of what the decoder reads where there is an encoder. */
  readonly lastTokenOnly?: boolean;
  readonly seed: number;
}

export interface LensPlan {
  readonly experiment: LensExperiment;
  readonly samples: readonly { readonly name: string; readonly prompt: ResolvedPrompt }[];
  readonly places: readonly Place[];
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
  for (const { prompt } of samples) checkLength(prompt, 0, 'given', record);
  const places = parsePlaces(experiment.layers, record.layerCount, experiment.site);
  if (places.some(({ site }) => site === 'final_norm')) {
    throw new PatchscopeError(
      'bad_input',
      'The lens applies the final norm itself: take states from before it, such as resid_out.',
    );
  }
  const tokenIndexes = samples.map(({ prompt }) =>
    experiment.lastTokenOnly ? [prompt.tokenIndex] : positionTokens(prompt).map((_, i) => i),
  );
  return { experiment, samples, places, tokenIndexes, cellCount: places.length * tokenIndexes.flat().length };
}

/** Bytes of states in memory at once, where one layer does not need more. */
const CHUNK_BYTES = 64 * 2 ** 20;

/** Some places of one prompt at a time. */
function* chunksOf({ samples, places, tokenIndexes }: LensPlan, width: number): Generator<[number, Place[]]> {
  for (const sample of samples.keys()) {
    const layerBytes = tokenIndexes[sample]!.length * width * 4;
    const size = Math.max(1, Math.floor(CHUNK_BYTES / layerBytes));
    for (let begin = 0; begin < places.length; begin += size)
      yield [sample, places.slice(begin, begin + size)];
  }
}

/** Yields the observations of one prompt after the other: layer by layer, positions in order. */
export async function* runLens(
  plan: LensPlan,
  engine: Engine,
  options: RunOptions = {},
): AsyncGenerator<Observation[]> {
  for (const [sample, places] of chunksOf(plan, engine.record.embeddingSize)) {
    if (options.signal?.aborted) return;
    const { prompt } = plan.samples[sample]!;
    const points = places.flatMap((place) =>
      plan.tokenIndexes[sample]!.map((tokenIndex) => ({ ...place, tokenIndex })),
    );
    const [states] = await captureLayers(engine, [{ ...inputOf(prompt), points }]);
    const found = states!.filter((state) => state instanceof Float32Array);
    const read =
      found.length > 0 ? await engine.lens(concatenate(found), { topK: plan.experiment.topK }) : [];
    const readings = read.values();
    const results = states!.map((state) =>
      state instanceof Float32Array ? readings.next().value! : { ...state, status: 'failed' as const },
    );
    yield points.map((point, i) => {
      const { tokenIndex } = point;
      const result = results[i]!;
      const tokenId = positionTokens(prompt)[tokenIndex]!;
      const token = tokenText(tokenId, engine.tokenizer);
      const place = {
        sample,
        variant: `${variantSite(point)}${tokenIndex}->${tokenIndex}`,
        sourceSite: point.site,
        targetSite: 'resid_out' as const,
        sourceLayer: point.layer,
        targetLayer: engine.record.layerCount - 1,
        op: 'replace' as const,
        alpha: 1,
        atGenerated: false,
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
        steps: [scoresOf(reading, engine)],
      };
    });
  }
}
