/** Times of two things measured in turn, as rows of a table. */
import { formatTable } from '../../src/index.js';

export interface Pair {
  /** @returns seconds. */
  readonly ours: () => Promise<number>;
  readonly theirs: () => Promise<number>;
}

export interface Wanted {
  /** Least ratio; without it the measure is for information. */
  readonly atLeast?: number;
  readonly rounds?: number;
}

export const ROUNDS = 5;

export class Comparison {
  readonly #word: string;
  readonly #rows: (string | number)[][] = [];

  /** @param word only measures whose names hold it are taken. */
  constructor(word: string) {
    this.#word = word;
  }

  wants(measure: string): boolean {
    return measure.includes(this.#word);
  }

  add(...row: (string | number)[]): void {
    this.#rows.push(row);
    process.stderr.write(`${row.join('  ')}\n`);
  }

  /** Both in turn, so that a machine whose speed drifts treats them alike; the first round only warms up. */
  async compare(
    measure: string,
    { atLeast, rounds = ROUNDS }: Wanted,
    { ours, theirs }: Pair,
  ): Promise<void> {
    if (!this.wants(measure)) return;
    const times: { readonly mine: number; readonly other: number }[] = [];
    for (let round = 0; round <= rounds; round++) {
      const pair = { mine: await ours(), other: await theirs() };
      if (round > 0) times.push(pair);
    }
    const ratios = times.map(({ mine, other }) => other / mine).sort((a, b) => a - b);
    const seconds = times.map(({ mine }) => mine).sort((a, b) => a - b);
    this.add(
      measure,
      ...[middle(ratios), ratios[0]!, ratios.at(-1)!].map((ratio) => ratio.toFixed(2)),
      atLeast === undefined ? '' : `at least ${atLeast.toFixed(2)}`,
      middle(seconds).toFixed(2),
    );
  }

  table(): string {
    return formatTable({
      columns: ['measure', 'ratio', 'least', 'most', 'wanted', 'seconds'],
      rows: this.#rows,
      truncated: false,
    });
  }
}

export function middle(sorted: readonly number[]): number {
  return sorted[Math.floor(sorted.length / 2)]!;
}
