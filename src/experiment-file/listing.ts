/** The experiments of the package in the words of the paper's table 1, told from their files alone. */
import type { Levels } from './factors.js';
import { keysOf, mergedPrompt } from './prompts.js';
import { builtInNames, readFile } from './read-experiment.js';
import type { ExperimentFile } from './schema.js';

/** Each list holds what its variants have, once; those that patch nothing count only where all do. */
export interface ListedExperiment {
  readonly name: string;
  readonly about: string | null;
  readonly method: string | null;
  /** Whose method. */
  readonly from: string | null;
  /** T; S where it is the source prompt. */
  readonly target: readonly string[];
  /** i*; i where it is the source's. */
  readonly targetPosition: readonly string[];
  /** f, with what is done to the state h that is met. */
  readonly mapping: readonly string[];
  /** M*; M where it is the source's. */
  readonly targetModel: string;
  /** l*, told by the source's layer l or alone; a site other than resid_out stands before it. */
  readonly targetLayers: readonly string[];
  /** Layers, after a site other than resid_out. */
  readonly source: readonly string[];
  /** What is read: tokens, then what is measured of them. */
  readonly reading: readonly string[];
}

export function listExperiments(): ListedExperiment[] {
  return builtInNames().map((name) => {
    const { file, factors } = readFile(name);
    return listed(file, factors);
  });
}

/** @param factors of variants that are made of some the first is told alone. */
export function listed(
  file: ExperimentFile,
  factors: ReadonlyMap<string, Levels> = new Map(),
): ListedExperiment {
  const { name, about = null, method = null, from = null } = file;
  const further = new Set([...factors.keys()].slice(1));
  const variants = file.variants?.filter((variant) => !further.has(variant.name)) ?? [{}];
  const all = variants.map((variant) => settingsOf(file, variant));
  const patching = all.filter(({ edit }) => edit.op !== 'scale' || edit.alpha !== 1);
  const told = (of: (settings: Settings) => string) => [
    ...new Set((patching.length > 0 ? patching : all).map(of)),
  ];
  return {
    ...{ name, about, method, from },
    target: told(targetText),
    targetPosition: told(positionText),
    mapping: told(mappingText),
    targetModel: typeof file.model === 'object' ? file.model.target : 'M',
    targetLayers: told(({ target: { site, layers = 'same', window } }) =>
      [at(site, layerWords[`${layers}`] ?? layers), window && `window ${window}`].filter(Boolean).join(', '),
    ),
    source: told(({ source }) =>
      source.vector === undefined
        ? at(source.site, source.layers ?? 'all')
        : at(source.site, `${Object.keys(source.vector)[0]}`),
    ),
    reading: readingOf(file),
  };
}

type Variant = Partial<NonNullable<ExperimentFile['variants']>[number]>;
type Settings = ReturnType<typeof settingsOf>;
type Keys = Exclude<NonNullable<ExperimentFile['source']['prompt']>, string>;

function settingsOf(file: ExperimentFile, variant: Variant) {
  const place = <Side extends 'source' | 'target'>(side: Side) => ({
    ...file[side],
    ...variant[side],
    prompt: keysOf(mergedPrompt(file[side].prompt, variant[side]?.prompt) ?? {}),
  });
  const edit = { ...file.edit, ...variant.edit };
  return {
    ...{ source: place('source'), target: place('target') },
    edit: { op: edit.op ?? 'replace', alpha: edit.alpha ?? 1 },
    mapping: variant.mapping ?? file.mapping ?? 'identity',
  };
}

const layerWords: Readonly<Record<string, string>> = { same: 'l', below: '< l', above: '> l' };

function at(site: string | undefined, layers: unknown): string {
  return site === undefined || site === 'resid_out' ? shown(layers) : `${site} ${shown(layers)}`;
}

function textOf({ text, tokens }: Keys): string {
  return text === undefined ? shown(tokens) : JSON.stringify(text);
}

function isSource({ source, target }: Settings): boolean {
  return target.prompt.same !== undefined || textOf(target.prompt) === textOf(source.prompt);
}

function targetText(settings: Settings): string {
  const { prompt } = settings.target;
  if (isSource(settings)) return 'S';
  return prompt.padded ? `padded ${textOf(prompt)}` : textOf(prompt);
}

/** A target that ends where the state was taken has it at its end. */
function positionText(settings: Settings): string {
  const [from, to] = [settings.source.position ?? -1, settings.target.position ?? -1].map(shown);
  const isSame = settings.target.prompt.same !== undefined ? to === '-1' : isSource(settings) && from === to;
  return isSame || to === 'same' ? 'i' : to!;
}

function mappingText({ mapping, edit: { op, alpha } }: Settings): string {
  const kind =
    typeof mapping === 'object' && 'samples' in mapping ? (mapping.kind ?? 'affine') : shown(mapping);
  if (op === 'replace' && alpha === 1) return kind;
  const vector = kind === 'identity' ? 'v' : `${kind}(v)`;
  const times = (number: number, what: string) => (number === 1 ? what : `${number} ${what}`);
  const written: Readonly<Record<string, string>> = {
    replace: times(alpha, vector),
    add: `h + ${times(alpha, vector)}`,
    scale: times(alpha, 'h'),
    mix: `${times(alpha, vector)} + ${times(1 - alpha, 'h')}`,
    'norm-matched-add': `h + ${times(alpha, `|h| ${vector} / |v|`)}`,
  };
  return written[op] ?? op;
}

function readingOf({ reading = {}, metrics = [], probe }: ExperimentFile): string[] {
  const { tokens = 1 } = reading;
  const count = tokens === 1 ? '1 token' : `${tokens} tokens`;
  return [count, ...(probe === undefined ? [] : ['a linear probe']), ...metrics];
}

/** As it may be written in a file. */
function shown(value: unknown): string {
  if (Array.isArray(value)) return value.map(shown).join(',');
  if (typeof value !== 'object' || value === null) return String(value);
  return Object.entries(value)
    .map(([key, inner]) => (inner === true ? key : `${key} ${shown(inner)}`))
    .join(' ');
}
