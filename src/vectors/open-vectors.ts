/** Before the plan: files of vectors are read, and what noise is a multiple of is measured. */
import type { Engine, Tokenizer, WorkOptions } from '../engine.js';
import { PatchscopeError } from '../errors.js';
import type { Experiment, NoiseVector, OwnEdit, PromptAt, Source, Vector } from '../patchscope.js';
import type { Place } from '../places.js';
import { resolvePairs, variantsOf } from '../plan/pairs.js';
import { inputOf, positionTokens, type ResolvedPrompt } from '../prompts.js';
import { captureLayers } from '../source-states.js';
import { VectorFile } from './vector-file.js';

export interface VectorEngines {
  readonly source: Pick<Engine, 'tokenizer' | 'record'>;
  readonly target: Engine;
}

/** Prompts whose states are in memory together. */
const PROMPTS_AT_ONCE = 64;

/**
 * The experiment with the floats of its vectors, and with the same result wherever it is run.
 *
 * @throws PatchscopeError `bad_input` where a file or a part of it is not there.
 */
export async function openVectors(
  experiment: Experiment,
  engines: VectorEngines,
  options: WorkOptions = {},
): Promise<Experiment> {
  const vectors = [...vectorsOf(experiment)];
  if (vectors.length === 0) return experiment;
  const files = new Map<string, VectorFile>();
  for (const vector of vectors) {
    if (vector.kind !== 'file' || files.has(vector.path)) continue;
    files.set(vector.path, await VectorFile.open(vector.path));
  }
  const deviation = vectors.some(isMeasured) ? await embeddingDeviation(experiment, engines, options) : 0;
  return withVectors(experiment, (vector) => {
    if (vector.kind === 'file') return { ...vector, read: files.get(vector.path)!.read(vector) };
    return isMeasured(vector) ? { ...vector, deviation } : vector;
  });
}

function isMeasured(vector: Vector): vector is NoiseVector {
  return vector.kind === 'noise' && vector.of !== undefined;
}

/** Every prompt counts once; so rounded that another order of sums does not show. */
async function embeddingDeviation(
  experiment: Experiment,
  { source, target }: VectorEngines,
  options: WorkOptions,
): Promise<number> {
  const pairs = resolvePairs(experiment, variantsOf(experiment), { source, target }, 0);
  const prompts = [
    ...new Map(pairs.map((pair) => [JSON.stringify(inputOf(pair.target)), pair.target])).values(),
  ];
  let [count, sum, squares] = [0, 0, 0];
  for (let begin = 0; begin < prompts.length; begin += PROMPTS_AT_ONCE) {
    const requests = prompts.slice(begin, begin + PROMPTS_AT_ONCE).map((prompt) => ({
      ...inputOf(prompt),
      points: writtenTokens(prompt, target.tokenizer).map((tokenIndex) => ({
        ...(prompt.side && { side: prompt.side }),
        ...EMBED,
        tokenIndex,
      })),
    }));
    for (const state of (await captureLayers(target, requests, options)).flat()) {
      if (!(state instanceof Float32Array)) {
        throw new PatchscopeError(
          'bad_input',
          `The embeddings that noise is a multiple of can't be read: ${state.error}`,
        );
      }
      for (const value of state) {
        count++;
        sum += value;
        squares += value * value;
      }
    }
  }
  return Number(Math.sqrt(squares / count - (sum / count) ** 2).toPrecision(6));
}

const EMBED: Place = { site: 'embed', layer: 'embed' };

/** All but a BOS that was put before them. */
function writtenTokens(prompt: ResolvedPrompt, { bosToken }: Tokenizer): number[] {
  const tokens = positionTokens(prompt);
  const first = tokens.length > 1 && tokens[0] === bosToken ? 1 : 0;
  return [...tokens.keys()].slice(first);
}

function* vectorsOf({ samples }: Experiment): Generator<Vector> {
  for (const { source, target, variants = {} } of samples) {
    const parts = [{ source, target }, ...Object.values(variants)];
    for (const part of parts) {
      if (part.source && 'vector' in part.source) yield part.source.vector;
      for (const { vector } of part.target?.edits ?? []) if (vector) yield vector;
    }
  }
}

function withVectors(experiment: Experiment, change: (vector: Vector) => Vector): Experiment {
  const ofSource = (source: Source): Source =>
    'vector' in source ? { ...source, vector: change(source.vector) } : source;
  const ofEdit = (edit: OwnEdit): OwnEdit => (edit.vector ? { ...edit, vector: change(edit.vector) } : edit);
  const ofTarget = (target: PromptAt): PromptAt =>
    target.edits ? { ...target, edits: target.edits.map(ofEdit) } : target;
  return {
    ...experiment,
    samples: experiment.samples.map((sample) => ({
      ...sample,
      source: ofSource(sample.source),
      target: ofTarget(sample.target),
      ...(sample.variants && {
        variants: Object.fromEntries(
          Object.entries(sample.variants).map(([name, { source, target }]) => [
            name,
            { ...(source && { source: ofSource(source) }), ...(target && { target: ofTarget(target) }) },
          ]),
        ),
      }),
    })),
  };
}
