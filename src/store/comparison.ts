/** Variants that are made of factors, compared with each other over the samples that they have together. */
import { Bootstrap } from '../statistics/bootstrap.js';

type Triple = readonly [value: number, low: number, high: number] | readonly [null, null, null];

/** The columns of `choice`, without the run's id. */
export type ChoiceRow = readonly [
  name: string,
  variant: string,
  triedOn: 'all' | 'even' | 'odd',
  chosen: string | null,
  sourceLayer: number | null,
  targetLayer: number | null,
  samples: number,
  ...value: Triple,
  ...difference: Triple,
  ...beyond: Triple,
];

/** A variant that is made of factors. */
export interface Made {
  readonly name: string;
  readonly factors: Readonly<Record<string, string>>;
}

/** Of a variant. */
export interface Cell {
  readonly variant: string;
  readonly source: number | null;
  readonly target: number | null;
}

/** Scores by sample. */
type Values = ReadonlyMap<number, number>;

/** The name under which the best of all variants goes. */
export const BEST = '';
const nothing = [null, null, null] as const;

/** Variants among each other, over the samples that they have together. */
export class Comparison {
  readonly #made: readonly Made[];
  readonly #bootstrap: Bootstrap;

  constructor(made: readonly Made[], seed: number) {
    this.#made = made;
    this.#bootstrap = new Bootstrap(seed);
  }

  *rows(
    name: string,
    variant: string,
    values: ReadonlyMap<string, Values>,
    cellOf: (half: 0 | 1) => Cell | undefined,
  ): Generator<ChoiceRow> {
    const base = this.#made[0]!.name;
    const parts = this.#partsOf(variant);
    for (const triedOn of ['all', 'even', 'odd'] as const) {
      const isMeant = (sample: number) => triedOn === 'all' || (sample % 2 === 0) === (triedOn === 'even');
      const mean = (...terms: readonly (readonly [sign: number, variant: string])[]) =>
        this.#mean(
          terms.map(([sign, of]) => [sign, values.get(of)!] as const),
          isMeant,
        );
      const own = mean([1, variant]);
      if (own === undefined) continue;
      const cell = triedOn === 'all' ? undefined : cellOf(triedOn === 'even' ? 1 : 0);
      const { source = null, target = null } = cell ?? {};
      const chosen = variant === BEST ? (cell?.variant ?? null) : variant;
      const difference = variant === base ? undefined : mean([1, variant], [-1, base]);
      const beyond = parts && mean([1, variant], [-1, parts[0]], [-1, parts[1]], [1, base]);
      yield [
        ...([name, variant, triedOn, chosen, source, target, own.samples] as const),
        ...own.triple,
        ...(difference?.triple ?? nothing),
        ...(beyond?.triple ?? nothing),
      ];
    }
  }

  /** Of a sum of scores, sample by sample; undefined where no sample has all of them. */
  #mean(terms: readonly (readonly [sign: number, values: Values])[], isMeant: (sample: number) => boolean) {
    const [[, first]] = terms as [[number, Values]];
    const samples = [...first.keys()].filter(
      (sample) => isMeant(sample) && terms.every(([, values]) => values.has(sample)),
    );
    if (samples.length === 0) return undefined;
    const sums = samples.map((sample) =>
      terms.reduce((sum, [sign, values]) => sum + sign * values.get(sample)!, 0),
    );
    const { low, high } = this.#bootstrap.interval({ sums, counts: sums.map(() => 1) });
    const value = sums.reduce((sum, one) => sum + one, 0) / sums.length;
    return { samples: samples.length, triple: [value, low, high] as const };
  }

  /** Of a variant with two factors changed: those that have one of them changed. */
  #partsOf(variant: string): readonly [string, string] | undefined {
    const of = this.#made.find(({ name }) => name === variant);
    if (of === undefined) return undefined;
    const changed = this.#changes(of);
    if (changed.length !== 2) return undefined;
    const alone = changed.map(
      (factor) =>
        this.#made.find((one) => {
          const own = this.#changes(one);
          return own.length === 1 && own[0] === factor && one.factors[factor] === of.factors[factor];
        })?.name,
    );
    return alone.includes(undefined) ? undefined : (alone as [string, string]);
  }

  #changes({ factors }: Made): string[] {
    const base = this.#made[0]!.factors;
    return Object.keys(factors).filter((factor) => factors[factor] !== base[factor]);
  }
}
