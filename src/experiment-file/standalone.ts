/** An experiment's file as one that can lie anywhere, and one variant of it as a file of its own. */
import path from 'node:path';
import { stringify } from 'yaml';
import { around, type Located, type Path, pathFrom } from './document.js';
import { given, mergedPrompt } from './prompts.js';
import type { ExperimentFile } from './schema.js';

/**
 * With whole paths and no more samples than are taken.
 *
 * @param file what the tree says.
 */
export function standalone(root: Located, file: ExperimentFile, limit: number | undefined): ExperimentFile {
  const whole = (keys: Path, name: string) => path.resolve(pathFrom(around(root, keys), name));
  const modelAt = (name: string, ...keys: string[]) =>
    isModelFile(name) ? whole(['model', ...keys], name) : name;
  const samplesAt = <S extends ExperimentFile['samples']>(samples: S, keys: Path): S => {
    if (Array.isArray(samples)) return around(root, keys).list!.map(asWritten) as unknown as S;
    const { file } = samples as { file?: string };
    return file === undefined ? samples : { ...samples, file: whole([...keys, 'file'], file) };
  };
  const mappingAt = (mapping: ExperimentFile['mapping'], keys: Path): ExperimentFile['mapping'] => {
    if (mapping === undefined || mapping === 'identity') return mapping;
    if (typeof mapping === 'string') return whole(keys, mapping);
    if (Array.isArray(mapping)) return mapping.map((name, i) => whole([...keys, i], name));
    return { ...mapping, samples: samplesAt(mapping.samples, [...keys, 'samples']) };
  };
  /** Vectors and LoRAs are files, too. */
  const withFiles = <Part>(part: Part, keys: Path): Part => {
    if (Array.isArray(part)) return part.map((one, i) => withFiles(one, [...keys, i])) as Part;
    if (typeof part !== 'object' || part === null) return part;
    const entries = Object.entries(part).map(([key, value]) => {
      const isFile = typeof value === 'string' && (key === 'file' || (key === 'lora' && value !== 'none'));
      if (isFile) return [key, whole([...keys, key], value)];
      const isRows = key === 'samples' && Array.isArray(value);
      return [key, isRows ? samplesAt(value, [...keys, key]) : withFiles(value, [...keys, key])];
    });
    return Object.fromEntries(entries) as Part;
  };
  const { $schema: _, model, mapping, source, target, variants, ...rest } = file;
  const samples = samplesAt(file.samples, ['samples']);
  return {
    ...rest,
    source: withFiles(source, ['source']),
    target: withFiles(target, ['target']),
    samples: limit === undefined ? samples : limited(samples, limit),
    ...given({
      model:
        model === undefined || typeof model === 'string'
          ? model && modelAt(model)
          : { source: modelAt(model.source, 'source'), target: modelAt(model.target, 'target') },
      mapping: mappingAt(mapping, ['mapping']),
      variants: variants?.map(({ mapping, ...variant }, i) => ({
        ...variant,
        ...given({
          source: withFiles(variant.source, ['variants', i, 'source']),
          target: withFiles(variant.target, ['variants', i, 'target']),
        }),
        ...given({ mapping: mappingAt(mapping, ['variants', i, 'mapping']) }),
      })),
    }),
  };
}

/** The path of a model's file, which is relative to the file that names it. */
export function isModelFile(name: string): boolean {
  return /^(?!hf:).*\.gguf$/s.test(name);
}

/** The same experiment with the keys of one variant, and none of its variants. */
export function singleVariant(file: ExperimentFile, name: string): ExperimentFile {
  const variant = file.variants!.find((one) => one.name === name)!;
  // what is known and expected names variants
  const { variants: _, known: __, expected: ___, ...rest } = file;
  const { name: ____, source, target, edit, reading, ...others } = variant;
  return {
    ...rest,
    source: { ...file.source, ...source, ...promptGiven(file.source.prompt, source?.prompt) },
    target: { ...file.target, ...target, ...promptGiven(file.target.prompt, target?.prompt) },
    ...given({
      edit: edit && { ...file.edit, ...edit },
      ...others,
      reading: reading && { ...file.reading, ...reading },
    }),
  };
}

function promptGiven(...prompts: Parameters<typeof mergedPrompt>) {
  return given({ prompt: mergedPrompt(...prompts) });
}

/** Numbers of samples stay as they are written: 1.50 is not 1.5. */
function asWritten({ scalar, list, map }: Located): unknown {
  if (list !== undefined) return list.map(asWritten);
  if (map !== undefined) return Object.fromEntries([...map].map(([key, { node }]) => [key, asWritten(node)]));
  const { value, written } = scalar!;
  return value === null || typeof value === 'string' ? value : written;
}

function limited(samples: ExperimentFile['samples'], limit: number): ExperimentFile['samples'] {
  if (Array.isArray(samples)) return samples.slice(0, limit);
  const keys = samples as Exclude<typeof samples, readonly unknown[]>;
  return { ...keys, limit: Math.min(limit, keys.limit ?? limit) };
}

/** @param lines what is said above it. */
export function fileText(file: ExperimentFile, lines: readonly string[]): string {
  return `${lines.map((line) => `# ${line}\n`).join('')}${stringify(file)}`;
}
