/** Samples x variants: every prompt as token ids, every position as an index. */
import { followingTokens } from '../continuation.js';
import type { AttentionCut, Tokenizer } from '../engine.js';
import { PatchscopeError } from '../errors.js';
import type {
  Experiment,
  Patch,
  Position,
  PromptAt,
  Sample,
  Settings,
  Side,
  Variant,
} from '../patchscope.js';
import {
  inputOf,
  paddedTarget,
  type ResolvedPrompt,
  resolvePrompt,
  sourceAsTarget,
  tokenText,
} from '../prompts.js';
import { uniforms } from '../random.js';
import { isSameVocabulary } from '../vocabulary.js';
import { resolveCuts } from './cuts.js';
import { sourceTextAsTarget } from './other-vocabulary.js';

/** One sample in one variant. Equal prompts are one and the same object. */
export interface Pair {
  /** Index in the experiment's samples. */
  readonly sample: number;
  readonly variant: string;
  /** Texts of which any is right. */
  readonly answer: readonly string[];
  readonly source: ResolvedPrompt;
  readonly target: ResolvedPrompt;
  readonly patch: Required<Patch>;
  /** Edges of attention that are cut in the target; absent where there are none. */
  readonly cuts?: readonly AttentionCut[];
  /** Tokens that are scored for this sample alone. */
  readonly trackedTokens: readonly number[];
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
  const { sourceLayers, sourceSite, sourceSide, targetLayers, targetSite, targetSide, mapping, patch } =
    experiment;
  const common = {
    ...{ sourceLayers, targetLayers, mapping },
    ...(sourceSite && { sourceSite }),
    ...(sourceSide && { sourceSide }),
    ...(targetSite && { targetSite }),
    ...(targetSide && { targetSide }),
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
  return samples.flatMap((sample, index) => {
    checkVariantNames(sample, variants);
    const seed = experiment.seed + index;
    return variants.map(({ name, sourceSide, targetSide, patch = {} }): Pair => {
      const own = sample.variants?.[name] ?? {};
      const { answer = sample.answer ?? [] } = own;
      const { op = 'replace', alpha = 1, atGenerated = false } = patch;
      const source = resolver.source(own.source ?? sample.source, sourceSide, seed);
      const at = own.target ?? sample.target;
      const target = resolver.target(at, source, targetSide, seed, following);
      const cuts = resolveCuts(
        at.cuts ?? [],
        target,
        models.target.tokenizer,
        models.target.record.layerCount,
      );
      return {
        sample: index,
        variant: name,
        answer,
        source,
        target,
        patch: { op, alpha, atGenerated },
        ...(cuts.length > 0 && { cuts }),
        trackedTokens: reading.trackAnswer ? answerTokens(sample.name, answer, models.target.tokenizer) : [],
      };
    });
  });
}

/** Resolves each distinct prompt and position once. */
class Resolver {
  readonly #models: PlannedModels;
  readonly #known = new Map<string, ResolvedPrompt>();
  readonly #ofSources = new Map<ResolvedPrompt, Map<string, ResolvedPrompt>>();
  #hasOneVocabulary: boolean | undefined;

  constructor(models: PlannedModels) {
    this.#models = models;
  }

  /** @param seed of a random position. */
  source(at: PromptAt, side: Side | undefined, seed: number): ResolvedPrompt {
    if (at.prompt.kind === 'text' && at.prompt.padded) {
      throw new PatchscopeError(
        'bad_input',
        "The source prompt can't be padded: a target is, up to the position of its source.",
      );
    }
    return this.#resolve(at, 'source', side, seed, 0);
  }

  /** @param following tokens that are decoded after it, at most. */
  target(
    at: PromptAt,
    source: ResolvedPrompt,
    side: Side | undefined,
    seed: number,
    following: number,
  ): ResolvedPrompt {
    const { prompt } = at;
    const isPadded = prompt.kind === 'text' && prompt.padded === true;
    if (prompt.kind !== 'source' && !isPadded) return this.#resolve(at, 'target', side, seed, following);
    const known = this.#ofSources.get(source) ?? new Map<string, ResolvedPrompt>();
    this.#ofSources.set(source, known);
    const draw = drawOf(at, seed);
    return this.#once(known, JSON.stringify([at, side, draw]), () => {
      const { tokenizer, record } = this.#models.target;
      const resolved = isPadded
        ? paddedTarget(this.#resolve(at, 'target', side, seed, following), source, tokenizer)
        : this.#sourceAsTarget(source, at.position, side, draw);
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
    side: Side | undefined,
    seed: number,
    following: number,
  ): ResolvedPrompt {
    const draw = drawOf(at, seed);
    const key = JSON.stringify([which, side, at.prompt, at.position, draw]);
    return this.#once(this.#known, key, () => {
      const { tokenizer, record } = this.#models[which];
      const resolved = resolvePrompt(at.prompt, at.position, tokenizer, which, side, draw);
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
