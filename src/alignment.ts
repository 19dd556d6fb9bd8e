/** Tokens of two vocabularies -> those after which both have read the same text. */
import type { Tokenizer } from './engine.js';
import { positionTokens, type ResolvedPrompt } from './prompts.js';

/** A prompt and what its ids mean. */
export interface TokenizedPrompt {
  readonly prompt: ResolvedPrompt;
  readonly tokenizer: Tokenizer;
}

/**
 * Pairs of token indexes whose tokens end at the same byte of the same text, up to where the texts part. A token
 * without text of its own, such as the BOS that a prompt begins with by itself, is in no pair.
 */
export function alignedTokens(a: TokenizedPrompt, b: TokenizedPrompt): [ofA: number, ofB: number][] {
  const [one, other] = [textOfTokens(a), textOfTokens(b)];
  const length = sharedLength(one.text, other.text);
  const byEnd = new Map(other.ends.map((end, i) => [end, i]));
  return one.ends.flatMap((end, i): [number, number][] => {
    const match = byEnd.get(end);
    const isText = end > (one.ends[i - 1] ?? 0) && match !== undefined && end > (other.ends[match - 1] ?? 0);
    return isText && end <= length ? [[i, match]] : [];
  });
}

interface TextOfTokens {
  readonly text: Buffer;
  /** Bytes of it up to the end of each token. */
  readonly ends: readonly number[];
}

/** As it is written: without a BOS, and without a blank, that a tokenizer put before it. */
export function textOfTokens({ prompt, tokenizer }: TokenizedPrompt): TextOfTokens {
  const tokenIds = positionTokens(prompt);
  const parts = tokenIds.map((tokenId, i) =>
    i === 0 && tokenIds.length > 1 && tokenId === tokenizer.bosToken
      ? Buffer.alloc(0)
      : Buffer.from(tokenizer.tokenBytes(tokenId)),
  );
  const all = Buffer.concat(parts);
  const written = Buffer.from(prompt.side === 'decoder' ? '' : (prompt.text ?? ''));
  const isPutBefore = all[0] === BLANK && sharedLength(all.subarray(1), written) > sharedLength(all, written);
  const blank = isPutBefore ? 1 : 0;
  let end = -blank;
  const ends = parts.map(({ length }) => {
    end += length;
    return Math.max(0, end);
  });
  return { text: all.subarray(blank), ends };
}

const BLANK = 32;

function sharedLength(a: Buffer, b: Buffer): number {
  let length = 0;
  while (length < a.length && length < b.length && a[length] === b[length]) length++;
  return length;
}
