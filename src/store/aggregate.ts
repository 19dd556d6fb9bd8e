/** Scores of single cells -> means over cells, with confidence intervals over samples. */
import type { Database } from 'better-sqlite3';
import { Bootstrap } from '../statistics/bootstrap.js';
import { groupsOf, partsOf, type Shared, Sums, scoresOf, total } from './score-sums.js';

export type MetricRow = readonly [...Shared, string, value: number, n: number, low: number, high: number];

/**
 * The rows of `metric`: over all samples together, whose group is '', and over each group of samples. They
 * depend on the cells alone, not on the order in which these were stored.
 */
export function* metricRows(database: Database, runId: number): Generator<MetricRow> {
  const seed = database.prepare<[number], number>('SELECT seed FROM run WHERE id = ?').pluck().get(runId)!;
  const bootstrap = new Bootstrap(seed);
  const groups = groupsOf(database, runId);
  for (const [shared, sums] of sumsByPlace(database, runId)) {
    for (const [group, part] of [['', sums] as const, ...partsOf(sums, groups)]) {
      const n = total(part.counts);
      const { low, high } = bootstrap.interval(part);
      yield [...shared, group, total(part.sums) / n, n, low, high];
    }
  }
}

function sumsByPlace(database: Database, runId: number): Iterable<[Shared, Sums]> {
  const places = new Map<string, [Shared, Sums]>();
  for (const [name, control, variant, mappingId, sourceSite, site, source, target, sample, value] of scoresOf(
    database,
    runId,
  )) {
    const key = `${name}\n${control}\n${variant}\n${mappingId} ${sourceSite} ${site} ${source} ${target}`;
    let place = places.get(key);
    if (place === undefined) {
      place = [[name, control, variant, mappingId, sourceSite, site, source, target], new Sums()];
      places.set(key, place);
    }
    place[1].add(sample, value, 1);
  }
  return places.values();
}
