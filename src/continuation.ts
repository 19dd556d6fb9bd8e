/** Text that follows a prompt -> token ids that spell it, and nothing else. */
import type { Tokenizer } from './engine.js';
import { PatchscopeError } from './errors.js';
import type { Reading } from './patchscope.js';

export interface ResolvedToken {
  readonly tokenId: number;
  readonly token: string;
}

/** @throws PatchscopeError `bad_input` where it is empty, can't follow a token, or is not the only way to go on. */
export function resolveContinuation(
  { continuation: text, sampling, stop }: Reading,
  tokenizer: Tokenizer,
): ResolvedToken[] | undefined {
  if (text === undefined) return undefined;
  if (text === '') throw bad('The continuation is empty: give it some text.');
  if (sampling !== undefined || stop.length > 0) {
    throw bad(
      'A continuation that is given is scored to its end: leave out how tokens are drawn and where they stop.',
    );
  }
  return followingTokens(text, tokenizer).map((tokenId) => ({
    tokenId,
    token: spelled([tokenId], tokenizer),
  }));
}

/** Token ids that spell a text where it follows a prompt. */
export function followingTokens(text: string, tokenizer: Tokenizer): number[] {
  const tokenize = (words: string) => tokenizer.tokenize(words, { bos: false, special: false });
  const alone = tokenize(text);
  // some tokenizers put a blank before a text, which does not stand between a prompt and what follows it
  if (spelled(alone, tokenizer) !== ` ${text}`) return alone;
  const behind = tokenize(`\n${text}`);
  const candidates = [tokenize(text.slice(1)), ...[1, 2, 3].map((i) => behind.slice(i))];
  const found = candidates.find((tokenIds) => spelled(tokenIds, tokenizer) === text);
  if (found === undefined) {
    throw bad(
      `This model's tokenizer puts a blank before ${JSON.stringify(text)}: begin the continuation with a blank.`,
    );
  }
  return found;
}

function spelled(tokenIds: readonly number[], tokenizer: Tokenizer): string {
  return Buffer.concat(tokenIds.map((tokenId) => tokenizer.tokenBytes(tokenId))).toString('utf8');
}

function bad(message: string): PatchscopeError {
  return new PatchscopeError('bad_input', message);
}
