/** A tokenizer of few words, for prompts in a template and for plans. */
import type { Tokenizer } from '../src/engine.js';

export const words = ['<bos>', '<turn>', 'a', 'b', 'c', ' '];

/** One token for each of `words`, BOS first; a chat puts its own BOS before the turn where `chatBos` is set. */
export function wordTokenizer(chatBos = false): Tokenizer {
  return {
    vocabularySize: words.length,
    bosToken: 0,
    tokenize: (written, { bos, special }) => {
      const known = special ? words : words.slice(2);
      const found = [...written.matchAll(new RegExp(known.join('|'), 'g'))].map(([word]) =>
        words.indexOf(word),
      );
      return bos ? [0, ...found] : found;
    },
    tokenBytes: (tokenId) => Buffer.from(words[tokenId]!),
    isEndOfText: () => false,
    chat: (user) => `${chatBos ? '<bos>' : ''}<turn>${user}<turn>`,
  };
}
