/** Which token's state goes to which token, cell by cell: one to one, one to several, or several to as many. */
import type { Tokenizer } from '../engine.js';
import { PatchscopeError } from '../errors.js';
import type { Position, PromptAt, Span } from '../patchscope.js';
import { resolvePosition, resolveSpan } from '../positions.js';
import { positionTokens, type ResolvedPrompt, tokenText, writtenBytes } from '../prompts.js';
import { needPrompt, type ResolvedSource } from './sources.js';

/** A state's way from a token of the source to a token of the target. */
export interface Move {
  readonly source: ResolvedSource;
  readonly target: ResolvedPrompt;
}

type Which = 'source' | 'target';

/** Tokens of prompts; equal ones are one and the same object. */
export class Tokens {
  readonly #known = new Map<ResolvedPrompt, Map<number, ResolvedPrompt>>();

  /** The prompt with its position at another of its tokens. */
  at(prompt: ResolvedPrompt, tokenIndex: number, tokenizer: Tokenizer): ResolvedPrompt {
    if (tokenIndex === prompt.tokenIndex) return prompt;
    let known = this.#known.get(prompt);
    if (known === undefined) {
      known = new Map();
      this.#known.set(prompt, known);
    }
    const found = known.get(tokenIndex) ?? {
      ...prompt,
      tokenIndex,
      token: tokenText(positionTokens(prompt)[tokenIndex]!, tokenizer),
    };
    known.set(tokenIndex, found);
    return found;
  }

  /** @throws PatchscopeError `bad_input` where a position is not there. */
  further(
    prompt: ResolvedPrompt,
    positions: readonly Position[],
    tokenizer: Tokenizer,
    which: Which,
  ): ResolvedPrompt[] {
    const bytes = writtenBytes(positionTokens(prompt), prompt.text, tokenizer);
    return positions.map((position) => this.at(prompt, resolvePosition(position, bytes, which), tokenizer));
  }

  /** @throws PatchscopeError `bad_input` where the tokens are not there. */
  each(prompt: ResolvedPrompt, spans: readonly Span[], tokenizer: Tokenizer): ResolvedPrompt[] {
    const bytes = writtenBytes(positionTokens(prompt), prompt.text, tokenizer);
    const indexes = new Set(spans.flatMap((span) => resolveSpan(span, bytes, 'source')));
    return [...indexes].map((tokenIndex) => this.at(prompt, tokenIndex, tokenizer));
  }
}

/** The positions of a target, `same` as the index of the source whose state goes there. */
export function targetPositions(
  { position, further = [] }: PromptAt,
  sources: readonly ResolvedSource[],
): readonly Position[] {
  const all = [position, ...further];
  const spread = all.length === 1 && position.kind === 'same' ? sources.map(() => position) : all;
  if (sources.length > 1 && sources.length !== spread.length) {
    throw new PatchscopeError(
      'bad_input',
      `The source has ${sources.length} positions and the target ${spread.length}: each state goes to one position, so give as many of both, or one of the source.`,
    );
  }
  return spread.map((one, i) => (one.kind === 'same' ? indexOf(sources[i % sources.length]!) : one));
}

function indexOf(source: ResolvedSource): Position {
  return { kind: 'index', index: needPrompt(source, 'the target position is that of a source').tokenIndex };
}

/** @throws PatchscopeError `bad_input` where two states would go to one token. */
export function movesOf(sources: readonly ResolvedSource[], targets: readonly ResolvedPrompt[]): Move[] {
  const twice = targets.find((target, i) =>
    targets.slice(0, i).some(({ tokenIndex }) => tokenIndex === target.tokenIndex),
  );
  if (twice !== undefined) {
    throw new PatchscopeError(
      'bad_input',
      `The target position ${twice.tokenIndex} (${JSON.stringify(twice.token)}) is given twice, where a token takes one state: give each once.`,
    );
  }
  return targets.map((target, i) => ({ source: sources[i % sources.length]!, target }));
}
