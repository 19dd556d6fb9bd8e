/** Texts of single cells -> scores that say how far each is borne out by other cells of its sample. */
import type { Database } from 'better-sqlite3';
import { grouped } from '../group.js';
import { type FidelityMetricName, fidelityMetricNames } from '../patchscope.js';
import { overlap, type Words, wordsOf } from '../statistics/overlap.js';

export { fidelityMetricNames };

export type ScoreRow = readonly [observationId: number, name: FidelityMetricName, value: number];

interface Cell {
  readonly id: number;
  readonly sample: number;
  readonly variant: string;
  readonly control: string;
  readonly draw: number;
  readonly move: number;
  readonly mapping: number;
  /** Of source and target. */
  readonly sites: string;
  readonly source: number | null;
  readonly target: number | null;
  readonly text: string;
}

/** What a text is compared with. */
type Beside = (cell: Cell) => readonly Cell[];

/**
 * Those of the metrics agreement, stability and unlike-controls that the run's experiment names, for each cell that
 * has something beside it to be compared with. They depend on the cells alone.
 *
 * - agreement: mean overlap with what the other variants say of the same state, at the same layers.
 * - stability: mean overlap with what is said one layer before and one behind, of those that were run.
 * - unlike-controls: 1 less the overlap with that of the controls which is most like it.
 *
 * Of a blank text, which says nothing, all three are 0.
 */
export function* fidelityScores(database: Database, runId: number): Generator<ScoreRow> {
  const names = fidelityNames(database, runId);
  if (names.length === 0) return;
  for (const cells of bySample(database, runId)) {
    const words = new Map<string, Words>();
    const of = ({ text }: Cell) => wordsAt(words, text);
    for (const name of names) {
      const { beside, value } = measures[name](cells);
      for (const cell of cells) {
        const overlaps = beside(cell).map((other) => overlap(of(cell), of(other)));
        if (overlaps.length > 0) yield [cell.id, name, of(cell).size === 0 ? 0 : value(overlaps)];
      }
    }
  }
}

/** Those that the run's experiment names. */
export function fidelityNames(database: Database, runId: number): FidelityMetricName[] {
  const named = database
    .prepare<[number], string>(
      `SELECT metric.value FROM run, json_each(run.experiment, '$.metrics') AS metric WHERE run.id = ?`,
    )
    .pluck()
    .all(runId);
  return fidelityMetricNames.filter((name) => named.includes(name));
}

interface Measure {
  readonly beside: Beside;
  readonly value: (overlaps: readonly number[]) => number;
}

const measures: Readonly<Record<FidelityMetricName, (cells: readonly Cell[]) => Measure>> = {
  agreement: (cells) => ({ beside: otherVariants(cells), value: mean }),
  stability: (cells) => ({ beside: neighbours(cells), value: mean }),
  'unlike-controls': (cells) => ({
    beside: controlsOf(cells),
    value: (overlaps) => 1 - Math.max(...overlaps),
  }),
};

/** Where nothing is patched, cells have no layers, and their sites mean nothing. */
function placeOf({ control, sites, source, target, move }: Cell): string {
  return control === 'unpatched' ? '' : [sites, source, target, move].join('\n');
}

function otherVariants(cells: readonly Cell[]): Beside {
  const keyOf = (cell: Cell) => [cell.control, cell.draw, placeOf(cell)].join('\n');
  const groups = grouped(cells, keyOf);
  return (cell) => groups.get(keyOf(cell))!.filter(({ variant }) => variant !== cell.variant);
}

/**
 * Along the source's layers, into one target layer or into that which goes with each; where there is but one source,
 * along the target's.
 */
function neighbours(cells: readonly Cell[]): Beside {
  const beside = new Map<Cell, Cell[]>();
  const lines = grouped(
    cells.filter(({ control }) => control !== 'unpatched'),
    ({ variant, control, draw, move, mapping, sites }) =>
      [variant, control, draw, move, mapping, sites].join('\n'),
  );
  for (const line of lines.values()) {
    const sources = new Set(line.map(({ source }) => source)).size;
    const isOne = sources === 1 || sources === line.length;
    for (const part of isOne ? [line] : grouped(line, ({ target }) => `${target}`).values()) {
      const order = [...part].sort(
        (a, b) => Number(a.source) - Number(b.source) || Number(a.target) - Number(b.target),
      );
      order.forEach((cell, i) => {
        beside.set(
          cell,
          [order[i - 1], order[i + 1]].filter((other) => other !== undefined),
        );
      });
    }
  }
  return (cell) => beside.get(cell) ?? [];
}

/** The controls of captured states. */
function controlsOf(cells: readonly Cell[]): Beside {
  const keyOf = (cell: Cell) => [cell.variant, cell.mapping, placeOf(cell)].join('\n');
  const patched = cells.filter(({ control }) => control === 'random' || control === 'shuffled');
  const byPlace = grouped(patched, keyOf);
  const unpatched = grouped(
    cells.filter(({ control }) => control === 'unpatched'),
    ({ variant }) => variant,
  );
  return (cell) =>
    cell.control === 'none'
      ? [...(byPlace.get(keyOf(cell)) ?? []), ...(unpatched.get(cell.variant) ?? [])]
      : [];
}

/** In the order of samples, since the texts of all may be more than memory holds. */
function* bySample(database: Database, runId: number): Generator<Cell[]> {
  const cells = database
    .prepare<[number], Cell>(
      `SELECT id, sample_idx AS sample, variant, control, draw, move_idx AS move, mapping_id AS mapping,
        CASE source_site WHEN 'embed' THEN 'resid_out' ELSE source_site END || ' ' ||
          CASE site WHEN 'embed' THEN 'resid_out' ELSE site END AS sites,
        source_layer AS source, target_layer AS target, text
      FROM observation WHERE run_id = ? AND status = 'ok' ORDER BY sample_idx, variant, id`,
    )
    .iterate(runId);
  let sample: Cell[] = [];
  for (const cell of cells) {
    if (sample.length > 0 && sample[0]!.sample !== cell.sample) {
      yield sample;
      sample = [];
    }
    sample.push(cell);
  }
  if (sample.length > 0) yield sample;
}

function wordsAt(known: Map<string, Words>, text: string): Words {
  const words = known.get(text) ?? wordsOf(text);
  known.set(text, words);
  return words;
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
