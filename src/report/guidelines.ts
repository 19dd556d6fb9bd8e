/** What the numbers of a run's factors come to, in sentences. */
import { grouped } from '../group.js';
import { numberText } from '../store/format.js';

/** A row of `choice`. */
export interface ChoiceRow {
  readonly variant: string;
  readonly tried_on: 'all' | 'even' | 'odd';
  readonly chosen: string | null;
  readonly layers: string | null;
  readonly samples: number;
  readonly value: number;
  readonly ci_low: number;
  readonly ci_high: number;
  readonly difference: number | null;
  readonly difference_low: number | null;
  readonly difference_high: number | null;
  readonly beyond: number | null;
  readonly beyond_low: number | null;
  readonly beyond_high: number | null;
}

/** A row of `variant_level`. */
export interface LevelRow {
  readonly variant: string;
  readonly factor: string;
  readonly level: string;
  readonly is_first: number;
}

export interface Measured {
  readonly metric: string;
  readonly isSmallerBetter: boolean;
  readonly rows: readonly ChoiceRow[];
  readonly levels: readonly LevelRow[];
}

interface Interval {
  readonly mean: number;
  readonly low: number;
  readonly high: number;
}

/** A further level of a factor, all other factors having their first. */
export interface Single {
  readonly factor: string;
  readonly level: string;
  /** The first level. */
  readonly base: string;
  readonly row: ChoiceRow;
}

/** Fewer make an interval too narrow. */
const FEW_SAMPLES = 30;

/** Of those tried on all samples. */
export function singlesOf({ rows, levels }: Measured): Single[] {
  const first = firstLevels(levels);
  return [...grouped(levels, ({ variant }) => variant)].flatMap(([variant, own]) => {
    const changed = own.filter(({ factor, level }) => first.get(factor) !== level);
    const row = rows.find((one) => one.variant === variant && one.tried_on === 'all');
    if (row === undefined || changed.length !== 1) return [];
    const { factor, level } = changed[0]!;
    return [{ factor, level, base: first.get(factor)!, row }];
  });
}

/** The first says what all are compared with; none where that one has no values. */
export function guidelines(measured: Measured): string[] {
  const { metric, rows, levels } = measured;
  const first = firstLevels(levels);
  const baseName = levels.find(({ is_first }) => is_first === 1)?.variant;
  const all = rows.filter(({ tried_on }) => tried_on === 'all');
  const base = all.find(({ variant }) => variant === baseName);
  if (base === undefined) return [];
  const settings = [...first].map(([factor, level]) => `${factor}: ${level}`).join(', ');
  return [
    `The simplest configuration (${settings}) comes to ${withInterval(meanOf(base))} of ${metric} over ${base.samples} samples and all source layers.`,
    ...factorSentences(measured),
    ...pairSentences(measured, all),
    ...bestSentences(measured),
    ...(base.samples < FEW_SAMPLES
      ? [`These are ${base.samples} samples: intervals of so few are narrower than they should be.`]
      : []),
  ];
}

/** Those that matter first. */
function factorSentences(measured: Measured): string[] {
  return [...grouped(singlesOf(measured), ({ factor }) => factor)]
    .map(([factor, singles]) => {
      const sorted = singles
        .map((single) => ({ ...single, of: differenceOf(single.row)! }))
        .filter(({ of }) => of !== undefined)
        .sort((a, b) => Math.abs(b.of.mean) - Math.abs(a.of.mean));
      return { factor, telling: sorted.filter(({ of }) => isTold(of)), sorted };
    })
    .filter(({ sorted }) => sorted.length > 0)
    .sort((a, b) => largest(b.telling) - largest(a.telling))
    .map(({ factor, telling, sorted }) => {
      const { base } = sorted[0]!;
      if (telling.length === 0) {
        const widest = `'${sorted[0]!.level}' differs by ${withInterval(sorted[0]!.of)}`;
        return `No effect of the ${factor} is told apart: ${widest} from '${base}'${sorted.length > 1 ? ', the others by no more' : ''}.`;
      }
      const effects = telling.map(({ level, of }) => `'${level}' is ${betterBy(of, measured)}`);
      const rest = sorted.filter(({ of }) => !isTold(of)).map(({ level }) => `'${level}'`);
      const others = rest.length === 0 ? '' : `; not told apart from it: ${rest.join(', ')}`;
      return `Effect of the ${factor}: compared with '${base}' ${effects.join(', ')}${others}.`;
    });
}

