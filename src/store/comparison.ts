/** Variants that are made of factors, compared with each other over the samples that they have together. */
import { Bootstrap } from '../statistics/bootstrap.js';

type Triple = readonly [value: number, low: number, high: number] | readonly [null, null, null];

/** The columns of `choice`, without the run's id. */
export type ChoiceRow = readonly [
  name: string,
  variant: string,
  triedOn: 'all' | 'even' | 'odd',
  chosen: string | null,
  targets: string | null,
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

/** What was best on one half of the samples. */
export interface Choice {
  readonly variant: string;
  /** Where states go, by where they come from; each begins with its layer. */
  readonly targets: ReadonlyMap<string, string>;
  readonly mean: number;
}

/** Scores of a sample by where its states come from: a mean each. */
export type Tried = Map<number, Map<string, { sum: number; count: number }>>;

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
    tried: ReadonlyMap<string, Tried>,
    [even, odd]: readonly (Choice | undefined)[],
  ): Generator<ChoiceRow> {
    const base = this.#made[0]!.name;
    const parts = this.#partsOf(variant);
    for (const triedOn of ['all', 'even', 'odd'] as const) {
      const isMeant = (sample: number) => triedOn === 'all' || (sample % 2 === 0) === (triedOn === 'even');
      const mean = (...terms: readonly (readonly [sign: number, variant: string])[]) =>
        this.#mean(
          terms.map(([sign, of]) => [sign, tried.get(of) ?? new Map()] as const),
          isMeant,
        );
      const own = mean([1, variant]);
      if (own === undefined) continue;
      const choice = { all: undefined, even: odd, odd: even }[triedOn];
      const chosen = variant === BEST ? (choice?.variant ?? null) : variant;
      const difference = variant === base ? undefined : mean([1, variant], [-1, base]);
      const beyond = parts && mean([1, variant], [-1, parts[0]], [-1, parts[1]], [1, base]);
      yield [
        ...([name, variant, triedOn, chosen, choice ? layersOf(choice) : null, own.samples] as const),
        ...own.triple,
        ...(difference?.triple ?? nothing),
        ...(beyond?.triple ?? nothing),
      ];
    }
  }

  /** Of a sum of scores, sample by sample and place by place; undefined where no sample has all of them. */
  #mean(terms: readonly (readonly [sign: number, tried: Tried])[], isMeant: (sample: number) => boolean) {
    const [[, first]] = terms as [[number, Tried]];
    const parts = [...first.keys()].filter(isMeant).flatMap((sample) => {
      const own = terms.map(([sign, tried]) => [sign, tried.get(sample)] as const);
      const keys = [...first.get(sample)!.keys()].filter((key) => own.every(([, of]) => of?.has(key)));
      const values = keys.map((key) =>
        own.reduce((total, [sign, of]) => {
          const { sum, count } = of!.get(key)!;
          return total + (sign * sum) / count;
        }, 0),
      );
      return values.length === 0 ? [] : [{ sum: total(values), count: values.length }];
    });
    if (parts.length === 0) return undefined;
    const [sums, counts] = [parts.map(({ sum }) => sum), parts.map(({ count }) => count)];
    const { low, high } = this.#bootstrap.interval({ sums, counts });
    return { samples: parts.length, triple: [total(sums) / total(counts), low, high] as const };
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

/** Where states go, by where they come from, as JSON. */
function layersOf({ targets }: Choice): string {
  const layer = (place: string) => Number.parseInt(place, 10);
  const pairs = [...targets].map(([from, to]) => [layer(from), layer(to)]).sort(([a], [b]) => a! - b!);
  return JSON.stringify(pairs);
}

function total(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}
