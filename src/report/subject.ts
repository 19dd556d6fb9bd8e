/** What a report is about: runs, the metrics they have, and how their lines are told apart. */
import type { Database } from 'better-sqlite3';
import { onOneLine } from '../store/format.js';
import { scoreNames } from '../store/run-details.js';
import type { RunSummary } from '../store/run-list.js';
import { ask } from './data.js';

/** Where cells belong that are drawn as one line. */
export interface Place {
  readonly run_id: number;
  readonly run_name: string;
  readonly variant: string;
  readonly mapping: string;
  readonly source_site: string;
  readonly site: string;
}

export interface Subject {
  readonly runs: readonly RunSummary[];
  /** `1, 2`, as it stands in SQL. */
  readonly runIds: string;
  /** Of runs by their id: what bootstraps are drawn with. */
  readonly seeds: ReadonlyMap<number, number>;
  readonly metrics: readonly string[];
  /** Whether the smallest value of a metric is the best. */
  readonly isSmallerBetter: (metric: string) => boolean;
  /** The side whose layers are swept; both may be. */
  readonly axis: 'source_layer' | 'target_layer';
  /** The states of a layer go to several layers, and a layer takes those of several. */
  readonly isGrid: boolean;
  /** In the order of lines; the embedding is where block outputs begin. */
  readonly places: readonly Place[];
  /** By what a place differs from the others; empty where there is but one. */
  readonly nameOf: (place: Place) => string;
  /** Which of the places it is. */
  readonly indexOf: (place: Place) => number;
  readonly hasControls: boolean;
  readonly hasGroups: boolean;
}

/** Columns of `Place`, of `observation` joined with `run` and `mapping`. */
export const placeColumns = `observation.run_id, run.name AS run_name, observation.variant, mapping.name AS mapping,
  CASE observation.source_site WHEN 'embed' THEN 'resid_out' ELSE observation.source_site END AS source_site,
  CASE observation.site WHEN 'embed' THEN 'resid_out' ELSE observation.site END AS site`;

export const placeJoins = `JOIN run ON run.id = observation.run_id
JOIN mapping ON mapping.id = observation.mapping_id`;

export function subjectOf(database: Database, runs: readonly RunSummary[]): Subject {
  const runIds = runs.map(({ runId }) => runId).join(', ');
  const [shape] = ask<{ sources: number; grids: number | null; controls: number | null }>(
    database,
    `SELECT max(sources) AS sources, sum(pairs > max(sources, targets)) AS grids, sum(controls) AS controls
    FROM (
      SELECT count(DISTINCT source_layer) AS sources, count(DISTINCT target_layer) AS targets,
        count(DISTINCT source_layer || ' ' || target_layer) AS pairs, sum(control <> 'none') AS controls
      FROM observation WHERE run_id IN (${runIds}) GROUP BY run_id, variant
    )`,
  );
  const places = ask<Place>(
    database,
    `SELECT DISTINCT ${placeColumns} FROM observation ${placeJoins}
    WHERE run_id IN (${runIds}) AND control = 'none'
    ORDER BY observation.run_id, observation.variant, mapping, source_site, site`,
  );
  const groups = ask(
    database,
    `SELECT 1 FROM sample WHERE run_id IN (${runIds}) AND "group" IS NOT NULL LIMIT 1`,
  );
  const seeds = ask<{ id: number; seed: number }>(
    database,
    `SELECT id, seed FROM run WHERE id IN (${runIds})`,
  );
  const metrics = [...new Set(runs.flatMap(({ runId }) => scoreNames(database, runId)))].sort();
  return {
    ...{ runs, runIds, places, nameOf: namer(places), indexOf: finder(places) },
    seeds: new Map(seeds.map(({ id, seed }) => [id, seed])),
    ...{ metrics, isSmallerBetter: smallerIsBetter(database, metrics) },
    axis: shape!.sources > 1 ? 'source_layer' : 'target_layer',
    isGrid: Number(shape!.grids) > 0,
    hasControls: Number(shape!.controls) > 0,
    hasGroups: groups.length > 0,
  };
}

function smallerIsBetter(database: Database, metrics: readonly string[]): Subject['isSmallerBetter'] {
  const asked = database
    .prepare<[string], number>('SELECT count(*) FROM smaller_is_better WHERE ? GLOB pattern')
    .pluck();
  const found = new Set(metrics.filter((metric) => asked.get(metric)! > 0));
  return (metric) => found.has(metric);
}

function namer(places: readonly Place[]): (place: Place) => string {
  const count = (of: (place: Place) => unknown) => new Set(places.map(of)).size;
  const sitesOf = ({ source_site, site }: Place) =>
    source_site === site ? site : `${source_site} to ${site}`;
  const runOf = ({ run_id, run_name }: Place) => `run ${run_id} ${run_name}`;
  const variantOf = ({ variant }: Place) => variant;
  const mappingOf = ({ mapping }: Place) => mapping;
  const ownOf = (place: Place) => `${runOf(place)} ${variantOf(place)}`;
  // a variant that has but one mapping says which by its own name
  const isTold = count((place) => `${ownOf(place)} ${mappingOf(place)}`) === count(ownOf);
  const parts = [runOf, variantOf, mappingOf, sitesOf].filter(
    (of) => count(of) > 1 && !(of === mappingOf && isTold && count(variantOf) > 1),
  );
  return (place) => onOneLine(parts.map((of) => of(place)).join(', '));
}

/** Where nothing was patched, there is no mapping: it belongs to the first place of its variant. */
function finder(places: readonly Place[]): Subject['indexOf'] {
  const keyOf = ({ run_id, variant, mapping, source_site, site }: Place) =>
    JSON.stringify([run_id, variant, mapping, source_site, site]);
  const keys = places.map(keyOf);
  return (place) => {
    const exact = keys.indexOf(keyOf(place));
    const near = places.findIndex(
      ({ run_id, variant }) => run_id === place.run_id && variant === place.variant,
    );
    return Math.max(0, exact < 0 ? near : exact);
  };
}
