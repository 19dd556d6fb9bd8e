/** A source or target of the file, with its templates -> its prompt and position for each sample. */
import type { Cut, OwnEdit, Position, Prompt, PromptAt, Source, Span } from '../patchscope.js';
import { parsePosition, parseSpan } from '../positions.js';
import { around, badAt, type Located, type Path, pathText, quoted } from './document.js';
import type { ExperimentFile } from './schema.js';
import { type Row, Template } from './template.js';
import { vectorAt } from './vectors.js';

type Side = 'source' | 'target';
type PlaceKeys = Partial<ExperimentFile['source']>;
type EditKeys = NonNullable<ExperimentFile['target']['edits']>[number];
type CutKeys = NonNullable<ExperimentFile['target']['cut']>[number];
type PositionKeys = NonNullable<PlaceKeys['position']>;
type PromptKeys = Exclude<NonNullable<PlaceKeys['prompt']>, string>;

/** What one sample gives. */
export type Filled = (row: Row) => PromptAt;

/**
 * @param variant index of the variant whose keys stand before the experiment's.
 * @throws PatchscopeError `bad_input`
 */
export function sourceAt(file: ExperimentFile, root: Located, variant?: number): (row: Row) => Source {
  const own = variant === undefined ? undefined : file.variants![variant]!.source;
  for (const [keys, path] of [
    [file.source, ['source']],
    [own, ['variants', variant!, 'source']],
  ] as const) {
    if (keys?.prompt === undefined || keys.vector === undefined) continue;
    throw badAt(
      around(root, path).place,
      `${pathText(path)} has both a prompt and a vector where one of them is needed`,
    );
  }
  const isOwn = own?.vector !== undefined;
  const vector = isOwn ? own.vector : own?.prompt === undefined ? file.source.vector : undefined;
  if (vector === undefined) return promptAt(file, root, 'source', variant);
  const path = isOwn ? ['variants', variant!, 'source'] : ['source'];
  if ((isOwn ? own.position : (own?.position ?? file.source.position)) !== undefined) {
    throw badAt(around(root, path).place, `${pathText(path)} has a position, which is for a prompt`);
  }
  const fill = vectorAt(vector, root, [...path, 'vector']);
  return (row) => ({ vector: fill(row) });
}

/** As `sourceAt`, of a side that has a prompt. */
export function promptAt(file: ExperimentFile, root: Located, side: Side, variant?: number): Filled {
  const place = placeAt(file, root, side, variant);
  if (side === 'source') return place;
  const own = variant === undefined ? undefined : file.variants![variant]!.target;
  const pathOf = (key: 'cut' | 'edits', i: number) =>
    own?.[key] === undefined ? ['target', key, i] : ['variants', variant!, 'target', key, i];
  const cuts = (own?.cut ?? file.target.cut ?? []).map((cut, i) => cutOf(cut, root, pathOf('cut', i)));
  const edits = (own?.edits ?? file.target.edits ?? []).map((edit, i) =>
    editOf(edit, root, pathOf('edits', i)),
  );
  return (row) => ({
    ...place(row),
    ...(cuts.length > 0 && { cuts: cuts.map((fill) => fill(row)) }),
    ...(edits.length > 0 && { edits: edits.map((fill) => fill(row)) }),
  });
}

function spansAt(typed: CutKeys['from'], root: Located, path: Path): (row: Row) => Span[] {
  const templates = Array.isArray(typed)
    ? typed.map((one, i) => templateAt(root, [...path, i], String(one)))
    : [templateAt(root, path, String(typed))];
  return (row) => templates.map((template) => parseSpan(template.fill(row)));
}

function editOf(edit: EditKeys, root: Located, path: Path): (row: Row) => OwnEdit {
  const at = spansAt(edit.at, root, [...path, 'at']);
  const vector = edit.vector && vectorAt(edit.vector, root, [...path, 'vector']);
  const { site, op, alpha, 'at-generated': atGenerated } = edit;
  const settings = { layers: String(edit.layers), ...given({ site, op, alpha, atGenerated }) };
  return (row) => ({ at: at(row), ...settings, ...(vector && { vector: vector(row) }) }) as OwnEdit;
}

function cutOf(cut: CutKeys, root: Located, path: Path): (row: Row) => Cut {
  const [from, to] = (['from', 'to'] as const).map((key) => spansAt(cut[key], root, [...path, key])) as [
    (row: Row) => Span[],
    (row: Row) => Span[],
  ];
  const { layers = 'all' } = cut;
  const isWindow = typeof layers === 'object' && 'around' in layers;
  const settings = {
    layers: isWindow ? layers : String(layers),
    atGenerated: cut['at-generated'] ?? false,
  };
  return (row) => ({ from: from(row), to: to(row), ...settings });
}

