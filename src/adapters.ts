/** The LoRA adapters that the models of an experiment are read with. */
import fs from 'node:fs';
import path from 'node:path';
import { PatchscopeError } from './errors.js';
import { fileHash } from './file-hash.js';
import type { Adapter, Experiment, Settings } from './patchscope.js';

/** @throws PatchscopeError `bad_input` where it can't be read; what it holds is for the engine to judge. */
export function readAdapter(file: string, scale = 1): Adapter {
  if (!Number.isFinite(Math.fround(scale))) {
    throw new PatchscopeError(
      'bad_input',
      `The scale of the LoRA '${file}' is ${scale} where a number is needed.`,
    );
  }
  const sha256 = hashOf(file);
  const stem = `${path.basename(file, '.gguf')}@${sha256.slice(0, 12)}`;
  return { name: scale === 1 ? stem : `${stem} x ${scale}`, path: path.resolve(file), sha256, scale };
}

function hashOf(file: string): string {
  try {
    const descriptor = fs.openSync(file, 'r');
    try {
      return fileHash(descriptor);
    } finally {
      fs.closeSync(descriptor);
    }
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const fault = code === 'ENOENT' ? 'does not exist' : `can't be read (${code ?? message})`;
    throw new PatchscopeError('bad_input', `The LoRA is '${file}', which ${fault}: name a GGUF file.`, {
      cause,
    });
  }
}

/** Those of an experiment and its variants, for each of its models. */
export interface ModelAdapters {
  readonly source: readonly Adapter[];
  readonly target: readonly Adapter[];
}

/** @throws PatchscopeError `bad_input` where one is still to be given. */
export function adaptersOf(experiment: Experiment): ModelAdapters {
  const settings = [experiment, ...(experiment.variants ?? [])];
  return {
    source: distinct(settings.map(({ sourceAdapter }) => givenAdapter(sourceAdapter, 'source'))),
    target: distinct(settings.map(({ targetAdapter }) => givenAdapter(targetAdapter, 'target'))),
  };
}

/** @throws PatchscopeError `bad_input` where it is still to be given. */
export function givenAdapter(
  adapter: Settings['sourceAdapter'],
  which: 'source' | 'target',
): Adapter | undefined {
  if (adapter === undefined || adapter === 'none') return undefined;
  if (!('needed' in adapter)) return adapter;
  throw new PatchscopeError(
    'bad_input',
    `The ${which}'s LoRA is still to be given, ${adapter.needed}: --set ${which}.lora=FILE.gguf does it.`,
  );
}

/** Each once, by its name. */
export function distinct<Kind extends Adapter>(adapters: readonly (Kind | undefined)[]): Kind[] {
  return [
    ...new Map(adapters.flatMap((adapter) => (adapter ? [[adapter.name, adapter] as const] : []))).values(),
  ];
}
