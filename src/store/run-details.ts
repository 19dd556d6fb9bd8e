import type { Database } from 'better-sqlite3';
import { PatchscopeError } from '../errors.js';
import { withResults } from './results.js';
import { chosenRun, type RunSummary } from './run-list.js';

/** A run with all its facts, its metrics by layer, and one value at each pair of layers. */
export interface RunDetails {
  readonly run: RunSummary;
  /** The other columns of table `run`, under their names. */
  readonly facts: Readonly<Record<string, string | number | null>>;
  /** Vectors in place of source prompts, and the target's own edits. */
  readonly vectors: readonly UsedVector[];
  readonly metrics: readonly LayerMetric[];
  /** Over all samples and layers. */
  readonly effects: readonly Effect[];
  /** Cells that were run twice; null where none were. */
  readonly repeats: Repeats | null;
  /** What the grid shows. */
  readonly value: string;
  readonly grid: readonly GridCell[];
  /** The same by source position, of variants that go through several. */
  readonly positions: readonly PositionCell[];
}

/** In one variant, with one op. */
export interface UsedVector {
  readonly variant: string;
  readonly op: string;
  /** Whether the target's own states are edited with it in every cell. */
  readonly isOwnEdit: boolean;
  /** In words, of one of them; empty: an edit without a vector. */
  readonly text: string;
  /** Different ones, over all samples. */
  readonly count: number;
}

/** Of all samples together; -1 is embed. */
export interface LayerMetric {
  readonly name: string;
  readonly control: string;
  readonly variant: string;
  readonly sourceSite: string;
  readonly site: string;
  readonly sourceLayer: number | null;
  readonly targetLayer: number | null;
  readonly value: number;
  /** Cells in the mean. */
  readonly n: number;
  /** 95 %. */
  readonly ciLow: number;
  readonly ciHigh: number;
}

/** What the captured state adds to a metric beyond a control. */
export interface Effect {
  readonly name: string;
  readonly control: string;
  readonly variant: string;
  readonly mapping: string;
  readonly sourceSite: string;
  readonly site: string;
  readonly value: number;
  /** Pairs of cells in the mean. */
  readonly n: number;
  /** 95 %. */
  readonly ciLow: number;
  readonly ciHigh: number;
}

export interface Repeats {
  readonly cells: number;
  /** Of which something else came out. */
  readonly differing: number;
}

/** The mean over all samples at one pair of layers; -1 is embed. */
export interface GridCell {
  readonly variant: string;
  readonly sourceSite: string;
  readonly site: string;
  readonly sourceLayer: number;
  readonly targetLayer: number;
  /** Of the cells that did not fail; null where all failed. */
  readonly value: number | null;
  readonly cells: number;
  readonly failed: number;
}

/** The mean over all samples at one source position and pair of layers. */
export interface PositionCell extends GridCell {
  readonly sourcePosition: number;
  /** Null where samples have different ones. */
  readonly sourceToken: string | null;
}

export interface RunDetailsOptions {
  /** Id, or name: its newest run. Default: the newest run. */
  readonly run?: string | undefined;
  /** `top_probability` (default) or a metric of the run. */
  readonly value?: string | undefined;
  /** Default: all. */
  readonly variant?: string | undefined;
}

const topProbability = 'top_probability';

/** @throws PatchscopeError `bad_input` where there is no such run, value or variant. */
export function runDetails(
  path: string,
  { run: spec, value = topProbability, variant }: RunDetailsOptions = {},
): RunDetails {
  return withResults(path, (database) => {
    const run = chosenRun(database, path, spec);
    checkNamed('value', value, [topProbability, ...scoreNames(database, run.runId)], run);
    if (variant !== undefined) checkNamed('variant', variant, variantNames(database, run.runId), run);
    const ofVariant = <Row extends { readonly variant: string }>(rows: Row[]) =>
      variant === undefined ? rows : rows.filter((row) => row.variant === variant);
    return {
      run,
      facts: database
        .prepare<[number], RunDetails['facts']>('SELECT * FROM run WHERE id = ?')
        .get(run.runId)!,
      vectors: ofVariant(usedVectors(database, run.runId)),
      metrics: ofVariant(layerMetrics(database, run.runId)),
      effects: ofVariant(effects(database, run.runId)),
      repeats: repeats(database, run.runId),
      value,
      grid: ofVariant(layerGrid<GridCell>(database, run.runId, value, '')),
      positions: ofVariant(layerGrid<PositionCell>(database, run.runId, value, 'source_position')),
    };
  });
}

function checkNamed(what: string, name: string, known: readonly string[], run: RunSummary): void {
  if (known.includes(name)) return;
  throw new PatchscopeError(
    'bad_input',
    `Run ${run.runId} (${run.name}) has no ${what} ${name}; it has ${known.join(', ')}`,
  );
}

