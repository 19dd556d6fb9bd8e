/** The tables that the paper's authors published for attribute extraction: one row for each source prompt. */
import { badCell, cell, needColumns } from './columns.js';
import { wellFormed } from './fields.js';
import type { Read } from './sample-files.js';
import type { SamplesFile } from './schema.js';
import type { Field } from './template.js';

export const patchscopesColumns: readonly string[] = [
  'subject',
  'object',
  'prompt_target',
  'prompt_source',
  'source_cropped_toks',
  'is_correct_baseline',
];

type Filter = NonNullable<SamplesFile['keep']>[number];

/** Prompts that the authors leave out by hand, by what the target prompt and the source prompt hold. */
const leftOut = [
  ['constellation', 'service'],
  ['superclass', 'Swainson ’ s hawk'],
] as const;

/**
 * Each row with a source that ends with its subject: the tokens of `source_cropped_toks`, since `prompt_source`
 * cut into tokens again may have another one at `position_source`.
 *
 * @throws PatchscopeError `bad_input`
 */
export function patchscopesRows(
  rows: readonly Read[],
  relation: string,
  keep: readonly Filter[] = ['known', 'intact', 'distinct'],
): Read[] {
  needColumns(rows, patchscopesColumns, 'patchscopes-tsv');
  const seen = new Set<string>();
  const kept = rows.filter((row) => {
    const prompt = cell(row, 'prompt_source');
    if (keep.includes('known') && !wasKnown(row)) return false;
    if (keep.includes('intact') && !isIntact(prompt, cell(row, 'prompt_target'))) return false;
    if (keep.includes('distinct') && seen.has(prompt)) return false;
    seen.add(prompt);
    return true;
  });
  return kept.map((row) => ({
    fields: new Map<string, Field>([
      ...row.fields,
      ['relation', relation],
      ['object', wellFormed(withoutEscapes(cell(row, 'object')))],
      ['source', sourceOf(row)],
    ]),
    place: row.place,
  }));
}

function wasKnown(row: Read): boolean {
  const written = cell(row, 'is_correct_baseline');
  if (written !== 'True' && written !== 'False') throw badCell(row, 'is_correct_baseline', 'True or False');
  return written === 'True';
}

function isIntact(prompt: string, target: string): boolean {
  return (
    prompt !== '' &&
    !prompt.includes('\n') &&
    !leftOut.some(([ofTarget, ofPrompt]) => target.includes(ofTarget) && prompt.includes(ofPrompt))
  );
}

/** Tokens that are parts of a character were written as U+FFFD: the prompt has the character. */
function sourceOf(row: Read): Field {
  const joined = tokensOf(row).join('');
  if (!joined.includes('\ufffd')) return wellFormed(joined);
  const pattern = joined
    .split(/\ufffd+/)
    .map((text) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'))
    .join('[^\\x00-\\x7f]+?');
  const whole = new RegExp(`^${pattern}`).exec(cell(row, 'prompt_source'))?.[0];
  return whole ?? { unusable: 'made of tokens that are parts of a character' };
}

/** A list of texts as Python writes it. */
function tokensOf(row: Read): string[] {
  const written = cell(row, 'source_cropped_toks');
  const text = /'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"/gs;
  if (!new RegExp(`^\\[(?:(?:${text.source})(?:, )?)*\\]$`, 's').test(written)) {
    throw badCell(row, 'source_cropped_toks', "a list such as [' a', ' b']");
  }
  return [...written.matchAll(text)].map(([, single, double]) => withoutEscapes(single ?? double!));
}

const signs: Readonly<Record<string, string>> = { n: '\n', r: '\r', t: '\t' };

function withoutEscapes(written: string): string {
  return written.replace(
    /\\(?:x([\da-fA-F]{2})|u([\da-fA-F]{4})|U(00(?:0[\da-fA-F]|10)[\da-fA-F]{4})|(.))/gs,
    (_, two, four, eight, sign) =>
      sign === undefined
        ? String.fromCodePoint(Number.parseInt(two ?? four ?? eight, 16))
        : (signs[sign] ?? sign),
  );
}
