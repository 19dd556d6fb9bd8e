/**
 * ROUGE-1 and ROUGE-L (Lin, 2004) as F1, as the Python package rouge_score computes them, without stemming: words are
 * runs of a to z and 0 to 9, in lower case.
 */

/** Of the words of both texts, each counted as often as it occurs. */
export function rouge1(reference: string, text: string): number {
  const [expected, found] = [wordsOf(reference), wordsOf(text)];
  const left = new Map<string, number>();
  for (const word of expected) left.set(word, (left.get(word) ?? 0) + 1);
  let shared = 0;
  for (const word of found) {
    const count = left.get(word) ?? 0;
    if (count === 0) continue;
    left.set(word, count - 1);
    shared++;
  }
  return f1(shared, expected.length, found.length);
}

/** Of the longest sequence of words that is in both texts in the same order. */
export function rougeL(reference: string, text: string): number {
  const [expected, found] = [wordsOf(reference), wordsOf(text)];
  let row = new Array<number>(found.length + 1).fill(0);
  for (const word of expected) {
    const next = [0];
    found.forEach((other, k) => {
      next.push(word === other ? row[k]! + 1 : Math.max(row[k + 1]!, next[k]!));
    });
    row = next;
  }
  return f1(row.at(-1)!, expected.length, found.length);
}

function wordsOf(text: string): string[] {
  return text.toLowerCase().match(/[a-z0-9]+/g) ?? [];
}

function f1(shared: number, expected: number, found: number): number {
  if (shared === 0) return 0;
  const [precision, recall] = [shared / found, shared / expected];
  return (2 * precision * recall) / (precision + recall);
}
