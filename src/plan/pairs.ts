/** Samples x variants: every prompt as token ids, every position as an index. */
import { givenAdapter } from '../adapters.js';
import { followingTokens } from '../continuation.js';
import { earliestCut } from '../edges.js';
import type { Tokenizer } from '../engine.js';
import { PatchscopeError } from '../errors.js';
import type {
  Experiment,
  Patch,
  Position,
  PromptAt,
  Sample,
  Settings,
  Side,
  Source,
  Variant,
  Vector,
} from '../patchscope.js';
import {
  inputOf,
  paddedTarget,
  type ResolvedPrompt,
  readWith,
  resolvePrompt,
  sourceAsTarget,
  tokenText,
} from '../prompts.js';
import { uniforms } from '../random.js';
import { isSameVocabulary } from '../vocabulary.js';
import { checkDecay, type PlannedContrast, resolveContrast } from './contrast.js';
import { type PlannedCut, resolveCuts } from './cuts.js';
import { sourceTextAsTarget } from './other-vocabulary.js';
import { earliestEdit, type ResolvedEdit, resolveEdits } from './own-edits.js';
import { identityOf, isVector, type ResolvedSource, type ResolvedVector } from './sources.js';

/** What was not given has its default. */
export type PlannedPatch = Required<Omit<Patch, 'decay'>> & Pick<Patch, 'decay'>;

/** One sample in one variant. Equal prompts are one and the same object, and so are equal vectors. */
export interface Pair {
  /** Index in the experiment's samples. */
  readonly sample: number;
  readonly variant: string;
  readonly source: ResolvedSource;
  readonly target: ResolvedPrompt;
  readonly patch: PlannedPatch;
  /** What is done to the target's states before the patch, in every cell; absent where nothing is. */
  readonly ownEdits?: readonly ResolvedEdit[];
  /** Edges of attention that are cut in the target; absent where there are none. */
  readonly cuts?: readonly PlannedCut[];
  /** Absent where readings are taken as they are. */
  readonly contrast?: PlannedContrast;
  /** Tokens that are scored for this sample alone. */
  readonly trackedTokens: readonly number[];
}

/** Tokens of a target that its rows share: those before the first that is patched or cut off from another. */
export function sharedTokens({ target: { side, tokenIndex }, cuts = [], ownEdits = [] }: Pair): number {
  return side === 'encoder' ? 0 : Math.min(tokenIndex, earliestCut(cuts), earliestEdit(ownEdits));
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

export interface VariantSettings extends Settings {
  readonly name: string;
}

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
  const { mapping, patch, contrast, sourceAdapter, targetAdapter } = experiment;
  const common = {
    ...{ sourceLayers, targetLayers, mapping },
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
    const trackedTokens = reading.trackAnswer ? answerTokens(sample, models.target.tokenizer) : [];
    return variants.map((variant): Pair => {
      const { name, sourceSide, targetSide, sourceAdapter, targetAdapter, patch = {} } = variant;
      const own = sample.variants?.[name] ?? {};
      const contrast = contrasts.get(name);
      const sourceWay = { side: sourceSide, adapter: givenAdapter(sourceAdapter, 'source')?.name };
      const targetWay = { side: targetSide, adapter: givenAdapter(targetAdapter, 'target')?.name };
      const source = resolver.source(own.source ?? sample.source, sourceWay, seed);
      const at = own.target ?? sample.target;
      const target = resolver.target(at, source, targetWay, seed, following);
      const cuts = resolveCuts(at.cuts ?? [], target, models.target.tokenizer, layerCount);
      const ownEdits = resolveEdits(at.edits ?? [], target, models.target, (vector) =>
        resolver.vector(vector, 'target', targetWay, seed),
      );
      return {
        sample: index,
        variant: name,
        source,
        target,
        patch: filledPatch(patch),
        ...(ownEdits.length > 0 && { ownEdits }),
        ...(cuts.length > 0 && { cuts }),
        ...(contrast && { contrast }),
        trackedTokens,
      };
    });
  });
}

/** How a prompt is read. */
interface Way {
  readonly side: Side | undefined;
  /** Name of an adapter. */
  readonly adapter: string | undefined;
}

/** Resolves each distinct prompt and position once. */
class Resolver {
  readonly #models: PlannedModels;
  readonly #known = new Map<string, ResolvedPrompt>();
  readonly #vectors = new Map<string, ResolvedVector>();
  readonly #ofSources = new Map<ResolvedPrompt, Map<string, ResolvedPrompt>>();
  #hasOneVocabulary: boolean | undefined;

  constructor(models: PlannedModels) {
    this.#models = models;
  }