/** Names of the values that single cells of a run have. */
export function scoreNames(database: Database, runId: number): string[] {
  return database
    .prepare<[number], string>(
      `SELECT DISTINCT score.name FROM observation JOIN score ON score.observation_id = observation.id
      WHERE observation.run_id = ? ORDER BY score.name`,
    )
    .pluck()
    .all(runId);
}

function variantNames(database: Database, runId: number): string[] {
  return database
    .prepare<[number], string>('SELECT DISTINCT name FROM variant WHERE run_id = ? ORDER BY name')
    .pluck()
    .all(runId);
}

function usedVectors(database: Database, runId: number): UsedVector[] {
  return database
    .prepare<[{ runId: number }], Omit<UsedVector, 'isOwnEdit'> & { readonly isOwnEdit: number }>(
      `SELECT variant, op, isOwnEdit, coalesce(min(vector.text), '') AS text, count(DISTINCT vector.idx) AS count
      FROM (
        SELECT name AS variant, op, 0 AS isOwnEdit, source_vector_idx AS idx FROM variant
        WHERE run_id = :runId AND source_vector_idx IS NOT NULL
        UNION ALL
        SELECT name, edit.value ->> '$.op', 1, edit.value ->> '$.vector'
        FROM variant, json_each(variant.own_edits) AS edit WHERE run_id = :runId
      ) AS used
      LEFT JOIN vector ON vector.run_id = :runId AND vector.idx = used.idx
      GROUP BY variant, op, isOwnEdit, vector.record ->> '$.kind' ORDER BY variant, isOwnEdit, op, text`,
    )
    .all({ runId })
    .map((row) => ({ ...row, isOwnEdit: row.isOwnEdit === 1 }));
}

function layerMetrics(database: Database, runId: number): LayerMetric[] {
  return database
    .prepare<[number], LayerMetric>(
      `SELECT
        name, control, variant, source_site AS sourceSite, site, source_layer AS sourceLayer,
        target_layer AS targetLayer, value, n, ci_low AS ciLow, ci_high AS ciHigh
      FROM layer_grid WHERE run_id = ?
      ORDER BY variant, source_site, site, source_layer, target_layer, control, name`,
    )
    .all(runId);
}

function effects(database: Database, runId: number): Effect[] {
  return database
    .prepare<[number], Effect>(
      `SELECT
        effect.name, control, variant, mapping.name AS mapping, source_site AS sourceSite, site, value, n,
        ci_low AS ciLow, ci_high AS ciHigh
      FROM effect
      JOIN mapping ON mapping.id = mapping_id
      WHERE run_id = ? AND source_layer IS NULL AND target_layer IS NULL AND "group" = ''
      ORDER BY effect.name, variant, mapping.name, source_site, site, control`,
    )
    .all(runId);
}

function repeats(database: Database, runId: number): Repeats | null {
  const found = database
    .prepare<[number], Repeats>(
      'SELECT count(differs) AS cells, coalesce(sum(differs), 0) AS differing FROM observation WHERE run_id = ?',
    )
    .get(runId)!;
  return found.cells > 0 ? found : null;
}

/** @param by more than layers, of variants that are swept over it. */
function layerGrid<Cell extends GridCell>(
  database: Database,
  runId: number,
  value: string,
  by: '' | 'source_position',
): Cell[] {
  const [columns, swept, also] =
    by === ''
      ? ['', '', '']
      : [
          `move.source_position AS sourcePosition,
          CASE WHEN min(move.source_token) = max(move.source_token) THEN min(move.source_token) END AS sourceToken,`,
          `JOIN variant AS own ON own.run_id = observation.run_id AND own.sample_idx = observation.sample_idx
            AND own.name = observation.variant AND own.swept
          JOIN move ON move.run_id = observation.run_id AND move.sample_idx = observation.sample_idx
            AND move.variant = observation.variant AND move.idx = observation.move_idx`,
          ', move.source_position',
        ];
  const [join, measured] =
    value === topProbability
      ? [
          'LEFT JOIN token_score AS read ON read.observation_id = observation.id AND read.step = 0 AND read.rank = 0 AND :value IS NOT NULL',
          'exp(read.logprob)',
        ]
      : [
          'LEFT JOIN score AS read ON read.observation_id = observation.id AND read.name = :value',
          'read.value',
        ];
  return database
    .prepare<[{ runId: number; value: string }], Cell>(
      `SELECT
        ${columns}
        observation.variant, source_site AS sourceSite, site, source_layer AS sourceLayer, target_layer AS targetLayer,
        avg(${measured}) AS value, count(*) AS cells, sum(status = 'failed') AS failed
      FROM observation ${swept} ${join}
      WHERE observation.run_id = :runId AND control = 'none'
      GROUP BY observation.variant, source_site, site, source_layer, target_layer${also}
      ORDER BY observation.variant, source_site, site, source_layer, target_layer${also}`,
    )
    .all({ runId, value });
}
