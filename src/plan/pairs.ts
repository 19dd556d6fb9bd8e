/** Samples x variants: every prompt as token ids, every position as an index. */
import { givenAdapter } from '../adapters.js';
import { followingTokens } from '../continuation.js';
import { earliestCut } from '../edges.js';
import type { Tokenizer } from '../engine.js';
import { PatchscopeError } from '../errors.js';
import type { Experiment, Patch, Sample, Settings, Variant } from '../patchscope.js';
import { type ResolvedPrompt, tokenText } from '../prompts.js';
import { checkDecay, type PlannedContrast, resolveContrast } from './contrast.js';
import { type PlannedCut, resolveCuts } from './cuts.js';
import type { Move } from './moves.js';
import { earliestEdit, type ResolvedEdit, resolveEdits } from './own-edits.js';
import { Resolver } from './resolver.js';
import type { ResolvedSource } from './sources.js';

/** What was not given has its default. */
export type PlannedPatch = Required<Omit<Patch, 'decay'>> & Pick<Patch, 'decay'>;

/**
 * One sample in one variant, at one source position where it goes through several. Equal prompts are one and the
 * same object, and so are equal vectors.
 */
export interface Pair {
  /** Index in the experiment's samples. */
  readonly sample: number;
  readonly variant: string;
  /** Texts of which any is right. */
  readonly answer: readonly string[];
  readonly source: ResolvedSource;
  readonly target: ResolvedPrompt;
  /** Where a cell patches several tokens, the others. */
  readonly further?: readonly Move[];
  /** Place of the source among the tokens that the sample goes through in this variant, pair by pair. */
  readonly swept?: number;
  readonly patch: PlannedPatch;
  /** What is done to the target's states before the patch, in every cell; absent where nothing is. */
  readonly ownEdits?: readonly ResolvedEdit[];
  /** Edges of attention that are cut in the target; absent where there are none. */
  readonly cuts?: readonly PlannedCut[];
  /** Absent where readings are taken as they are. */
  readonly contrast?: PlannedContrast;
  /** Tokens that are scored for this sample alone. */
  readonly trackedTokens: readonly number[];
  /** Tokens that are generated, where it is another number than the reading's. */
  readonly maxTokens?: number;
}

/** Tokens of a target that its rows share: those before the first that is patched, edited or cut off from another. */
export function sharedTokens({ target, further = [], cuts = [], ownEdits = [] }: Pair): number {
  if (target.side === 'encoder') return 0;
  return Math.min(
    target.tokenIndex,
    ...further.map((move) => move.target.tokenIndex),
    earliestCut(cuts),
    earliestEdit(ownEdits),
  );
}

/** What a plan has to know of a model. */
export interface ModelShape {
  readonly layerCount: number;
  /** Blocks of the encoder, where there is one. */
  readonly encoderLayerCount?: number;
  /** Of the model's file, which mappings were fitted to. */
  readonly sha256: string;
  /** Floats of a hidden state. */
  readonly embeddingSize: number;
  /** Most tokens of a prompt and its continuation. */
  readonly promptTokens: number;
  /** Most rows in one batch. */
  readonly batchRows: number;
  /** Why the K/V cache can't have the layout `streams`; null where it can. */
  readonly noStreams: string | null;
}

/** The model that states come from, or that they go to. */
export interface PlannedModel {
  readonly tokenizer: Tokenizer;
  readonly record: ModelShape;
}

export interface PlannedModels {
  readonly source: PlannedModel;
  readonly target: PlannedModel;
}

export const DEFAULT_VARIANT = 'default';

export interface VariantSettings extends Settings, Pick<Variant, 'name' | 'maxTokens'> {}

export function variantsOf(experiment: Experiment): VariantSettings[] {
  const { variants = [{ name: DEFAULT_VARIANT }] } = experiment;
  if (variants.length === 0) {
    throw new PatchscopeError('bad_input', 'The list of variants is empty: leave it out for a single one.');
  }
  const names = variants.map(({ name }) => name);
  const twice = names.find((name, i) => names.indexOf(name) < i);
  if (twice !== undefined) {
    throw new PatchscopeError('bad_input', `Two variants are named '${twice}': give each a name of its own.`);
  }
  const { sourceLayers, sourceSite, sourceSide, targetLayers, targetSite, targetSide } = experiment;
  const { mapping, patch, window, draws, contrast, sourceAdapter, targetAdapter } = experiment;
  const common = {
    ...{ sourceLayers, targetLayers, mapping },
    ...(window !== undefined && { window }),
    ...(draws !== undefined && { draws }),
    ...(sourceSite && { sourceSite }),
    ...(sourceSide && { sourceSide }),
    ...(targetSite && { targetSite }),
    ...(targetSide && { targetSide }),
    ...(sourceAdapter && { sourceAdapter }),
    ...(targetAdapter && { targetAdapter }),
    ...(contrast && { contrast }),
  };
  return variants.map((variant) => ({ ...common, ...variant, patch: { ...patch, ...variant.patch } }));
}

