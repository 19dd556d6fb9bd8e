/** Scores of single cells -> what variants that are made of factors come to in cells that were chosen on other samples. */
import type { Database } from 'better-sqlite3';
import { HalfMeans } from '../statistics/cell-choice.js';
import { BEST, type Cell, type ChoiceRow, Comparison, type Made } from './comparison.js';
import { scoresOf } from './score-sums.js';

/** By the half of the samples that it was chosen on. */
type Chosen = readonly [even: string | undefined, odd: string | undefined];

/** None where no variant is made of factors; they depend on the cells alone. */
export function* choiceRows(database: Database, runId: number): Generator<ChoiceRow> {
  const made = madeVariants(database, runId);
  if (made.length === 0) return;
  const cells = new Map<string, Cell>();
  const means = new Map<string, HalfMeans<string>>();
  for (const { name, sample, key, cell, value } of cellScores(database, runId, made)) {
    cells.set(key, cell);
    let ofMetric = means.get(name);
    if (ofMetric === undefined) {
      ofMetric = new HalfMeans();
      means.set(name, ofMetric);
    }
    ofMetric.add(sample, key, value);
  }
  const chosen = chosenCells(database, made, cells, means);
  const values = triedValues(database, runId, made, chosen);
  const seed = database.prepare<[number], number>('SELECT seed FROM run WHERE id = ?').pluck().get(runId)!;
  const comparison = new Comparison(made, seed);
  for (const [name, ofMetric] of [...chosen].sort(([a], [b]) => (a < b ? -1 : 1))) {
    for (const [variant, halves] of ofMetric) {
      yield* comparison.rows(name, variant, values.get(name)!, (half) => cells.get(halves[half] ?? ''));
    }
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

function* cellScores(database: Database, runId: number, made: readonly Made[]) {
  const names = new Set(made.map(({ name }) => name));
  for (const [name, control, variant, mapping, sourceSite, site, source, target, sample, value] of scoresOf(
    database,
    runId,
  )) {
    if (control !== 'none' || !names.has(variant)) continue;
    const key = `${variant}\n${mapping} ${sourceSite} ${site} ${source} ${target}`;
    yield { name, sample, key, cell: { variant, source, target }, value };
  }
}

/** By metric and variant. */
function chosenCells(
  database: Database,
  made: readonly Made[],
  cells: ReadonlyMap<string, Cell>,
  means: ReadonlyMap<string, HalfMeans<string>>,
): Map<string, Map<string, Chosen>> {
  const smaller = database
    .prepare<[string], number>('SELECT count(*) FROM smaller_is_better WHERE ? GLOB pattern')
    .pluck();
  return new Map(
    [...means].map(([name, ofMetric]) => {
      const isSmallerBetter = smaller.get(name)! > 0;
      const choose = (isMeant?: (key: string) => boolean): Chosen => [
        ofMetric.best(0, isSmallerBetter, isMeant),
        ofMetric.best(1, isSmallerBetter, isMeant),
      ];
      const each = made.map(
        (one) => [one.name, choose((key) => cells.get(key)!.variant === one.name)] as const,
      );
      return [name, new Map([...each, [BEST, choose()]])];
    }),
  );
}

/** By metric and variant, the scores of samples in the cell that is best for the other half of them. */
function triedValues(
  database: Database,
  runId: number,
  made: readonly Made[],
  chosen: ReadonlyMap<string, ReadonlyMap<string, Chosen>>,
): Map<string, Map<string, Map<number, number>>> {
  const tried = [...chosen].map(([name, ofMetric]) => {
    const values = new Map([...ofMetric.keys()].map((variant) => [variant, new Map<number, number>()]));
    return [name, values] as const;
  });
  const values = new Map(tried);
  for (const { name, sample, key, cell, value } of cellScores(database, runId, made)) {
    for (const variant of [cell.variant, BEST]) {
      const other = chosen.get(name)!.get(variant)![sample % 2 === 0 ? 1 : 0];
      if (other === key) values.get(name)!.get(variant)!.set(sample, value);
    }
  }
  return values;
}
