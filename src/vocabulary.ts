/** Two vocabularies: whether they are one, and which tokens of theirs are the same text. */
import type { Tokenizer } from './engine.js';

/** Whether each token id is the same text in both, and prompts begin with the same token. */
export function isSameVocabulary(a: Tokenizer, b: Tokenizer): boolean {
  if (a === b) return true;
  const [size, start] = [a.vocabularySize, a.decoderStartToken];
  if (size !== b.vocabularySize || a.bosToken !== b.bosToken || start !== b.decoderStartToken) return false;
  for (let tokenId = 0; tokenId < size; tokenId++) {
    if (textOf(tokenId, a) !== textOf(tokenId, b)) return false;
  }
  return true;
}

/** Which tokens have the bytes of a token of another vocabulary. */
export class Translation {
  readonly #from: Tokenizer;
  /** Undefined where the vocabularies are one. */
  readonly #tokens: ReadonlyMap<string, readonly number[]> | undefined;

  constructor(from: Tokenizer, to: Tokenizer) {
    this.#from = from;
    this.#tokens = isSameVocabulary(from, to) ? undefined : tokensByText(to);
  }

  /** All of them; none where the text is no single token there. */
  tokens(tokenId: number): readonly number[] {
    if (this.#tokens === undefined) return [tokenId];
    return this.#tokens.get(textOf(tokenId, this.#from)) ?? [];
  }
}

/** A token without bytes is no text. */
function tokensByText(tokenizer: Tokenizer): Map<string, number[]> {
  const tokens = new Map<string, number[]>();
  for (let tokenId = 0; tokenId < tokenizer.vocabularySize; tokenId++) {
    const text = textOf(tokenId, tokenizer);
    if (text === '') continue;
    const known = tokens.get(text);
    if (known === undefined) tokens.set(text, [tokenId]);
    else known.push(tokenId);
  }
  return tokens;
}

/** One character for each byte: parts of characters are told apart. */
function textOf(tokenId: number, tokenizer: Tokenizer): string {
  return Buffer.from(tokenizer.tokenBytes(tokenId)).toString('latin1');
}