/**
 * Sample by sample, the variants of each in their order.
 *
 * @param following tokens that are decoded after a target prompt, at most.
 */
export function resolvePairs(
  experiment: Experiment,
  variants: readonly VariantSettings[],
  models: PlannedModels,
  following: number,
): Pair[] {
  const { samples, reading } = experiment;
  if (samples.length === 0) {
    throw new PatchscopeError('bad_input', 'The experiment has no samples: it needs at least one.');
  }
  const resolver = new Resolver(models);
  const { layerCount } = models.target.record;
  variants.forEach(checkDecay);
  const contrasts = new Map(
    variants.flatMap((variant) =>
      variant.contrast === undefined
        ? []
        : [[variant.name, resolveContrast(variant.contrast, variant, layerCount)] as const],
    ),
  );
  return samples.flatMap((sample, index) => {
    checkVariantNames(sample, variants);
    const seed = experiment.seed + index;
    return variants.flatMap((variant) => {
      const { name, sourceSide, targetSide, sourceAdapter, targetAdapter, patch = {}, maxTokens } = variant;
      const own = sample.variants?.[name] ?? {};
      const { answer = sample.answer ?? [] } = own;
      const trackedTokens = reading.trackAnswer
        ? answerTokens(sample.name, answer, models.target.tokenizer)
        : [];
      const contrast = contrasts.get(name);
      const sourceWay = { side: sourceSide, adapter: givenAdapter(sourceAdapter, 'source')?.name };
      const targetWay = { side: targetSide, adapter: givenAdapter(targetAdapter, 'target')?.name };
      const from = own.source ?? sample.source;
      const at = own.target ?? sample.target;
      const isSwept = 'position' in from && from.position.kind === 'each';
      return resolver.sources(from, sourceWay, seed).map((sources, place): Pair => {
        const [move, ...further] = resolver.moves(at, sources, targetWay, seed, following);
        const { target } = move!;
        const cuts = resolveCuts(at.cuts ?? [], target, models.target.tokenizer, layerCount);
        const ownEdits = resolveEdits(at.edits ?? [], target, models.target, (vector) =>
          resolver.vector(vector, 'target', targetWay, seed),
        );
        return {
          sample: index,
          variant: name,
          answer,
          ...move!,
          ...(further.length > 0 && { further }),
          ...(isSwept && { swept: place }),
          patch: filledPatch(patch),
          ...(ownEdits.length > 0 && { ownEdits }),
          ...(cuts.length > 0 && { cuts }),
          ...(contrast && { contrast }),
          trackedTokens,
          ...(maxTokens !== undefined && { maxTokens }),
        };
      });
    });
  });
}

/** Where each state of a pair comes from and goes to. */
export function movesOfPair({ source, target, further = [] }: Pair): Move[] {
  return [{ source, target }, ...further];
}

export function filledPatch({ op = 'replace', alpha = 1, atGenerated = false, decay }: Patch): PlannedPatch {
  return { op, alpha, atGenerated, ...(decay !== undefined && { decay }) };
}

function checkVariantNames({ name, variants = {} }: Sample, known: readonly Variant[]): void {
  const unknown = Object.keys(variants).find((variant) => !known.some((one) => one.name === variant));
  if (unknown !== undefined) {
    throw new PatchscopeError(
      'bad_input',
      `The sample '${name}' has prompts for the variant '${unknown}', which the experiment does not have.`,
    );
  }
}

/**
 * First tokens of the answers, as they follow a prompt: with a blank before them, and without. A token that is
 * a blank alone begins anything.
 */
function answerTokens(name: string, answer: readonly string[], tokenizer: Tokenizer): number[] {
  if (answer.length === 0) {
    throw new PatchscopeError(
      'bad_input',
      `The sample '${name}' has no answer, whose tokens are to be scored.`,
    );
  }
  return answer.flatMap((text) => {
    const tokens = distinct([text, ` ${text}`].map((form) => firstToken(form, tokenizer)));
    const telling = tokens.filter((token) => tokenText(token, tokenizer).trim() !== '');
    return telling.length > 0 ? telling : tokens.slice(0, 1);
  });
}

/** @throws PatchscopeError `bad_input` for a token that is not there. */
export function trackedTokens(tracked: readonly (string | number)[], tokenizer: Tokenizer): number[] {
  return distinct(
    tracked.map((token) => {
      if (typeof token === 'string') return firstToken(token, tokenizer);
      const last = tokenizer.vocabularySize - 1;
      if (Number.isInteger(token) && token >= 0 && token <= last) return token;
      throw new PatchscopeError(
        'bad_input',
        `The tracked token ${token} is outside the vocabulary, whose ids are 0 to ${last}.`,
      );
    }),
  );
}

function firstToken(text: string, tokenizer: Tokenizer): number {
  const [first] = followingTokens(text, tokenizer);
  if (first === undefined) {
    throw new PatchscopeError('bad_input', `The tracked text '${text}' has no token: give it some text.`);
  }
  return first;
}

function distinct<T>(values: readonly T[]): T[] {
  return [...new Set(values)];
}
