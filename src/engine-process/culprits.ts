/** Finds out which cell of a chunk ends the engine's process, so that the others are not lost with it. */

export type Attempt<Outcome> = { readonly outcomes: readonly Outcome[] } | { readonly died: string };

/**
 * A chunk at which the process dies is tried once more as it is, since its end may have come from outside;
 * then it is halved until the culprit is alone, and alone it has a second try too.
 *
 * @param attempt each in a process that has not died yet.
 * @param giveUp makes the outcome of a culprit.
 */
export async function withoutCulprits<Outcome>(
  cells: readonly number[],
  attempt: (part: readonly number[]) => Promise<Attempt<Outcome>>,
  giveUp: (died: string) => Outcome,
): Promise<Outcome[]> {
  const outcomes = new Map<number, Outcome>();
  const open = [cells];
  const triedAgain = new Set<readonly number[]>();
  for (let part = open.pop(); part !== undefined; part = open.pop()) {
    const result = await attempt(part);
    if ('outcomes' in result) {
      part.forEach((cell, i) => void outcomes.set(cell, result.outcomes[i]!));
    } else if ((part === cells || part.length === 1) && !triedAgain.has(part)) {
      triedAgain.add(part);
      open.push(part);
    } else if (part.length === 1) {
      outcomes.set(part[0]!, giveUp(result.died));
    } else {
      const middle = part.length >> 1;
      open.push(part.slice(middle), part.slice(0, middle));
    }
  }
  return cells.map((cell) => outcomes.get(cell)!);
}
