/** How much two texts say the same: by the words that both have, whatever their order. */

/** What is compared of a text: its words, each once; of one without words its signs as a whole; of a blank one nothing. */
export type Words = ReadonlySet<string>;

/** They are in most English texts, whatever these say. */
const common = new Set(
  `a an and are as at be been but by for from had has have in is it its not of on or s t that the this to was were
  which who with`.split(/\s+/),
);

/** Lower case, without the commonest English words where others are left; an ideograph is a word of its own. */
export function wordsOf(text: string): Words {
  const words = text.toLowerCase().match(/\p{Ideographic}|(?:(?!\p{Ideographic})[\p{L}\p{M}\p{N}])+/gu);
  if (words === null) return new Set(text.trim() === '' ? [] : [text.trim()]);
  const telling = words.filter((word) => !common.has(word));
  return new Set(telling.length > 0 ? telling : words);
}

/** From 0 to 1: twice the words of both over the words of each; blank texts say nothing, not the same. */
export function overlap(a: Words, b: Words): number {
  if (a.size === 0 || b.size === 0) return 0;
  let shared = 0;
  for (const word of a) if (b.has(word)) shared++;
  return (2 * shared) / (a.size + b.size);
}
