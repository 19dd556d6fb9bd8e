/** PopQA's table (Mallen et al., 2023): questions, their answers as lists, and how popular each subject is. */
import { PatchscopeError } from '../errors.js';
import { badCell, cell, needColumns } from './columns.js';
import { jsonField } from './fields.js';
import type { Read } from './sample-files.js';
import type { Field } from './template.js';

const lists = ['s_aliases', 'o_aliases', 'possible_answers'];
const subject = ['subj', 's_wiki_title', 's_pop'];

export const popqaColumns: readonly string[] = [...subject, ...lists];

/**
 * @param extremes so many of the rarest subjects and then of the most popular, by pages viewed, each once;
 *   left out: every question.
 * @throws PatchscopeError `bad_input`
 */
export function popqaRows(rows: readonly Read[], extremes?: number): Read[] {
  needColumns(rows, extremes === undefined ? ['subj', 'possible_answers'] : subject, 'popqa');
  for (const row of rows) {
    for (const name of lists) if (row.fields.has(name)) row.fields.set(name, listIn(row, name));
  }
  if (extremes === undefined) return [...rows];
  const subjects = new Map<string, Read>();
  for (const row of rows) {
    if (!subjects.has(keyOf(row))) subjects.set(keyOf(row), row);
  }
  const ranked = [...subjects.values()]
    .map((row) => ({ row, views: views(row) }))
    .sort((a, b) => a.views - b.views)
    .map(({ row }) => row);
  if (ranked.length < 2 * extremes) {
    throw new PatchscopeError(
      'bad_input',
      `samples.extremes is ${extremes}, which needs ${2 * extremes} different subjects: there are ${ranked.length}.`,
    );
  }
  const ofGroup = (popularity: string, group: readonly Read[]) =>
    group.map(({ fields, place }) => ({
      fields: new Map<string, Field>([...fields, ['popularity', popularity]]),
      place,
    }));
  return [...ofGroup('rare', ranked.slice(0, extremes)), ...ofGroup('popular', ranked.slice(-extremes))];
}

function keyOf(row: Read): string {
  return JSON.stringify(subject.map((name) => cell(row, name)));
}

function views(row: Read): number {
  const written = cell(row, 's_pop');
  if (!/^\d+(\.\d+)?$/.test(written)) throw badCell(row, 's_pop', 'a number of page views');
  return Number(written);
}

function listIn(row: Read, name: string): Field {
  let list: unknown;
  try {
    list = JSON.parse(cell(row, name));
  } catch {}
  if (Array.isArray(list)) return jsonField(list);
  throw badCell(row, name, 'a list such as ["a", "b"]');
}
