/** A source or target of the file, with its templates -> its prompt and position for each sample. */
import type { Cut, Prompt, PromptAt } from '../patchscope.js';
import { parsePosition, parseSpan } from '../positions.js';
import { around, badAt, type Located, type Path, pathText, quoted } from './document.js';
import type { ExperimentFile } from './schema.js';
import { type Row, Template } from './template.js';

type Side = 'source' | 'target';
type PlaceKeys = Partial<ExperimentFile['source']>;
type CutKeys = NonNullable<ExperimentFile['target']['cut']>[number];
type PromptKeys = Exclude<NonNullable<PlaceKeys['prompt']>, string>;

/** What one sample gives. */
export type Filled = (row: Row) => PromptAt;

/**
 * @param variant index of the variant whose keys stand before the experiment's.
 * @throws PatchscopeError `bad_input`
 */
export function promptAt(file: ExperimentFile, root: Located, side: Side, variant?: number): Filled {
  const place = placeAt(file, root, side, variant);
  if (side === 'source') return place;
  const own = variant === undefined ? undefined : file.variants![variant]!.target?.cut;
  const path = own === undefined ? ['target', 'cut'] : ['variants', variant!, 'target', 'cut'];
  const cuts = (own ?? file.target.cut ?? []).map((cut, i) => cutOf(cut, root, [...path, i]));
  if (cuts.length === 0) return place;
  return (row) => ({ ...place(row), cuts: cuts.map((fill) => fill(row)) });
}

function cutOf(cut: CutKeys, root: Located, path: Path): (row: Row) => Cut {
  const spans = (key: 'from' | 'to') => {
    const typed = cut[key];
    const templates = Array.isArray(typed)
      ? typed.map((one, i) => templateAt(root, [...path, key, i], String(one)))
      : [templateAt(root, [...path, key], String(typed))];
    return (row: Row) => templates.map((template) => parseSpan(template.fill(row)));
  };
  const [from, to] = [spans('from'), spans('to')];
  const settings = { layers: String(cut.layers ?? 'all'), atGenerated: cut['at-generated'] ?? false };
  return (row) => ({ from: from(row), to: to(row), ...settings });
}

function placeAt(file: ExperimentFile, root: Located, side: Side, variant: number | undefined): Filled {
  const own = variant === undefined ? undefined : file.variants![variant]![side];
  const base = checked(keysOf(file[side].prompt), root, [side, 'prompt']);
  const path = own?.prompt === undefined ? [side, 'prompt'] : ['variants', variant!, side, 'prompt'];
  const keys = own?.prompt === undefined ? base : merged(base, checked(keysOf(own.prompt), root, path));
  const prompt = promptOf(keys, root, path);
  const positionPath =
    own?.position === undefined ? [side, 'position'] : ['variants', variant!, side, 'position'];
  const typed = own?.position ?? file[side].position ?? -1;
  if (typeof typed === 'object') return (row) => ({ prompt: prompt(row), position: { kind: 'random' } });
  const position = templateAt(root, positionPath, String(typed));
  return (row) => ({ prompt: prompt(row), position: parsePosition(position.fill(row)) });
}

/** As a variant's prompt changes the experiment's. */
export function mergedPrompt(
  base: NonNullable<PlaceKeys['prompt']>,
  own: PlaceKeys['prompt'],
): NonNullable<PlaceKeys['prompt']> {
  if (own === undefined) return base;
  const { text, ...keys } = merged(keysOf(base), keysOf(own));
  return text !== undefined && Object.keys(keys).length === 0 ? text : { ...given({ text }), ...keys };
}

function keysOf(prompt: string | PromptKeys): PromptKeys {
  return typeof prompt === 'string' ? { text: prompt } : prompt;
}

function checked(keys: PromptKeys, root: Located, path: Path): PromptKeys {
  const { text, tokens, same, ...switches } = keys;
  const bad = (what: string) => badAt(around(root, path).place, `${pathText(path)} ${what}`);
  if (text !== undefined && tokens !== undefined)
    throw bad('has both text and tokens where one of them is needed');
  if (tokens !== undefined && Object.keys(switches).length > 0) {
    throw bad(`has tokens, which are used as they are: leave ${Object.keys(switches).join(', ')} out`);
  }
  if (same !== undefined && (Object.keys(keys).length > 1 || !path.includes('target')))
    throw bad('has same: source, which is for a target, and alone');
  for (const key of ['padded', 'placeholder'] as const) {
    if (switches[key] && !path.includes('target')) throw bad(`has ${key}, which is for a target`);
  }
  if (switches.padded && switches.placeholder)
    throw bad('has padded and a placeholder: leave one of them out');
  if (text === undefined && tokens === undefined && same === undefined && path[0] !== 'variants')
    throw bad('has neither text nor tokens');
  return keys;
}

/** Tokens take the place of a text and of what is said of it, and the other way round. */
function merged(base: PromptKeys, own: PromptKeys): PromptKeys {
  if (own.tokens !== undefined || own.same !== undefined) return own;
  const { tokens, same, ...rest } = base;
  return own.text === undefined ? { ...base, ...own } : { ...rest, ...own };
}

function promptOf(keys: PromptKeys, root: Located, path: Path): (row: Row) => Prompt {
  const { text, tokens, same, ...switches } = checked(keys, root, path);
  if (same !== undefined) return () => ({ kind: 'source' });
  if (Array.isArray(tokens)) return () => ({ kind: 'tokens', tokenIds: tokens });
  if (tokens === undefined) {
    const template = templateAt(root, around(root, path).map === undefined ? path : [...path, 'text'], text!);
    return (row) => ({ kind: 'text', text: template.fill(row), ...given(switches) });
  }
  const template = templateAt(root, [...path, 'tokens'], tokens);
  return (row) => {
    const words = template.fillList(row).flatMap((word) => word.split(/[\s,]+/).filter(Boolean));
    const wrong = words.find((word) => !/^\d{1,15}$/.test(word));
    if (wrong === undefined && words.length > 0) return { kind: 'tokens', tokenIds: words.map(Number) };
    throw template.bad(
      `gives ${quoted(wrong ?? '')} for ${row.where} where token ids such as 12, 345 are needed`,
    );
  };
}

export function templateAt(root: Located, path: Path, text: string): Template {
  return new Template(text, pathText(path), around(root, path).place);
}

type Given<T> = { [K in keyof T]: Exclude<T[K], undefined> };

/** Without the keys that hold nothing. */
export function given<T extends object>(keys: T): Given<T> {
  return Object.fromEntries(Object.entries(keys).filter(([, value]) => value !== undefined)) as Given<T>;
}
