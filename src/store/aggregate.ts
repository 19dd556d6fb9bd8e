/** Scores of single cells -> means over cells, with confidence intervals over samples. */
import type { Database } from 'better-sqlite3';
import { meansOf, type Shared, Sums, scoresOf } from './score-sums.js';

export type MetricRow = readonly [...Shared, string, value: number, n: number, low: number, high: number];

/**
 * The rows of `metric`: over all samples together, whose group is '', and over each group of samples. They
 * depend on the cells alone, not on the order in which these were stored.
 */
export function* metricRows(database: Database, runId: number): Generator<MetricRow> {
  for (const { shared, group, value, n, low, high } of meansOf(
    database,
    runId,
    sumsByPlace(database, runId),
  )) {
    yield [...shared, group, value, n, low, high];
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
