/** Prompts and positions as they are written -> token ids and indexes, each distinct one once. */
import { PatchscopeError } from '../errors.js';
import type { Position, Prompt, PromptAt, Side, Source, Vector } from '../patchscope.js';
import {
  inputOf,
  paddedTarget,
  placeholderToken,
  type ResolvedPrompt,
  readWith,
  resolvePrompt,
  sourceAsTarget,
} from '../prompts.js';
import { uniforms } from '../random.js';
import { isSameVocabulary } from '../vocabulary.js';
import { type Move, movesOf, Tokens, targetPositions } from './moves.js';
import { sourceTextAsTarget } from './other-vocabulary.js';
import type { ModelShape, PlannedModels } from './pairs.js';
import { identityOf, isVector, type ResolvedSource, type ResolvedVector } from './sources.js';

/** How a prompt is read. */
interface Way {
  readonly side: Side | undefined;
  /** Name of an adapter. */
  readonly adapter: string | undefined;
}

export class Resolver {
  readonly #models: PlannedModels;
  readonly #tokens = new Tokens();
  readonly #known = new Map<string, ResolvedPrompt>();
  readonly #vectors = new Map<string, ResolvedVector>();
  readonly #ofSources = new Map<ResolvedPrompt, Map<string, ResolvedPrompt>>();
  #hasOneVocabulary: boolean | undefined;

  constructor(models: PlannedModels) {
    this.#models = models;
  }

  /**
   * Of each pair of a sample and a variant the tokens whose states go into a cell, or the vector.
   *
   * @param seed of a random position.
   */
  sources(at: Source, way: Way, seed: number): ResolvedSource[][] {
    if ('vector' in at) return [[this.vector(at.vector, 'source', way, seed)]];
    const { position, further = [] } = at;
    const { tokenizer } = this.#models.source;
    if (position.kind !== 'each') {
      const source = this.#source(at, way, seed);
      return [[source, ...this.#tokens.further(source, further, tokenizer, 'source')]];
    }
    const last = this.#source({ ...at, position: { kind: 'index', index: -1 } }, way, seed);
    return this.#tokens.each(last, position.spans, tokenizer).map((source) => [source]);
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

  /** @param following tokens that are decoded after the target, at most. */
  moves(at: PromptAt, sources: readonly ResolvedSource[], way: Way, seed: number, following: number): Move[] {
    const [position, ...further] = targetPositions(at, sources) as [Position, ...Position[]];
    const { tokenizer } = this.#models.target;
    const target = this.#target({ ...at, position }, sources[0]!, way, seed, following);
    return movesOf(sources, [target, ...this.#tokens.further(target, further, tokenizer, 'target')]);
  }

  #source(at: PromptAt, way: Way, seed: number): ResolvedPrompt {
    if (at.prompt.kind === 'text' && at.prompt.padded) {
      throw new PatchscopeError(
        'bad_input',
        "The source prompt can't be padded: a target is, up to the position of its source.",
      );
    }
    if (at.prompt.kind === 'text' && at.prompt.placeholder !== undefined) {
      throw new PatchscopeError('bad_input', 'The source prompt can have no placeholder: a target has one.');
    }
    return this.#resolve(at, 'source', way, seed, 0);
  }

  #target(at: PromptAt, source: ResolvedSource, way: Way, seed: number, following: number): ResolvedPrompt {
    const { prompt } = at;
    if (prompt.kind === 'text' && prompt.placeholder !== undefined) {
      return this.#withPlaceholder({ ...at, prompt }, source, way, seed, following);
    }
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

  /** The text, and one token behind it that no text stands for. */
  #withPlaceholder(
    at: PromptAt & { readonly prompt: Extract<Prompt, { readonly kind: 'text' }> },
    source: ResolvedSource,
    way: Way,
    seed: number,
    following: number,
  ): ResolvedPrompt {
    const { placeholder, ...before } = at.prompt;
    const { tokenizer } = this.#models.target;
    const start = { ...at, prompt: before, position: { kind: 'index', index: 0 } as const };
    const { tokenIds } = this.#resolve(start, 'target', { ...way, side: undefined }, seed, following);
    const own = isVector(source) || !this.#isOneVocabulary() ? undefined : source;
    const last = placeholderToken(placeholder!, own, tokenizer, seed);
    const whole = { ...at, prompt: { kind: 'tokens', tokenIds: [...tokenIds, last] } as const };
    return this.#resolve(whole, 'target', way, seed, following);
  }

  #sourceAsTarget(
    source: ResolvedPrompt,
    position: Position,
    side: Side | undefined,
    draw: number | undefined,
  ): ResolvedPrompt {
    const [own, other] = [this.#models.source.tokenizer, this.#models.target.tokenizer];
    return this.#isOneVocabulary()
      ? sourceAsTarget(source, position, other, draw)
      : sourceTextAsTarget(source, position, { source: own, target: other }, side, draw);
  }

  #isOneVocabulary(): boolean {
    this.#hasOneVocabulary ??= isSameVocabulary(this.#models.source.tokenizer, this.#models.target.tokenizer);
    return this.#hasOneVocabulary;
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
