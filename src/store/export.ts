import fs from 'node:fs';
import { fileWriter, parquetWriteRows } from 'hyparquet-writer';
import { PatchscopeError } from '../errors.js';
import { writeWhole } from '../output-file.js';
import { storeError } from './failure.js';
import { csvRecords, formatJsonLines } from './format.js';
import type { SqlValue } from './query.js';
import { openResults } from './results.js';
import { chosenRun, type RunSummary } from './run-list.js';
import { type RowColumn, type RowKind, type RunRows, rowKinds, runRows } from './run-rows.js';

export const exportFormats = ['csv', 'jsonl', 'parquet'] as const;

export type ExportFormat = (typeof exportFormats)[number];

export interface ExportOptions {
  /** Id, or name: its newest run. Default: the newest run. */
  readonly run?: string | undefined;
  readonly format: ExportFormat;
  /** Default: readings. */
  readonly rows?: RowKind | undefined;
  /** The file to write. Text may be taken as it comes instead, by a function that says whether it wants more. */
  readonly to: string | ((text: string) => boolean);
}

export interface Export {
  readonly run: RunSummary;
  readonly rowCount: number;
}

/** Few enough for memory, and a read of a file of them is still worth its while. */
const rowsInGroup = 20_000;
const rowsInText = 500;

/**
 * Writes the rows of a run to a file, which appears when it is complete. Memory does not grow with the rows.
 *
 * @throws PatchscopeError `bad_input` where there is no such run, or the file exists or can't be written.
 */
export async function exportRun(
  path: string,
  { run: spec, format, rows: kind = 'readings', to }: ExportOptions,
): Promise<Export> {
  if (!exportFormats.includes(format) || !rowKinds.includes(kind))
    throw new TypeError(
      `Expected a format of ${exportFormats.join(', ')} and rows of ${rowKinds.join(', ')}`,
    );
  if (format === 'parquet' && typeof to !== 'string')
    throw new PatchscopeError('bad_input', 'Parquet is no text: name a file to write');
  try {
    const database = openResults(path);
    try {
      const run = chosenRun(database, path, spec);
      const counted = counting(runRows(database, run.runId, kind));
      if (typeof to !== 'string') writeText(counted, format, to);
      else if (format === 'parquet') await writeWhole(to, (part) => writeParquet(counted, part));
      else await writeWhole(to, (part) => writeTextFile(counted, format, part));
      return { run, rowCount: counted.count() };
    } finally {
      database.close();
    }
  } catch (error) {
    throw storeError(error, path);
  }
}

function counting({ columns, rows }: RunRows): RunRows & { count(): number } {
  let count = 0;
  function* counted() {
    for (const row of rows) {
      count++;
      yield row;
    }
  }
  return { columns, rows: counted(), count: () => count };
}

function writeTextFile(rows: RunRows, format: ExportFormat, file: string): void {
  const descriptor = fs.openSync(file, 'w');
  try {
    writeText(rows, format, (text) => {
      fs.writeFileSync(descriptor, text);
      return true;
    });
  } finally {
    fs.closeSync(descriptor);
  }
}

function writeText({ columns, rows }: RunRows, format: ExportFormat, take: (text: string) => boolean): void {
  const names = columns.map(({ name }) => name);
  const textOf = (part: SqlValue[][]) =>
    format === 'csv' ? csvRecords(part) : formatJsonLines({ columns: names, rows: part, truncated: false });
  let isWanted = format !== 'csv' || take(csvRecords([names]));
  let part: SqlValue[][] = [];
  for (const row of rows) {
    if (!isWanted) return;
    part.push(row);
    if (part.length < rowsInText) continue;
    isWanted = take(textOf(part));
    part = [];
  }
  if (isWanted && part.length > 0) take(textOf(part));
}

function writeParquet({ columns, rows }: RunRows, file: string): void {
  function* records() {
    for (const row of rows)
      yield Object.fromEntries(columns.map(({ name, type }, i) => [name, parquetValue(row[i]!, type)]));
  }
  // all of it is synchronous, as its source and its writer are
  void parquetWriteRows({
    writer: fileWriter(file),
    rows: records(),
    columns: columns.map(({ name }) => ({ name })),
    schema: [
      { name: 'root', num_children: columns.length },
      ...columns.map(({ name, type }) => ({
        name,
        repetition_type: 'OPTIONAL' as const,
        ...parquetTypes[type],
      })),
    ],
    rowGroupSize: rowsInGroup,
  });
}

const parquetTypes = {
  integer: { type: 'INT64' },
  real: { type: 'DOUBLE' },
  text: { type: 'BYTE_ARRAY', converted_type: 'UTF8' },
} as const;

function parquetValue(value: SqlValue, type: RowColumn['type']): SqlValue {
  return type === 'integer' && typeof value === 'number' ? BigInt(value) : value;
}