function largest(singles: readonly { readonly of: Interval }[]): number {
  return Math.max(0, ...singles.map(({ of }) => Math.abs(of.mean)));
}

function pairSentences({ isSmallerBetter }: Measured, all: readonly ChoiceRow[]): string[] {
  const pairs = all.flatMap((row) => {
    const { variant, beyond: mean, beyond_low: low, beyond_high: high } = row;
    return mean === null || low === null || high === null ? [] : [{ variant, of: { mean, low, high } }];
  });
  if (pairs.length === 0) return [];
  const told = pairs
    .filter(({ of }) => isTold(of))
    .sort((a, b) => Math.abs(b.of.mean) - Math.abs(a.of.mean))
    .map(({ variant, of }) => {
      const isBetter = of.mean < 0 === isSmallerBetter;
      return `${variant} is ${isBetter ? 'better' : 'worse'} than the sum by ${withInterval(absolute(of))}`;
    });
  return told.length === 0
    ? [
        `${pairs.length === 1 ? 'The one pair of changes does not differ' : `None of ${pairs.length} pairs of changes differs`} from the sum of both beyond its interval.`,
      ]
    : [
        `Of ${pairs.length} pairs of changes ${told.length} ${told.length === 1 ? 'differs' : 'differ'} from the sum of both (by chance alone it would be about ${numberText(pairs.length / 20)}): ${told.join('; ')}.`,
      ];
}

function bestSentences(measured: Measured): string[] {
  const { metric, rows, levels } = measured;
  const best = rows.filter(({ variant }) => variant === '');
  const all = best.find(({ tried_on }) => tried_on === 'all');
  const of = all && differenceOf(all);
  if (all === undefined || of === undefined) return [];
  const count = new Set(levels.map(({ variant }) => variant)).size;
  const halves = best
    .filter(({ tried_on }) => tried_on !== 'all')
    .map(
      ({ chosen, tried_on }) => `${chosen} by the samples at ${tried_on === 'odd' ? 'even' : 'odd'} places`,
    );
  const comes = `The best of ${count} configurations, chosen with its target layers on one half of the samples and tried on the other (${halves.join(', ')}), comes to ${withInterval(meanOf(all))} of ${metric}`;
  if (of.mean === 0 && of.low === 0 && of.high === 0)
    return [`${comes}, as the simplest one does: take the simplest.`];
  const than = `${betterBy(of, measured)} than the simplest`;
  if (!isTold(of))
    return [`${comes}, ${than}: within the interval the simplest configuration is as good as the best one.`];
  return isBetter(of, measured)
    ? [`${comes}, ${than}: the simplest configuration is not as good as the best one.`]
    : [`${comes}, ${than}: what looked best on one half was not so on the other; take the simplest.`];
}

function firstLevels(levels: readonly LevelRow[]): Map<string, string> {
  return new Map(levels.filter(({ is_first }) => is_first === 1).map(({ factor, level }) => [factor, level]));
}

function meanOf({ value: mean, ci_low: low, ci_high: high }: ChoiceRow): Interval {
  return { mean, low, high };
}

export function differenceOf(row: ChoiceRow): Interval | undefined {
  const { difference: mean, difference_low: low, difference_high: high } = row;
  return mean === null || low === null || high === null ? undefined : { mean, low, high };
}

/** Whether an interval lies on one side of zero. */
export function isTold({ low, high }: Interval): boolean {
  return low > 0 || high < 0;
}

function isBetter({ mean }: Interval, { isSmallerBetter }: Measured): boolean {
  return mean < 0 === isSmallerBetter;
}

function betterBy(of: Interval, measured: Measured): string {
  return `${isBetter(of, measured) ? 'better' : 'worse'} by ${withInterval(absolute(of))}`;
}

/** As if the mean were above zero. */
function absolute(of: Interval): Interval {
  return of.mean < 0 ? { mean: -of.mean, low: -of.high, high: -of.low } : of;
}

function withInterval({ mean, low, high }: Interval): string {
  return `${numberText(mean)} (${numberText(low)} to ${numberText(high)})`;
}