  /** @param seed of a random position. */
  source(at: Source, way: Way, seed: number): ResolvedSource {
    if ('vector' in at) return this.vector(at.vector, 'source', way, seed);
    if (at.prompt.kind === 'text' && at.prompt.padded) {
      throw new PatchscopeError(
        'bad_input',
        "The source prompt can't be padded: a target is, up to the position of its source.",
      );
    }
    return this.#resolve(at, 'source', way, seed, 0);
  }

  /** @param which of the models reads its prompts. */
  vector(vector: Vector, which: 'source' | 'target', way: Way, seed: number): ResolvedVector {
    const resolved = (prompts: readonly PromptAt[]) => {
      if (prompts.length > 0) return prompts.map((at) => this.#resolve(at, which, way, seed, 0));
      throw new PatchscopeError('bad_input', 'A mean of no prompts has no value: give at least one prompt.');
    };
    const own: ResolvedVector =
      vector.kind === 'mean'
        ? { ...vector, prompts: resolved(vector.prompts) }
        : vector.kind === 'difference'
          ? { ...vector, prompts: resolved(vector.prompts), minus: resolved(vector.minus) }
          : vector;
    const key = identityOf([which, own]);
    const known = this.#vectors.get(key) ?? own;
    this.#vectors.set(key, known);
    return known;
  }

  /** @param following tokens that are decoded after it, at most. */
  target(at: PromptAt, source: ResolvedSource, way: Way, seed: number, following: number): ResolvedPrompt {
    const { prompt } = at;
    const isPadded = prompt.kind === 'text' && prompt.padded === true;
    if (prompt.kind !== 'source' && !isPadded) return this.#resolve(at, 'target', way, seed, following);
    if (isVector(source)) {
      throw new PatchscopeError(
        'bad_input',
        isPadded
          ? 'The target prompt is padded up to the position of the source prompt, and the source is a vector: leave padded out.'
          : 'The target prompt is the source prompt, and the source is a vector: write a prompt for the target.',
      );
    }
    const known = this.#ofSources.get(source) ?? new Map<string, ResolvedPrompt>();
    this.#ofSources.set(source, known);
    const draw = drawOf(at, seed);
    return this.#once(known, JSON.stringify([at, way.side, way.adapter, draw]), () => {
      const { tokenizer, record } = this.#models.target;
      const resolved = isPadded
        ? paddedTarget(this.#resolve(at, 'target', way, seed, following), source, tokenizer)
        : readWith(this.#sourceAsTarget(source, at.position, way.side, draw), way.adapter);
      checkLength(resolved, following, 'target', record);
      return resolved;
    });
  }

  #sourceAsTarget(
    source: ResolvedPrompt,
    position: Position,
    side: Side | undefined,
    draw: number | undefined,
  ): ResolvedPrompt {
    const [own, other] = [this.#models.source.tokenizer, this.#models.target.tokenizer];
    this.#hasOneVocabulary ??= isSameVocabulary(own, other);
    return this.#hasOneVocabulary
      ? sourceAsTarget(source, position, other, draw)
      : sourceTextAsTarget(source, position, { source: own, target: other }, side, draw);
  }

  #resolve(
    at: PromptAt,
    which: 'source' | 'target',
    way: Way,
    seed: number,
    following: number,
  ): ResolvedPrompt {
    const draw = drawOf(at, seed);
    const key = JSON.stringify([which, way.side, way.adapter, at.prompt, at.position, draw]);
    return this.#once(this.#known, key, () => {
      const { tokenizer, record } = this.#models[which];
      const prompt = resolvePrompt(at.prompt, at.position, tokenizer, which, way.side, draw);
      const resolved = readWith(prompt, way.adapter);
      checkLength(resolved, following, which, record);
      return resolved;
    });
  }

  #once(known: Map<string, ResolvedPrompt>, key: string, resolve: () => ResolvedPrompt): ResolvedPrompt {
    const found = known.get(key) ?? resolve();
    known.set(key, found);
    return found;
  }
}

export function filledPatch({ op = 'replace', alpha = 1, atGenerated = false, decay }: Patch): PlannedPatch {
  return { op, alpha, atGenerated, ...(decay !== undefined && { decay }) };
}

/** Of the interval [0, 1), where the position is drawn. */
function drawOf({ position }: PromptAt, seed: number): number | undefined {
  return position.kind === 'random' ? uniforms(seed)() : undefined;
}

/** @throws PatchscopeError `bad_input` where a prompt with its continuation is longer than the context. */
export function checkLength(
  prompt: ResolvedPrompt,
  following: number,
  which: string,
  { promptTokens }: Pick<ModelShape, 'promptTokens'>,
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
function answerTokens({ name, answer = [] }: Sample, tokenizer: Tokenizer): number[] {
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
