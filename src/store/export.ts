import fs from 'node:fs';
import { setImmediate as pause } from 'node:timers/promises';
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
const rowsInPart = 500;

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
      const rows = inParts(runRows(database, run.runId, kind));
      if (typeof to !== 'string') await writeText(rows, format, to);
      else if (format === 'parquet') await writeWhole(to, (part) => writeParquet(rows, part));
      else await writeWhole(to, (part) => writeTextFile(rows, format, part));
      return { run, rowCount: rows.count() };
    } finally {
      database.close();
    }
  } catch (error) {
    throw storeError(error, path);
  }
}

interface Rows {
  readonly columns: readonly RowColumn[];
  readonly parts: AsyncIterable<SqlValue[][]>;
  /** Of those that were taken. */
  count(): number;
}

function inParts({ columns, rows }: RunRows): Rows {
  let count = 0;
  async function* parts() {
    let part: SqlValue[][] = [];
    for (const row of rows) {
      part.push(row);
      if (part.length < rowsInPart) continue;
      count += part.length;
      yield part;
      part = [];
      // so that Ctrl-C is heard
      await pause();
    }
    count += part.length;
    if (part.length > 0) yield part;
  }
  return { columns, parts: parts(), count: () => count };
}

async function writeTextFile(rows: Rows, format: ExportFormat, file: string): Promise<void> {
  const descriptor = fs.openSync(file, 'w');
  try {
    await writeText(rows, format, (text) => {
      fs.writeFileSync(descriptor, text);
      return true;
    });
  } finally {
    fs.closeSync(descriptor);
  }
}

async function writeText(
  { columns, parts }: Rows,
  format: ExportFormat,
  take: (text: string) => boolean,
): Promise<void> {
  const names = columns.map(({ name }) => name);
  if (format === 'csv' && !take(csvRecords([names]))) return;
  for await (const rows of parts) {
    const text =
      format === 'csv' ? csvRecords(rows) : formatJsonLines({ columns: names, rows, truncated: false });
    if (!take(text)) return;
  }
}

async function writeParquet({ columns, parts }: Rows, file: string): Promise<void> {
  async function* records() {
    for await (const rows of parts) {
      for (const row of rows) {
        yield Object.fromEntries(columns.map(({ name, type }, i) => [name, parquetValue(row[i]!, type)]));
      }
    }
  }
  await parquetWriteRows({
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
