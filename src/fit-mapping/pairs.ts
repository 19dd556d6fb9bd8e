/** Which states a mapping is fitted to: the places of a plan's cells, the tokens of its source prompts. */
import { alignedTokens } from '../alignment.js';
import type { CaptureRequest, TokenInput, Tokenizer } from '../engine.js';
import { PatchscopeError } from '../errors.js';
import type { MappingRecord, Side, Site } from '../patchscope.js';
import { type Place, placeAt } from '../places.js';
import { movesOfPair } from '../plan/pairs.js';
import { cellAt, movesAt, type Plan } from '../plan/plan.js';
import { needPrompt } from '../plan/sources.js';
import { inputOf, positionTokens } from '../prompts.js';
import { uniforms } from '../random.js';

const fitted = 'a mapping is fitted to the states of source prompts: fit it to a variant that has them';

export type Positions = MappingRecord['data']['positions'];

/** Tokens of one prompt, each of which gives a pair of states. */
export interface TokensOfPrompt extends TokenInput {
  readonly side: Side | undefined;
  readonly tokenIndexes: readonly number[];
}

/** A prompt as both models read it, with as many tokens on each side, pair by pair. */
export interface PromptPair {
  readonly source: TokensOfPrompt;
  /** The same object where there is one model. */
  readonly target: TokensOfPrompt;
}

/** A place whose states are mapped, and where to. */
export interface PlacesOfSource {
  readonly source: Place;
  readonly targets: readonly Place[];
}

/**
 * The places of the cells of a variant, source by source.
 *
 * @param targetSite takes the place of the variant's own.
 */
export function placesOf(
  plan: Plan,
  variant: string,
  layerCount: number,
  targetSite: Site | undefined,
): PlacesOfSource[] {
  const bySource = new Map<Place, Map<string, Place>>();
  for (let i = 0; i < plan.cellCount; i++) {
    const { pair, control } = cellAt(plan, i);
    if (pair.variant !== variant || control !== 'none') continue;
    for (const { source, target: planned } of movesAt(plan, i)) {
      const target = targetSite === undefined ? planned : placeAt(planned.layer, layerCount, targetSite);
      const targets = bySource.get(source) ?? new Map<string, Place>();
      bySource.set(source, targets.set(`${target.site} ${target.layer}`, target));
    }
  }
  return [...bySource].map(([source, targets]) => ({ source, targets: [...targets.values()] }));
}

/**
 * The source prompts of a variant, of which the targets are the same as another model reads them, each with the
 * tokens after which both have read the same text.
 */
export function pairedPromptsOf(
  plan: Plan,
  variant: string,
  positions: Positions,
  tokenizers: { readonly source: Tokenizer; readonly target: Tokenizer },
): { readonly prompts: PromptPair[]; readonly leftOut: number } {
  const bosToken = tokenizers.source.bosToken;
  const targets = new Map(
    plan.pairs.map((pair) => {
      const source = needPrompt(pair.source, fitted);
      return [JSON.stringify(inputOf(source)), { source, target: pair.target }];
    }),
  );
  let leftOut = 0;
  const prompts = promptsOf(plan, variant, positions, bosToken).flatMap((tokens): PromptPair[] => {
    const { side: _, tokenIndexes, ...input } = tokens;
    const { source, target } = targets.get(JSON.stringify(input))!;
    const matches = new Map(
      alignedTokens(
        { prompt: source, tokenizer: tokenizers.source },
        { prompt: target, tokenizer: tokenizers.target },
      ),
    );
    const paired = tokenIndexes.filter((index) => matches.has(index));
    leftOut += tokenIndexes.length - paired.length;
    if (paired.length === 0) return [];
    return [
      {
        source: { ...tokens, tokenIndexes: paired },
        target: {
          ...inputOf(target),
          side: target.side,
          tokenIndexes: paired.map((index) => matches.get(index)!),
        },
      },
    ];
  });
  return { prompts, leftOut };
}

/** The source prompts of a variant, each once. `all` leaves out a BOS token that a prompt begins with. */
export function promptsOf(
  plan: Plan,
  variant: string,
  positions: Positions,
  bosToken: number | undefined,
): TokensOfPrompt[] {
  const prompts = new Map<
    string,
    { readonly prompt: TokenInput; side: Side | undefined; tokens: Set<number> }
  >();
  const moves = plan.pairs.filter((pair) => pair.variant === variant).flatMap(movesOfPair);
  for (const move of moves) {
    const source = needPrompt(move.source, fitted);
    const prompt = inputOf(source);
    const key = JSON.stringify(prompt);
    const known = prompts.get(key) ?? { prompt, side: source.side, tokens: new Set<number>() };
    prompts.set(key, known);
    const tokens = positionTokens(source);
    const first = tokens.length > 1 && tokens[0] === bosToken ? 1 : 0;
    const own = positions === 'sample' ? [source.tokenIndex] : [...tokens.keys()].slice(first);
    for (const token of own) known.tokens.add(token);
  }
  return [...prompts.values()].map(({ prompt, side, tokens }) => ({
    ...prompt,
    side,
    tokenIndexes: [...tokens].sort((a, b) => a - b),
  }));
}

export interface Split {
  readonly train: readonly PromptPair[];
  readonly heldOut: readonly PromptPair[];
}

/**
 * Whole prompts are held out, so that no state of a prompt is judged by another of it.
 *
 * @throws PatchscopeError `bad_input` where the share leaves nothing to hold out, or nothing to train on.
 */
export function splitPrompts(prompts: readonly PromptPair[], share: number, seed: number): Split {
  if (!(share >= 0 && share < 1)) {
    throw new PatchscopeError(
      'bad_input',
      `The share that is held out is ${share} where a number from 0 to below 1 is needed.`,
    );
  }
  const count = share === 0 ? 0 : Math.max(1, Math.round(share * prompts.length));
  if (count >= prompts.length) {
    throw new PatchscopeError(
      'bad_input',
      `There ${prompts.length === 1 ? 'is one prompt' : `are ${prompts.length} prompts`}, and holding out ${count} leaves none to fit to: give more, or hold out less (0 holds out none).`,
    );
  }
  const uniform = uniforms(seed);
  const drawn = new Set(
    prompts
      .map((prompt) => [uniform(), prompt] as const)
      .sort(([a], [b]) => a - b)
      .slice(0, count)
      .map(([, prompt]) => prompt),
  );
  return {
    train: prompts.filter((prompt) => !drawn.has(prompt)),
    heldOut: prompts.filter((prompt) => drawn.has(prompt)),
  };
}

export function pairCount(prompts: readonly PromptPair[]): number {
  return prompts.reduce((sum, { source }) => sum + source.tokenIndexes.length, 0);
}

/** What is captured of a prompt: place by place, the tokens in their order. */
export function captureOf(prompt: TokensOfPrompt, places: readonly Place[]): CaptureRequest {
  const { side, tokenIndexes, ...input } = prompt;
  return {
    ...input,
    points: places.flatMap((place) =>
      tokenIndexes.map((tokenIndex) => ({ ...(side && { side }), ...place, tokenIndex })),
    ),
  };
}
