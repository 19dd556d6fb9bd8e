/** Whether a sample is right in some cell of the grid, and in one cell that was chosen on other samples. */
import type { Database } from 'better-sqlite3';
import { grouped } from '../group.js';
import { cellChoice } from '../statistics/cell-choice.js';
import { layerText } from '../store/format.js';
import { ask, sqlText } from './data.js';
import { type Part, partName } from './part.js';
import type { Subject } from './subject.js';

interface Row {
  readonly run_id: number;
  readonly variant: string;
  readonly control: string;
  readonly draw: number;
  readonly op: string;
  readonly alpha: number | null;
  readonly sample_idx: number;
  readonly source_layer: number;
  readonly target_layer: number;
  readonly value: number;
  /** Whether the model knows the sample's facts; null where the run does not ask. */
  readonly known: 0 | 1 | null;
  /** Its name, where it is not that of its layers. */
  readonly cell?: string;
}

/** Of metrics that are 0 or 1. Where each layer has one cell, only what chooses among variants is a choice. */
export function cellChoices(database: Database, { runIds, isGrid }: Subject, metric: string): Part[] {
  const sql = `SELECT observation.run_id, observation.variant, observation.control, observation.draw,
  variant.op, variant.alpha, observation.sample_idx, observation.source_layer, observation.target_layer, score.value,
  CASE WHEN json_extract(run.experiment, '$.known') IS NOT NULL THEN EXISTS (
    SELECT 1 FROM known_sample WHERE known_sample.run_id = run.id AND known_sample.sample_idx = observation.sample_idx
  ) END AS known
FROM observation
JOIN run ON run.id = observation.run_id
JOIN score ON score.observation_id = observation.id AND score.name = ${sqlText(metric)}
JOIN variant ON variant.run_id = observation.run_id AND variant.sample_idx = observation.sample_idx
  AND variant.name = observation.variant
WHERE observation.run_id IN (${runIds}) AND observation.target_layer IS NOT NULL
ORDER BY observation.run_id, observation.variant, observation.control, observation.draw, observation.sample_idx,
  observation.source_layer, observation.target_layer`;
  const all = ask<Row>(database, sql);
  if (!all.every(({ value }) => value === 0 || value === 1)) return [];
  const groups = [
    ...(isGrid
      ? grouped(all, ({ run_id, variant, control, draw }) => JSON.stringify([run_id, variant, control, draw]))
      : []),
    ...pooled(all),
  ];
  const grids = groups.flatMap(([, own]) => [
    { facts: 'all', first: own[0]!, ...wholeGrid(own) },
    ...(own[0]!.known === null
      ? []
      : [{ facts: 'known', first: own[0]!, ...wholeGrid(own.filter(({ known }) => known === 1)) }]),
  ]);
  // a variant of one pair of layers, such as one that patches nothing, is there to compare with
  if (!grids.some(({ cells, right }) => cells.length > 1 && right.length > 1)) return [];
  const rows = grids.map(({ facts, first, right, cells }) => {
    const choice = right.length > 1 ? cellChoice(right) : undefined;
    return [
      ...[first.run_id, first.variant, first.control, first.draw, facts, right.length, cells.length],
      ...[choice?.someCell ?? null, choice?.heldOut ?? null],
      ...(choice?.chosen.map((cell) => cells[cell]!) ?? [null, null]),
    ];
  });
  return [
    {
      ...{ name: partName('cell-choice', metric), title: `${metric} in some cell, and in a chosen one` },
      caption:
        'Part of the samples. some cell: right in at least one pair of layers, which flatters any method, so compare with the controls. held out: right in the one pair that is best for the other half of the samples. Facts are known where the model itself, asked with nothing patched, says them. Samples of which a cell failed are left out. Where variants write with different numbers, a line of all of them chooses the variant, too.',
      data: {
        sql: `-- a row is one cell; shares of samples are made from these rows\n${sql}`,
        columns: [
          ...['run_id', 'variant', 'control', 'draw', 'facts', 'samples', 'cells', 'some cell', 'held out'],
          ...['chosen on even samples', 'chosen on odd samples'],
        ],
        rows,
      },
    },
  ];
}

/** Variants that write with different numbers as one grid, in which a cell names its variant. */
function pooled(all: readonly Row[]): [string, readonly Row[]][] {
  const patching = all.filter(({ op, alpha }) => op !== 'scale' || alpha !== 1);
  const pools = grouped(patching, ({ run_id, control, draw }) => JSON.stringify([run_id, control, draw]));
  return [...pools]
    .filter(([, rows]) => new Set(rows.map(({ alpha }) => alpha)).size > 1)
    .map(([key, rows]) => [
      key,
      rows.map((row) => ({ ...row, variant: 'any of them', cell: `${row.variant}, ${layersOf(row)}` })),
    ]);
}

function layersOf({ source_layer, target_layer }: Row): string {
  return `${layerText(source_layer)} to ${layerText(target_layer)}`;
}

/** The samples that have all cells, and the cells by their layers. */
function wholeGrid(rows: readonly Row[]): { cells: string[]; right: number[][] } {
  const nameOf = (row: Row) => row.cell ?? layersOf(row);
  const cells = [...new Set(rows.map(nameOf))];
  const samples = [...grouped(rows, ({ sample_idx }) => sample_idx).values()];
  const right = samples.filter(({ length }) => length === cells.length);
  return {
    cells,
    right: right.map((sample) => {
      const values = new Map(sample.map((row) => [nameOf(row), row.value]));
      return cells.map((cell) => values.get(cell)!);
    }),
  };
}
