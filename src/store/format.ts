import Table from 'cli-table3';
import type { QueryResult, SqlValue } from './query.js';

/** Longest text of a cell in a table, in characters; CSV and JSON are never cut. */
const widestCell = 80;

/** An aligned table for terminals, without a line end after it. NULL is empty. */
export function formatTable({ columns, rows, truncated }: QueryResult): string {
  const table = new Table({
    head: columns.map(printable),
    colAligns: columns.map((_, column) =>
      rows.every((row) => isNumeric(row[column] ?? null)) ? 'right' : 'left',
    ),
    chars: borderless,
    style: {
      head: [],
      border: [],
      'padding-left': 0,
      'padding-right': 0,
      compact: true,
    },
  });
  for (const row of rows) table.push(row.map((value) => printable(tableText(value))));
  const lines = table
    .toString()
    .split('\n')
    .map((line) => line.trimEnd());
  if (truncated) lines.push(`(the first ${rows.length} rows; there are more)`);
  return lines.join('\n');
}

/** RFC 4180, the header first and a line end after each record. NULL is empty, an empty text is `""`. */
export function formatCsv({ columns, rows }: QueryResult): string {
  return csvRecords([columns, ...rows]);
}

/** As `formatCsv`, without the header. */
export function csvRecords(records: readonly (readonly SqlValue[])[]): string {
  return records.map((record) => `${record.map(csvField).join(',')}\r\n`).join('');
}

/** One JSON object a line. Integers keep all digits, blobs are hexadecimal, a repeated column gets a number. */
export function formatJsonLines({ columns, rows }: QueryResult): string {
  const keys = distinct(columns).map((name) => JSON.stringify(name));
  return rows
    .map((row) => `{${row.map((value, column) => `${keys[column]}:${jsonText(value)}`).join(',')}}\n`)
    .join('');
}

const borderless = {
  top: '',
  'top-mid': '',
  'top-left': '',
  'top-right': '',
  bottom: '',
  'bottom-mid': '',
  'bottom-left': '',
  'bottom-right': '',
  left: '',
  'left-mid': '',
  mid: '',
  'mid-mid': '',
  right: '',
  'right-mid': '',
  middle: '  ',
};

function isNumeric(value: SqlValue): boolean {
  return value === null || typeof value === 'number' || typeof value === 'bigint';
}

function tableText(value: SqlValue): string {
  if (typeof value === 'number' && !Number.isInteger(value)) return String(Number(value.toPrecision(6)));
  return plainText(value);
}

/** On one line and without control characters, which could steer the terminal. */
export function onOneLine(text: string): string {
  return text.replace(
    /[\p{Cc}\p{Bidi_Control}\u2028\u2029]/gu,
    (character) => shortEscapes[character] ?? `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

function printable(text: string): string {
  const escaped = onOneLine(text);
  const characters = [...escaped];
  return characters.length > widestCell ? `${characters.slice(0, widestCell - 1).join('')}…` : escaped;
}

/** Three digits are what an interval over samples bears out. */
export function numberText(value: number): string {
  return String(Number(value.toPrecision(3)));
}

/** A layer as the results file has it. */
export function layerText(layer: number | null): string {
  return layer === null ? 'none' : layer === -1 ? 'embed' : String(layer);
}

const shortEscapes: Readonly<Record<string, string>> = {
  '\n': '\\n',
  '\r': '\\r',
  '\t': '\\t',
};

function csvField(value: SqlValue): string {
  const text = plainText(value);
  return value === '' || /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function jsonText(value: SqlValue): string {
  if (typeof value === 'bigint') return value.toString();
  // JSON has no infinity; readers turn a number this large into one.
  if (value === Number.POSITIVE_INFINITY) return '9e999';
  if (value === Number.NEGATIVE_INFINITY) return '-9e999';
  return JSON.stringify(value instanceof Uint8Array ? plainText(value) : value);
}

function plainText(value: SqlValue): string {
  if (value === null) return '';
  return value instanceof Uint8Array ? Buffer.from(value).toString('hex') : String(value);
}

/** a, a -> a, a_2: an object holds each key once. */
function distinct(names: readonly string[]): string[] {
  const taken = new Set<string>();
  return names.map((name) => {
    let key = name;
    for (let count = 2; taken.has(key); count++) key = `${name}_${count}`;
    taken.add(key);
    return key;
  });
}
