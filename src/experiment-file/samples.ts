/** Samples as rows of fields: written in the experiment file, from a file of their own, or from the package. */
import path from 'node:path';
import type { PatchscopeError } from '../errors.js';
import { nearest } from '../nearest.js';
import { areRelations, builtInRows } from './built-in-data.js';
import { around, badAt, type Located, pathFrom, quoted } from './document.js';
import { writtenField } from './fields.js';
import { lreRows } from './lre.js';
import { patchscopesColumns, patchscopesRows } from './patchscopes-tsv.js';
import { popqaColumns, popqaRows } from './popqa.js';
import { jsonLines, type Read, table, textLines } from './sample-files.js';
import type { ExperimentFile, SamplesFile } from './schema.js';
import type { Row } from './template.js';
import { readText } from './text-file.js';

type Format = NonNullable<SamplesFile['format']>;
type Key = keyof SamplesFile;

const MOST_MIB = 256;

const formatOfEnding: Readonly<Record<string, Format>> = {
  csv: 'csv',
  tsv: 'tsv',
  jsonl: 'jsonl',
  txt: 'text',
};

/** Keys that say something for some kinds of samples only. */
const meantFor: Readonly<Partial<Record<Key, readonly string[]>>> = {
  delimiter: ['csv', 'tsv'],
  quotes: ['csv', 'tsv'],
  keep: ['patchscopes-tsv'],
  extremes: ['popqa'],
  subjects: ['relations', 'lre'],
  sentences: ['relations', 'lre'],
};

/**
 * @param node where they are written.
 * @param key what is written there, for messages.
 */
export function readSamples(
  samples: ExperimentFile['samples'],
  node: Located,
  key: string,
  limit = Number.POSITIVE_INFINITY,
): Row[] {
  if (Array.isArray(samples)) {
    return node.list!.slice(0, limit).map((node, i) => ({
      fields: new Map([...node.map!].map(([name, entry]) => [name, writtenField(entry.node)])),
      where: `sample ${i + 1} (${node.place()})`,
    }));
  }
  const { data, file } = samples;
  if ((data === undefined) === (file === undefined)) {
    const both = data === undefined ? 'has neither data nor a file' : 'has both data and a file';
    throw badAt(node.place, `${key} ${both} where one of them is needed`);
  }
  const at: At = { node, key };
  const { from = 1, only } = samples;
  if (only !== undefined && (samples.from ?? samples.limit) !== undefined)
    throw bad(at, 'only', 'says which samples are taken: leave out from and limit');
  const end = only === undefined ? from - 1 + Math.min(limit, samples.limit ?? limit) : Math.max(...only);
  const read = data === undefined ? fileRows(samples, file!, at, end) : dataRows(samples, [data].flat(), at);
  const there = `where there ${read.length === 1 ? 'is one' : `are ${read.length}`}`;
  if (only === undefined && read.length < from) throw bad(at, 'from', `is ${from} ${there}`);
  if (only !== undefined && read.length < end) throw bad(at, 'only', `names sample ${end} ${there}`);
  const taken =
    only === undefined
      ? read.slice(from - 1, end)
      : [...new Set(only)].slice(0, limit).map((n) => read[n - 1]!);
  return taken.map(({ fields, place }, i) => ({ fields, where: `sample ${i + 1} (${place})` }));
}

/** Where samples are written, and what is written there. */
interface At {
  readonly node: Located;
  readonly key: string;
}

function bad({ node, key }: At, part: Key, what: string): PatchscopeError {
  return badAt(around(node, [part]).place, `${key}.${part} ${what}`);
}

function dataRows(samples: SamplesFile, names: readonly string[], at: At): Read[] {
  if (samples.format !== undefined) throw bad(at, 'format', 'is for a file: leave it out');
  checkKeys(samples, areRelations(names) ? 'relations' : names.join(', '), at);
  const rows = builtInRows(names, samples, around(at.node, ['data']), `${at.key}.data`);
  return renamed(rows, samples, at, () => true);
}

