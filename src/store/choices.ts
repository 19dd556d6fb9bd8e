/** Scores of single cells -> what variants that are made of factors come to in cells that were chosen on other samples. */
import type { Database } from 'better-sqlite3';
import { HalfMeans } from '../statistics/cell-choice.js';
import { BEST, type Choice, type ChoiceRow, Comparison, type Made, type Tried } from './comparison.js';
import { scoresOf } from './score-sums.js';

/** Of one variant: by the place that states come from, the means of the places that they go to. */
type Means = Map<string, HalfMeans<string>>;

/** By the half of the samples that it was made on. */
type Halves = readonly [even: Choice | undefined, odd: Choice | undefined];

const halves = [0, 1] as const;

/** None where no variant is made of factors; they depend on the cells alone. */
export function* choiceRows(database: Database, runId: number): Generator<ChoiceRow> {
  const made = madeVariants(database, runId);
  if (made.length === 0) return;
  const seed = database.prepare<[number], number>('SELECT seed FROM run WHERE id = ?').pluck().get(runId)!;
  const comparison = new Comparison(made, seed);
  const chosen = new Map(
    [...meansOf(database, runId, made)].map(([name, of]) => [
      name,
      choose(of, made, isSmallerBetter(database, name)),
    ]),
  );
  const tried = triedIn(database, runId, made, chosen);
  for (const name of [...chosen.keys()].sort()) {
    for (const [variant, choices] of chosen.get(name)!.choices)
      yield* comparison.rows(name, variant, tried.get(name)!, choices);
  }
}

/** In their order. */
function madeVariants(database: Database, runId: number): Made[] {
  return database
    .prepare<[number], { name: string; factors: string }>(
      `SELECT variant.value ->> '$.name' AS name, variant.value -> '$.factors' AS factors
      FROM run, json_each(run.experiment, '$.variants') AS variant
      WHERE run.id = ? AND variant.value -> '$.factors' IS NOT NULL ORDER BY variant.key`,
    )
    .all(runId)
    .map(({ name, factors }) => ({ name, factors: JSON.parse(factors) as Made['factors'] }));
}

/** Of captured states in these variants. */
function* cellScores(database: Database, runId: number, made: readonly Made[]) {
  const names = new Set(made.map(({ name }) => name));
  for (const score of scoresOf(database, runId)) {
    const [name, control, variant, mapping, sourceSite, site, source, target, sample, value] = score;
    if (control !== 'none' || !names.has(variant)) continue;
    yield {
      name,
      variant,
      from: `${source} ${sourceSite}`,
      to: `${target} ${site} ${mapping}`,
      sample,
      value,
    };
  }
}

/** By metric and variant. */
function meansOf(database: Database, runId: number, made: readonly Made[]): Map<string, Map<string, Means>> {
  const all = new Map<string, Map<string, Means>>();
  for (const { name, variant, from, to, sample, value } of cellScores(database, runId, made)) {
    const ofVariant = at(at(all, name, newMap), variant, newMap) as Means;
    at(ofVariant, from, () => new HalfMeans<string>()).add(sample, to, value);
  }
  return all;
}

interface Chosen {
  /** Places that states come from in every variant, over which these are compared; none: each has its own. */
  readonly shared: ReadonlySet<string>;
  readonly choices: ReadonlyMap<string, Halves>;
}

/** For each variant, and of all of them the best. */
function choose(of: ReadonlyMap<string, Means>, made: readonly Made[], smaller: boolean): Chosen {
  const [first, ...others] = [...of.values()];
  const shared = new Set([...first!.keys()].filter((from) => others.every((means) => means.has(from))));
  const choices = new Map<string, Halves>();
  for (const { name } of made) {
    const means = of.get(name);
    if (means === undefined) continue;
    const [even, odd] = halves.map((half) => {
      const targets = [...means]
        .filter(([from]) => shared.size === 0 || shared.has(from))
        .flatMap(([from, to]) => {
          const best = to.best(half, smaller);
          return best === undefined ? [] : [{ from, to: best.cell, mean: best.mean }];
        });
      if (targets.length === 0) return undefined;
      const mean = targets.reduce((sum, one) => sum + one.mean, 0) / targets.length;
      return { variant: name, targets: new Map(targets.map(({ from, to }) => [from, to])), mean };
    });
    choices.set(name, [even, odd]);
  }
  const best = halves.map((half) =>
    [...choices.values()]
      .map((choice) => choice[half])
      .reduce((a, b) => (a === undefined || (b && (smaller ? b.mean < a.mean : b.mean > a.mean)) ? b : a)),
  );
  choices.set(BEST, [best[0], best[1]]);
  return { shared, choices };
}

/** By metric and variant: scores of samples in the cells that are best for the other half of them. */
function triedIn(
  database: Database,
  runId: number,
  made: readonly Made[],
  chosen: ReadonlyMap<string, Chosen>,
): Map<string, Map<string, Tried>> {
  const all = new Map(
    [...chosen].map(([name, { choices }]) => [
      name,
      new Map([...choices.keys()].map((variant): [string, Tried] => [variant, new Map()])),
    ]),
  );
  for (const { name, variant, from, to, sample, value } of cellScores(database, runId, made)) {
    const { shared, choices } = chosen.get(name)!;
    for (const tried of [variant, BEST]) {
      const choice = choices.get(tried)![sample % 2 === 0 ? 1 : 0];
      if (choice?.variant !== variant || choice.targets.get(from) !== to) continue;
      // without places that all have, a sample has one mean over its own
      const key = shared.size === 0 ? '' : from;
      const mean = at(at(all.get(name)!.get(tried)!, sample, newMap), key, () => ({ sum: 0, count: 0 }));
      mean.sum += value;
      mean.count++;
    }
  }
  return all;
}

function isSmallerBetter(database: Database, name: string): boolean {
  return database.prepare('SELECT 1 FROM smaller_is_better WHERE ? GLOB pattern').get(name) !== undefined;
}

const newMap = () => new Map();

function at<Key, Value>(map: Map<Key, Value>, key: Key, make: () => Value): Value {
  let value = map.get(key);
  if (value === undefined) {
    value = make();
    map.set(key, value);
  }
  return value;
}
