/** Files of samples: lines of text or JSON, and tables. */
import { parse } from 'csv-parse/sync';
import { PatchscopeError } from '../errors.js';
import { quoted } from './document.js';
import { fieldsOf } from './fields.js';
import type { SamplesFile } from './schema.js';
import type { Field } from './template.js';

export interface Read {
  readonly fields: Map<string, Field>;
  /** FILE:LINE */
  readonly place: string;
}

/** Each line that is not blank is one text. */
export function textLines(text: string, file: string, most: number): Read[] {
  return text
    .split(/\r?\n/)
    .flatMap((line, i) =>
      line.trim() === '' ? [] : [{ fields: new Map([['text', line]]), place: `${file}:${i + 1}` }],
    )
    .slice(0, most);
}

export function jsonLines(text: string, file: string, most: number): Read[] {
  const read: Read[] = [];
  let line = 0;
  for (const written of text.split('\n')) {
    if (read.length >= most) break;
    line++;
    if (written.trim() === '') continue;
    const place = `${file}:${line}`;
    read.push({ fields: fieldsOf(parsedLine(written, place)), place });
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

export function table(
  text: string,
  file: string,
  format: 'csv' | 'tsv',
  { delimiter, quotes }: Pick<SamplesFile, 'delimiter' | 'quotes'>,
  most: number,
): Read[] {
  const rows = records(text, file, {
    delimiter: delimiter ?? (format === 'tsv' ? '\t' : ','),
    quote: quotes === false ? null : '"',
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
    place: `${file}:${line}`,
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