function fileRows(samples: SamplesFile, name: string, at: At, most: number): Read[] {
  const node = around(at.node, ['file']);
  const file = pathFrom(node, name);
  const format = samples.format ?? formatOfEnding[path.extname(file).slice(1).toLowerCase()];
  const badFile = (what: string) => bad(at, 'file', `is ${quoted(file)}, ${what}`);
  if (format === undefined) {
    throw badFile(
      `whose ending tells no format: end it in .jsonl, .csv, .tsv or .txt, or give ${at.key}.format`,
    );
  }
  checkKeys(samples, format, at);
  const text = readText(file, MOST_MIB, `${node.place()}: ${at.key}.file`);
  const read = readers[format](text, file, samples, most);
  if (read.length === 0) throw badFile('which holds no samples');
  const own = ownColumns[format] ?? [];
  const rows = interpreted(
    renamed(read, samples, at, (field) => own.includes(field)),
    format,
    file,
    samples,
  );
  if (rows.length === 0) throw badFile(`of whose ${read.length} rows ${at.key}.keep leaves none`);
  return renamed(rows, samples, at, (field) => !own.includes(field));
}

/** Columns that mean something to a format, which a table may have under other names. */
const ownColumns: Readonly<Partial<Record<Format, readonly string[]>>> = {
  'patchscopes-tsv': patchscopesColumns,
  popqa: popqaColumns,
};

function interpreted(rows: Read[], format: Format, file: string, { extremes, keep }: SamplesFile): Read[] {
  if (format === 'popqa') return popqaRows(rows, extremes);
  if (format === 'patchscopes-tsv')
    return patchscopesRows(rows, path.basename(file, path.extname(file)), keep);
  return rows;
}

type Reader = (text: string, file: string, samples: SamplesFile, most: number) => Read[];

/** Rows are left out of some formats only after all are read. */
const wholeTable: Reader = (text, file) => table(text, file, 'tsv', {}, Number.POSITIVE_INFINITY);

const readers: Readonly<Record<Format, Reader>> = {
  jsonl: (text, file, _, most) => jsonLines(text, file, most),
  text: (text, file, _, most) => textLines(text, file, most),
  csv: (text, file, samples, most) => table(text, file, 'csv', samples, most),
  tsv: (text, file, samples, most) => table(text, file, 'tsv', samples, most),
  'patchscopes-tsv': wholeTable,
  popqa: wholeTable,
  lre: lreRows,
};

function checkKeys(samples: SamplesFile, kind: string, at: At): void {
  for (const [key, kinds] of Object.entries(meantFor)) {
    if (samples[key as Key] === undefined || kinds.includes(kind)) continue;
    throw bad(at, key as Key, `means nothing for ${kind}: it is for ${kinds.join(' and ')}`);
  }
}

/** With the other names of the columns, where they are wanted; any row tells which there are. */
function renamed(
  rows: Read[],
  { columns = {} }: SamplesFile,
  { node, key }: At,
  isWanted: (field: string) => boolean,
): Read[] {
  const wanted = Object.entries(columns).filter(([field]) => isWanted(field));
  for (const [field, column] of wanted) {
    if (rows.some(({ fields }) => fields.has(column))) continue;
    const names = [...rows[0]!.fields.keys()];
    const meant = nearest(column, names);
    throw badAt(
      around(node, ['columns', field]).place,
      `${key}.columns.${field} is ${quoted(column)}, which is no column of the samples${meant === undefined ? '' : `, perhaps ${meant} was meant`}: they are ${names.slice(0, 20).join(', ')}`,
    );
  }
  for (const { fields } of rows) {
    const values = wanted.map(([field, column]) => [field, fields.get(column)] as const);
    for (const [field, value] of values) {
      if (value === undefined) fields.delete(field);
      else fields.set(field, value);
    }
  }
  return rows;
}
