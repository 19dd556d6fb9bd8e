/**
 * The logit lens as a Patchscope: T = S, i* = i, l* = the last layer, f = identity. What the model would
 * say next if a state were the last block's output.
 */
import { createHash } from 'node:crypto';
import type { Engine, LensResult } from './engine.js';
import { PatchscopeError } from './errors.js';
import { concatenate } from './floats.js';
import type { Observation, Outcome } from './observation.js';
import type { Prompt, Site } from './patchscope.js';
import { type Place, parsePlaces } from './places.js';
import { checkLength } from './plan/resolver.js';
import { inputOf, positionTokens, type ResolvedPrompt, resolvePrompt, tokenText } from './prompts.js';
import { type ChunkResult, failedOutcome, type RunOptions, scoresOf, unlessAborted } from './run.js';
import { captureLayers, type Failure } from './source-states.js';

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
  /** Texts of the tokens there. */
  readonly tokens: readonly (readonly string[])[];
  readonly cellCount: number;
  readonly chunkCount: number;
  /** Of all that is above. */
  readonly sha256: string;
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
  const cellCount = places.length * tokenIndexes.flat().length;
  const tokens = samples.map(({ prompt }, sample) =>
    tokenIndexes[sample]!.map((tokenIndex) => tokenText(positionTokens(prompt)[tokenIndex]!, tokenizer)),
  );
  const plan = { experiment, samples, places, tokenIndexes, tokens, cellCount };
  const chunkCount = [...chunksOf(plan, record.embeddingSize)].length;
  return { ...plan, chunkCount, sha256: createHash('sha256').update(JSON.stringify(plan)).digest('hex') };
}

/** The token that a cell of a sample reads at. */
export function lensPosition({ samples, tokenIndexes, tokens }: LensPlan, sample: number, position: number) {
  const tokenId = positionTokens(samples[sample]!.prompt)[position]!;
  return { position, tokenId, token: tokens[sample]![tokenIndexes[sample]!.indexOf(position)]! };
}

/** Bytes of states in memory at once, where one layer does not need more. */
const CHUNK_BYTES = 64 * 2 ** 20;

/** Some places of one prompt at a time. */
function* chunksOf(
  { samples, places, tokenIndexes }: Pick<LensPlan, 'samples' | 'places' | 'tokenIndexes'>,
  width: number,
): Generator<[number, Place[]]> {
  for (const sample of samples.keys()) {
    const layerBytes = tokenIndexes[sample]!.length * width * 4;
    const size = Math.max(1, Math.floor(CHUNK_BYTES / layerBytes));
    for (let begin = 0; begin < places.length; begin += size)
      yield [sample, places.slice(begin, begin + size)];
  }
}

/** Yields what comes of one prompt after the other: layer by layer, positions in order. */
export async function* runLens(
  plan: LensPlan,
  engine: Engine,
  { signal }: Pick<RunOptions, 'signal'> = {},
): AsyncGenerator<ChunkResult> {
  for (const [chunk, [sample, places]] of [...chunksOf(plan, engine.record.embeddingSize)].entries()) {
    if (signal?.aborted) return;
    const observations = await readChunk(plan, sample, places, engine, signal).catch(unlessAborted(signal));
    if (observations === undefined) return;
    yield { chunk, observations };
  }
}

async function readChunk(
  plan: LensPlan,
  sample: number,
  places: readonly Place[],
  engine: Engine,
  signal: AbortSignal | undefined,
): Promise<Observation[]> {
  const { prompt } = plan.samples[sample]!;
  const points = places.flatMap((place) =>
    plan.tokenIndexes[sample]!.map((tokenIndex) => ({ ...place, tokenIndex })),
  );
  const [states] = await captureLayers(engine, [{ ...inputOf(prompt), points }], { signal });
  const found = states!.filter((state) => state instanceof Float32Array);
  const { topK } = plan.experiment;
  const read = found.length > 0 ? await engine.lens(concatenate(found), { topK }, { signal }) : [];
  const readings = read.values();
  return states!.map((state, i): Observation => {
    const { site, layer, tokenIndex } = points[i]!;
    const result = state instanceof Float32Array ? readings.next().value! : state;
    return {
      sample,
      variant: String(tokenIndex),
      sourceSite: site,
      targetSite: 'resid_out',
      sourceLayer: layer,
      targetLayer: engine.record.layerCount - 1,
      mapping: 'identity',
      control: 'none',
      draw: 0,
      ...outcomeOf(result, engine),
    };
  });
}

function outcomeOf(result: LensResult | Failure, engine: Engine): Outcome {
  if ('error' in result) return failedOutcome(result);
  const [top] = result.top;
  return {
    status: 'ok',
    error: null,
    text: top === undefined ? '' : tokenText(top.tokenId, engine.tokenizer),
    tokenIds: top === undefined ? [] : [top.tokenId],
    steps: [scoresOf(result, engine)],
    scores: {},
  };
}
