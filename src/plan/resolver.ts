/** Prompts and positions as they are written -> token ids and indexes, each distinct one once. */
import { PatchscopeError } from '../errors.js';
import type { Position, PromptAt, Side } from '../patchscope.js';
import { inputOf, paddedTarget, type ResolvedPrompt, resolvePrompt, sourceAsTarget } from '../prompts.js';
import { uniforms } from '../random.js';
import { isSameVocabulary } from '../vocabulary.js';
import { type Move, movesOf, Tokens, targetPositions } from './moves.js';
import { sourceTextAsTarget } from './other-vocabulary.js';
import type { ModelShape, PlannedModels } from './pairs.js';

export class Resolver {
  readonly #models: PlannedModels;
  readonly #tokens = new Tokens();
  readonly #known = new Map<string, ResolvedPrompt>();
  readonly #ofSources = new Map<ResolvedPrompt, Map<string, ResolvedPrompt>>();
  #hasOneVocabulary: boolean | undefined;

  constructor(models: PlannedModels) {
    this.#models = models;
  }

  /**
   * Of each pair of a sample and a variant the tokens whose states go into a cell.
   *
   * @param seed of a random position.
   */
  sources(at: PromptAt, side: Side | undefined, seed: number): ResolvedPrompt[][] {
    const { position, further = [] } = at;
    const { tokenizer } = this.#models.source;
    if (position.kind !== 'each') {
      const source = this.#source(at, side, seed);
      return [[source, ...this.#tokens.further(source, further, tokenizer, 'source')]];
    }
    const last = this.#source({ ...at, position: { kind: 'index', index: -1 } }, side, seed);
    return this.#tokens.each(last, position.spans, tokenizer).map((source) => [source]);
  }

  /** @param following tokens that are decoded after the target, at most. */
  moves(
    at: PromptAt,
    sources: readonly ResolvedPrompt[],
    side: Side | undefined,
    seed: number,
    following: number,
  ): Move[] {
    const [position, ...further] = targetPositions(at, sources) as [Position, ...Position[]];
    const { tokenizer } = this.#models.target;
    const target = this.#target({ ...at, position }, sources[0]!, side, seed, following);
    return movesOf(sources, [target, ...this.#tokens.further(target, further, tokenizer, 'target')]);
  }

  #source(at: PromptAt, side: Side | undefined, seed: number): ResolvedPrompt {
    if (at.prompt.kind === 'text' && at.prompt.padded) {
      throw new PatchscopeError(
        'bad_input',
        "The source prompt can't be padded: a target is, up to the position of its source.",
      );
    }
    return this.#resolve(at, 'source', side, seed, 0);
  }

  #target(
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
