/** Samples as rows of fields: written in the experiment file, or read from a file of their own. */
import path from 'node:path';
import { nearest } from '../nearest.js';
import { around, badAt, type Located, pathFrom, quoted } from './document.js';
import { writtenField } from './fields.js';
import { jsonLines, table } from './sample-files.js';
import type { ExperimentFile, SamplesFile } from './schema.js';
import type { Field, Row } from './template.js';
import { readText } from './text-file.js';

const MOST_MIB = 256;

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