function placeAt(file: ExperimentFile, root: Located, side: Side, variant: number | undefined): Filled {
  const own = variant === undefined ? undefined : file.variants![variant]![side];
  const written = file[side].prompt;
  if (written === undefined && own?.prompt === undefined) {
    const path = own === undefined ? [side] : ['variants', variant!, side];
    throw badAt(
      around(root, path).place,
      `${side} has ${side === 'target' ? 'no prompt' : file.source.vector ? 'a vector where a prompt is needed' : 'neither a prompt nor a vector'}`,
    );
  }
  const base = written === undefined ? {} : checked(keysOf(written), root, [side, 'prompt']);
  const path = own?.prompt === undefined ? [side, 'prompt'] : ['variants', variant!, side, 'prompt'];
  const keys = own?.prompt === undefined ? base : merged(base, checked(keysOf(own.prompt), root, path));
  const prompt = promptOf(keys, root, path);
  const positionPath =
    own?.position === undefined ? [side, 'position'] : ['variants', variant!, side, 'position'];
  const position = positionOf(own?.position ?? file[side].position ?? -1, side, root, positionPath);
  return (row) => ({ prompt: prompt(row), ...position(row) });
}

/** A prompt that belongs to no variant. */
export function writtenPrompt(
  written: string | PromptKeys,
  typed: PositionKeys,
  root: Located,
  path: Path,
  positionPath: Path,
): Filled {
  const prompt = promptOf(checked(keysOf(written), root, path), root, path);
  const position = positionOf(typed, 'source', root, positionPath);
  return (row) => ({ prompt: prompt(row), ...position(row) });
}

/** Of a list the first, and the others beside it. */
function positionOf(typed: PositionKeys, side: Side, root: Located, path: Path) {
  const one = (written: string | number, at: Path): ((row: Row) => Position) => {
    if (written === 'same' && side === 'target') return () => ({ kind: 'same' });
    const template = templateAt(root, at, String(written));
    return (row) => parsePosition(template.fill(row));
  };
  if (typeof typed !== 'object') {
    const position = one(typed, path);
    return (row: Row) => ({ position: position(row) });
  }
  if (Array.isArray(typed)) {
    const all = typed.map((written, i) => one(written, [...path, i]));
    return (row: Row) => {
      const [position, ...further] = all.map((fill) => fill(row));
      return { position: position!, ...(further.length > 0 && { further }) };
    };
  }
  if ('random' in typed) return () => ({ position: { kind: 'random' } as const });
  const spans = spansAt(typed.each, root, [...path, 'each']);
  return (row: Row) => ({ position: { kind: 'each', spans: spans(row) } as const });
}

/** As a variant's prompt changes the experiment's. */
export function mergedPrompt(base: PlaceKeys['prompt'], own: PlaceKeys['prompt']): PlaceKeys['prompt'] {
  if (base === undefined || own === undefined) return own ?? base;
  const { text, ...keys } = merged(keysOf(base), keysOf(own));
  return text !== undefined && Object.keys(keys).length === 0 ? text : { ...given({ text }), ...keys };
}

export function keysOf(prompt: string | PromptKeys): PromptKeys {
  return typeof prompt === 'string' ? { text: prompt } : prompt;
}

function checked(keys: PromptKeys, root: Located, path: Path): PromptKeys {
  const { text, tokens, same, ...switches } = keys;
  const ofTarget = path.includes('target') && !path.includes('vector');
  const bad = (what: string) => badAt(around(root, path).place, `${pathText(path)} ${what}`);
  if (text !== undefined && tokens !== undefined)
    throw bad('has both text and tokens where one of them is needed');
  if (tokens !== undefined && Object.keys(switches).length > 0) {
    throw bad(`has tokens, which are used as they are: leave ${Object.keys(switches).join(', ')} out`);
  }
  if (same !== undefined && (Object.keys(keys).length > 1 || !ofTarget))
    throw bad('has same: source, which is for a target, and alone');
  for (const key of ['padded', 'placeholder'] as const) {
    if (switches[key] && !ofTarget) throw bad(`has ${key}, which is for a target`);
  }
  if (switches.padded && switches.placeholder)
    throw bad('has padded and a placeholder: leave one of them out');
  if (
    text === undefined &&
    tokens === undefined &&
    same === undefined &&
    (path[0] !== 'variants' || path.includes('vector'))
  )
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
