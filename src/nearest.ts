/** The candidate a person most likely meant by `word`, or nothing when none is close. */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  const wanted = word.toLowerCase();
  if (wanted.length < 3) return undefined;
  const ranked = candidates
    .map((candidate) => ({ candidate, rank: rank(wanted, candidate) }))
    .sort((a, b) => a.rank - b.rank);
  const best = ranked[0];
  return best && best.rank <= Math.max(2, wanted.length / 3) ? best.candidate : undefined;
}

/** Edit distance, where a name that begins with the word counts as one edit away. */
function rank(wanted: string, candidate: string): number {
  const name = candidate.toLowerCase();
  const distance = levenshtein(wanted, name);
  return name.startsWith(wanted) ? Math.min(1, distance) : distance;
}

function levenshtein(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, column) => column);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(substitution, row[j]! + 1, next[j - 1]! + 1));
    }
    row = next;
  }
  return row[b.length]!;
}
