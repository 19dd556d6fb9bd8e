/** Samples as rows of fields: written in the experiment file, or read from a file of their own. */

import path from 'node:path';
import { parse } from 'csv-parse/sync';
import { PatchscopeError } from '../errors.js';
import { nearest } from '../nearest.js';
import { around, badAt, type Located, pathFrom, quoted } from './document.js';
import type { ExperimentFile } from './schema.js';
import type { Field, Row } from './template.js';
import { readText } from './text-file.js';

const MOST_MIB = 256;

type SamplesFile = Exclude<ExperimentFile['samples'], readonly unknown[]>;

interface Read {
  readonly fields: Map<string, Field>;
  readonly line: number;
}

export function readSamples(
  samples: ExperimentFile['samples'],
  root: Located,
  limit = Number.POSITIVE_INFINITY,
): Row[] {
  if (Array.isArray(samples)) {
    return around(root, ['samples'])
      .list!.slice(0, limit)
      .map((node, i) => ({
        fields: new Map([...node.map!].map(([name, entry]) => [name, writtenField(entry.node)])),
        where: `sample ${i + 1} (${node.place()})`,
      }));
  }
  const node = around(root, ['samples', 'file']);
  const file = pathFrom(node, samples.file);
  const format = samples.format ?? formatOf(file);
  if (format === undefined) {
    throw badAt(
      node.place,
      `samples.file is ${quoted(file)}, whose ending tells no format: end it in .jsonl, .csv or .tsv, or give samples.format`,
    );
  }
  const most = Math.min(limit, samples.limit ?? limit);
  const text = readText(file, MOST_MIB, `${node.place()}: samples.file`);
  const read = format === 'jsonl' ? jsonLines(text, file, most) : table(text, file, format, samples, most);
  if (read.length === 0) throw badAt(node.place, `samples.file is ${quoted(file)}, which holds no samples`);
  const renamed = read.map(({ fields, line }, i) => ({ fields, where: `sample ${i + 1} (${file}:${line})` }));
  rename(renamed, samples.columns ?? {}, root);
  return renamed;
}

function formatOf(file: string): SamplesFile['format'] {
  const ending = path.extname(file).slice(1).toLowerCase();
  return ending === 'csv' || ending === 'tsv' || ending === 'jsonl' ? ending : undefined;
}

/** Gives the columns their other names; the first row tells which there are. */
function rename(
  rows: readonly { fields: Map<string, Field> }[],
  columns: Record<string, string>,
  root: Located,
) {
  for (const [field, column] of Object.entries(columns)) {
    if (rows.some(({ fields }) => fields.has(column))) continue;
    const names = [...rows[0]!.fields.keys()];
    const meant = nearest(column, names);
    throw badAt(
      around(root, ['samples', 'columns', field]).place,
      `samples.columns.${field} is ${quoted(column)}, which is no column of the samples${meant === undefined ? '' : `, perhaps ${meant} was meant`}: they are ${names.slice(0, 20).join(', ')}`,
    );
  }
  for (const { fields } of rows) {
    const values = Object.entries(columns).map(([field, column]) => [field, fields.get(column)] as const);
    for (const [field, value] of values) {
      if (value === undefined) fields.delete(field);
      else fields.set(field, value);
    }
  }
}

function jsonLines(text: string, file: string, most: number): Read[] {
  const read: Read[] = [];
  let line = 0;
  for (const written of text.split('\n')) {
    if (read.length >= most) break;
    line++;
    if (written.trim() === '') continue;
    read.push({ fields: fieldsOf(parsedLine(written, `${file}:${line}`)), line });
  }
  return read;
}

function parsedLine(written: string, place: string): object {
  let value: unknown;
  try {
    value = JSON.parse(written);
  } catch (cause) {
    throw new PatchscopeError('bad_input', `${place}: this line is not JSON: ${(cause as Error).message}`);
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value;
  throw new PatchscopeError(
    'bad_input',
    `${place}: this line is ${quoted(written)} where {"field": "text", ...} is needed.`,
  );
}

function fieldsOf(value: object): Map<string, Field> {
  return new Map(
    Object.entries(value)
      .filter(([, field]) => field !== null)
      .map(([name, field]) => [name, jsonField(field)]),
  );
}

function jsonField(value: unknown): Field {
  if (Array.isArray(value)) {
    const texts = value.map(jsonField);
    return texts.every((text) => typeof text === 'string')
      ? texts
      : { unusable: 'a list of other things than texts' };
  }
  if (typeof value === 'number' && Number.isInteger(value) && !Number.isSafeInteger(value)) {
    return { unusable: 'a number too large to be kept as it is' };
  }
  if (typeof value === 'object') return { unusable: 'a set of keys' };
  return wellFormed(String(value));
}

/** Numbers stay as they are written: 1.50 is not 1.5. */
function writtenField({ scalar, list, map }: Located): Field {
  if (list !== undefined) {
    const texts = list.map(writtenField);
    return texts.every((text) => typeof text === 'string')
      ? texts
      : { unusable: 'a list of other things than texts' };
  }
  if (map !== undefined) return { unusable: 'a set of keys' };
  if (scalar!.value === null) return { unusable: 'empty' };
  return typeof scalar!.value === 'string' ? scalar!.value : scalar!.written;
}

function wellFormed(text: string): Field {
  return /\p{Surrogate}/u.test(text) ? { unusable: 'a text with half a character (a lone surrogate)' } : text;
}

function table(
  text: string,
  file: string,
  format: 'csv' | 'tsv',
  samples: SamplesFile,
  most: number,
): Read[] {
  const rows = records(text, file, {
    delimiter: samples.delimiter ?? (format === 'tsv' ? '\t' : ','),
    quote: samples.quotes === false ? null : '"',
    to: most + 1,
  });
  const [header, ...body] = rows;
  if (header === undefined) return [];
  const twice = header.cells.find((name, i) => header.cells.indexOf(name) !== i);
  if (twice !== undefined) {
    throw new PatchscopeError(
      'bad_input',
      `${file}:${header.line}: the column ${quoted(twice)} is there twice.`,
    );
  }
  return body.map(({ cells, line }) => ({
    fields: new Map(cells.map((cell, i) => [header.cells[i]!, cell])),
    line,
  }));
}

interface Options {
  readonly delimiter: string;
  readonly quote: '"' | null;
  readonly to: number;
}

function records(text: string, file: string, { to, ...options }: Options) {
  try {
    const rows = parse(text, {
      ...options,
      ...(Number.isFinite(to) ? { to } : {}),
      info: true,
      skip_empty_lines: true,
    }) as unknown as { record: string[]; info: { lines: number } }[];
    return rows.map(({ record }, i) => ({
      cells: record,
      line: i === 0 ? 1 : rows[i - 1]!.info.lines + 1,
    }));
  } catch (cause) {
    const { code, message, lines } = cause as { code?: string; message: string; lines?: number };
    const place = lines === undefined ? file : `${file}:${lines}`;
    const help = code?.includes('QUOTE') ? ' (with samples.quotes: false a " is a sign like any other)' : '';
    throw new PatchscopeError(
      'bad_input',
      `${place}: this is no table: ${message.replace(/[.]$/, '')}${help}.`,
      {
        cause,
      },
    );
  }
}
