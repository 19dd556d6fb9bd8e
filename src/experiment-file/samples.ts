/** Samples as rows of fields: written in the experiment file, from a file of their own, or from the package. */
import path from 'node:path';
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
  const { data, file } = samples;
  if ((data === undefined) === (file === undefined)) {
    const both = data === undefined ? 'has neither data nor a file' : 'has both data and a file';
    throw badAt(around(root, ['samples']).place, `samples ${both} where one of them is needed`);
  }
  const { skip = 0 } = samples;
  const most = skip + Math.min(limit, samples.limit ?? limit);
  const read =
    data === undefined ? fileRows(samples, file!, root, most) : dataRows(samples, [data].flat(), root);
  if (read.length <= skip) {
    throw badAt(
      around(root, ['samples', 'skip']).place,
      `samples.skip is ${skip} where there are ${read.length} samples: leave out fewer`,
    );
  }
  return read
    .slice(skip, most)
    .map(({ fields, place }, i) => ({ fields, where: `sample ${skip + i + 1} (${place})` }));
}

function dataRows(samples: SamplesFile, names: readonly string[], root: Located): Read[] {
  if (samples.format !== undefined) {
    throw badAt(around(root, ['samples', 'format']).place, 'samples.format is for a file: leave it out');
  }
  checkKeys(samples, areRelations(names) ? 'relations' : names.join(', '), root);
  return renamed(builtInRows(names, samples, around(root, ['samples', 'data'])), samples, root, () => true);
}

function fileRows(samples: SamplesFile, name: string, root: Located, most: number): Read[] {
  const node = around(root, ['samples', 'file']);
  const file = pathFrom(node, name);
  const format = samples.format ?? formatOfEnding[path.extname(file).slice(1).toLowerCase()];
  const bad = (what: string) => badAt(node.place, `samples.file is ${quoted(file)}, ${what}`);
  if (format === undefined) {
    throw bad('whose ending tells no format: end it in .jsonl, .csv, .tsv or .txt, or give samples.format');
  }
  checkKeys(samples, format, root);
  const text = readText(file, MOST_MIB, `${node.place()}: samples.file`);
  const read = readers[format](text, file, samples, most);
  if (read.length === 0) throw bad('which holds no samples');
  const own = ownColumns[format] ?? [];
  const rows = interpreted(
    renamed(read, samples, root, (field) => own.includes(field)),
    format,
    file,
    samples,
  );
  if (rows.length === 0) throw bad(`of whose ${read.length} rows samples.keep leaves none`);
  return renamed(rows, samples, root, (field) => !own.includes(field));
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

function checkKeys(samples: SamplesFile, kind: string, root: Located): void {
  for (const [key, kinds] of Object.entries(meantFor)) {
    if (samples[key as Key] === undefined || kinds.includes(kind)) continue;
    throw badAt(
      around(root, ['samples', key]).place,
      `samples.${key} means nothing for ${kind}: it is for ${kinds.join(' and ')}`,
    );
  }
}

/** With the other names of the columns, where they are wanted; any row tells which there are. */
function renamed(
  rows: Read[],
  { columns = {} }: SamplesFile,
  root: Located,
  isWanted: (field: string) => boolean,
): Read[] {
  const wanted = Object.entries(columns).filter(([field]) => isWanted(field));
  for (const [field, column] of wanted) {
    if (rows.some(({ fields }) => fields.has(column))) continue;
    const names = [...rows[0]!.fields.keys()];
    const meant = nearest(column, names);
    throw badAt(
      around(root, ['samples', 'columns', field]).place,
      `samples.columns.${field} is ${quoted(column)}, which is no column of the samples${meant === undefined ? '' : `, perhaps ${meant} was meant`}: they are ${names.slice(0, 20).join(', ')}`,
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
