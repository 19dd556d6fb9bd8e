/** Columns of a table of samples: those that must be there, and cells that hold more than a text. */
import { PatchscopeError } from '../errors.js';
import { quoted } from './document.js';
import type { Read } from './sample-files.js';

/** @throws PatchscopeError `bad_input` where one of the columns is missing. */
export function needColumns(rows: readonly Read[], names: readonly string[], format: string): void {
  const { fields, place } = rows[0]!;
  const missing = names.find((name) => !fields.has(name));
  if (missing === undefined) return;
  const there = [...fields.keys()].filter(Boolean).slice(0, 20).join(', ');
  throw new PatchscopeError(
    'bad_input',
    `${place}: there is no column ${quoted(missing)}, which ${format} needs: the columns are ${there}, and samples.columns can give one of them that name.`,
  );
}

export function cell({ fields }: Read, name: string): string {
  return fields.get(name) as string;
}

export function badCell(row: Read, name: string, needed: string): PatchscopeError {
  return new PatchscopeError(
    'bad_input',
    `${row.place}: ${name} is ${quoted(cell(row, name))} where ${needed} is needed.`,
  );
}
