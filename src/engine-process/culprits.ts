/** Finds out which cell of a chunk ends the engine's process, so that the others are not lost with it. */
import { PatchscopeError } from '../errors.js';

/** What came out of some cells, or how the process ended at them. */
export type Attempt<Outcome> = { readonly outcomes: readonly Outcome[] } | { readonly died: string };

/** No run goes on after so many culprits: each of them costs some loads of the model. */
const MOST_CULPRITS = 32;
/** The same while nothing at all has come out of the engine. */
const MOST_CULPRITS_ALONE = 3;

/** Those of one engine. */
export class Culprits<Outcome> {
  readonly #fail: (died: string) => Outcome;
  #count = 0;
  #hasWorked = false;

  /** @param fail makes the outcome of a culprit. */
  constructor(fail: (died: string) => Outcome) {
    this.#fail = fail;
  }

  /**
   * Outcomes of a chunk's cells. Where the process dies at the chunk, it is tried once more as it is, since the
   * cause may have come from outside; then it is halved until the culprit is alone, and alone it has a second
   * try too.
   *
   * @param attempt each in a process that has not died yet.
   * @throws PatchscopeError `engine_died` where there are too many.
   */
  async goAround(
    cells: readonly number[],
    attempt: (part: readonly number[]) => Promise<Attempt<Outcome>>,
  ): Promise<Outcome[]> {
    const outcomes = new Map<number, Outcome>();
    const open = [cells];
    const triedAgain = new Set<readonly number[]>();
    for (let part = open.pop(); part !== undefined; part = open.pop()) {
      const result = await attempt(part);
      if ('outcomes' in result) {
        this.#hasWorked = true;
        part.forEach((cell, i) => void outcomes.set(cell, result.outcomes[i]!));
      } else if ((part === cells || part.length === 1) && !triedAgain.has(part)) {
        triedAgain.add(part);
        open.push(part);
      } else if (part.length === 1) {
        outcomes.set(part[0]!, this.#fail(result.died));
        this.#count++;
        this.#checkCount(result.died);
      } else {
        const middle = part.length >> 1;
        open.push(part.slice(middle), part.slice(0, middle));
      }
    }
    return cells.map((cell) => outcomes.get(cell)!);
  }

  #checkCount(died: string): void {
    if (this.#count < (this.#hasWorked ? MOST_CULPRITS : MOST_CULPRITS_ALONE)) return;
    const where = this.#hasWorked ? `at ${this.#count} cells` : `at each of the first ${this.#count} cells`;
    throw new PatchscopeError(
      'engine_died',
      `The engine's process died ${where} that it was given alone, which is too often to go on; the last time it ${died}`,
    );
  }
}
