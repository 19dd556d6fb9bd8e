/** Scores of single cells, and their sums by sample. */
import type { Database } from 'better-sqlite3';
import { Bootstrap } from '../statistics/bootstrap.js';

/** What the cells of a mean share: columns of `metric`. */
export type Shared = readonly [
  name: string,
  control: string,
  variant: string,
  mappingId: number,
  sourceSite: string,
  site: string,
  sourceLayer: number | null,
  targetLayer: number | null,
];

export type Score = readonly [...Shared, sample: number, value: number];

/** All of a run, sample by sample. */
export function scoresOf(database: Database, runId: number): IterableIterator<Score> {
  return database
    .prepare<[number], Score>(
      `SELECT
        score.name, control, variant, mapping_id, source_site, site, source_layer, target_layer,
        sample_idx, score.value
      FROM observation
      CROSS JOIN score ON score.observation_id = observation.id
      WHERE run_id = ?
      ORDER BY sample_idx, draw`,
    )
    .raw()
    .iterate(runId);
}

/** Sum and number of the scores of each sample, in the order of samples. */
export class Sums {
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

/** Means over all samples, whose group is '', and over each group, with intervals that the run's seed draws. */
export function* meansOf(database: Database, runId: number, all: Iterable<readonly [Shared, Sums]>) {
  const seed = database.prepare<[number], number>('SELECT seed FROM run WHERE id = ?').pluck().get(runId)!;
  const bootstrap = new Bootstrap(seed);
  const groups = groupsOf(database, runId);
  for (const [shared, sums] of all) {
    for (const [group, part] of [['', sums] as const, ...partsOf(sums, groups)]) {
      const n = total(part.counts);
      const samples = part.samples.length;
      yield { shared, group, value: total(part.sums) / n, n, samples, ...bootstrap.interval(part) };
    }
  }
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
