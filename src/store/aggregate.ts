/** Scores of single cells -> means over cells, with confidence intervals over samples. */
import type { Database } from 'better-sqlite3';
import { Bootstrap } from '../statistics/bootstrap.js';

/** What the cells of a mean share: columns of `metric`. */
type Shared = readonly [
  name: string,
  control: string,
  variant: string,
  mappingId: number,
  sourceSite: string,
  site: string,
  sourceLayer: number | null,
  targetLayer: number | null,
];

type Score = readonly [...Shared, sample: number, value: number];

export type MetricRow = readonly [...Shared, string, value: number, n: number, low: number, high: number];

/** Sum and number of the scores of each sample, in the order of samples. */
class Sums {
  readonly samples: number[] = [];
  readonly sums: number[] = [];
  readonly counts: number[] = [];

  add(sample: number, sum: number, count: number): void {
    const last = this.samples.length - 1;
    if (this.samples[last] === sample) {
      this.sums[last]! += sum;
      this.counts[last]! += count;
      return;
    }
    this.samples.push(sample);
    this.sums.push(sum);
    this.counts.push(count);
  }
}

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
  const scores = database
    .prepare<[number], Score>(
      `SELECT
        score.name, control, variant, mapping_id, source_site, site, source_layer, target_layer,
        sample_idx, score.value
      FROM observation
      CROSS JOIN score ON score.observation_id = observation.id
      WHERE run_id = ?
      ORDER BY sample_idx, draw`,
    )
    .raw();
  const places = new Map<string, [Shared, Sums]>();
  for (const [
    name,
    control,
    variant,
    mappingId,
    sourceSite,
    site,
    source,
    target,
    sample,
    value,
  ] of scores.iterate(runId)) {
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

function partsOf({ samples, sums, counts }: Sums, groups: ReadonlyMap<number, string>): Map<string, Sums> {
  const parts = new Map<string, Sums>();
  samples.forEach((sample, i) => {
    const group = groups.get(sample);
    if (group === undefined) return;
    let part = parts.get(group);
    if (part === undefined) {
      part = new Sums();
      parts.set(group, part);
    }
    part.add(sample, sums[i]!, counts[i]!);
  });
  return parts;
}

function groupsOf(database: Database, runId: number): Map<number, string> {
  return new Map(
    database
      .prepare<[number], [number, string]>(
        'SELECT idx, "group" FROM sample WHERE run_id = ? AND "group" IS NOT NULL',
      )
      .raw()
      .all(runId),
  );
}

function total(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}
