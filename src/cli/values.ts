/** Option values as typed -> what the API takes; each mistake is one sentence. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import {
  type Adapter,
  type GpuLayers,
  PatchscopeError,
  type Prompt,
  readAdapter,
  type Sampling,
  type Shard,
} from '../index.js';

export function wholeNumber(value: string | undefined, option: string, least: number): number | undefined {
  if (value === undefined) return undefined;
  if (!/^\d+$/.test(value) || Number(value) < least || !Number.isSafeInteger(Number(value))) {
    throw new PatchscopeError(
      'bad_input',
      `${option} is '${value}' where a whole number of at least ${least} is needed.`,
    );
  }
  return Number(value);
}

export function gpuLayersOf(value: string): GpuLayers {
  if (value === 'auto' || value === 'all') return value;
  if (/^\d+$/.test(value) && Number.isSafeInteger(Number(value))) return Number(value);
  throw new PatchscopeError(
    'bad_input',
    `-ngl is '${value}' where auto, all or a whole number of at least 0 is needed.`,
  );
}

/** The bounds are for whoever uses the number. */
export function realNumber(value: string, option: string): number {
  if (!/^-?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(value)) {
    throw new PatchscopeError('bad_input', `${option} is '${value}' where a number is needed.`);
  }
  return Number(value);
}

/** Undefined where nothing is drawn. */
export function samplingOf(args: {
  readonly temp: string;
  readonly topK: string;
  readonly topP: string;
}): Sampling | undefined {
  const temperature = realNumber(args.temp, '--temp');
  const topK = wholeNumber(args.topK, '--top-k', 0)!;
  const topP = realNumber(args.topP, '--top-p');
  if (temperature === 0 && (topK !== 0 || topP !== 1)) {
    throw new PatchscopeError(
      'bad_input',
      'With --temp 0 nothing is drawn, and --top-k and --top-p mean nothing: give a --temp.',
    );
  }
  return temperature === 0 ? undefined : { temperature, topK, topP };
}

/** FILE or FILE:SCALE; nothing, or none, for a model as it is. */
export function adapterOf(value = 'none'): Adapter | 'none' {
  if (value === 'none') return value;
  const [, file, scale] = /^(.*\.gguf):([^:/\\]+)$/is.exec(value) ?? [];
  return file === undefined
    ? readAdapter(value)
    : readAdapter(file, realNumber(scale!, 'the scale of a LoRA'));
}

/** What is scored instead of generated. */
export function continuationOf(
  {
    continuation,
    predict,
  }: { readonly continuation?: string | undefined; readonly predict?: string | undefined },
  sampling: Sampling | undefined,
): { readonly continuation?: string } {
  if (continuation === undefined) return {};
  if (predict !== undefined || sampling !== undefined) {
    throw new PatchscopeError(
      'bad_input',
      'With --continuation nothing is generated: leave -n, --temp, --top-k and --top-p out.',
    );
  }
  return { continuation };
}

/** Raw token ids, separated by commas or blanks. */
export function tokenIds(value: string, option: string): number[] {
  const words = value.split(/[\s,]+/).filter(Boolean);
  const wrong = words.find((word) => !/^\d+$/.test(word));
  if (wrong !== undefined) {
    throw new PatchscopeError(
      'bad_input',
      `${option} holds '${wrong}' where token ids such as 12,345 are needed.`,
    );
  }
  return words.map(Number);
}

export interface PromptSwitches {
  readonly bos: boolean;
  readonly chat: boolean;
  readonly special: boolean;
}

/** A prompt given as text or as raw ids, never both. */
export function promptOf(
  text: string | undefined,
  ids: string | undefined,
  name: string,
  { bos, chat, special }: PromptSwitches,
): Prompt {
  if ((text === undefined) === (ids === undefined)) {
    throw new PatchscopeError(
      'bad_input',
      `Give ${name} as text or ${name}-ids as token ids, one of the two.`,
    );
  }
  return ids === undefined
    ? { kind: 'text', text: text!, bos, chat, special }
    : { kind: 'tokens', tokenIds: tokenIds(ids, `${name}-ids`) };
}

/** yargs turns `--no-db` into false. */
export function dbOf({ db }: { readonly db: unknown }): string | false {
  return db === false ? false : String(db);
}

/** Where mappings that a run fits are kept: beside its results, or where there are none as long as the process. */
export function mappingsFolder(db: string | false): string {
  if (db !== false) return path.join(path.dirname(db), 'mappings');
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'patchscopes-mappings-'));
  process.once('exit', () => fs.rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** k/n: the k-th of n parts. */
export function shardOf(value: string | undefined): Shard | undefined {
  if (value === undefined) return undefined;
  const [, index, count] = (/^(\d+)\/(\d+)$/.exec(value) ?? []).map(Number);
  if (index !== undefined && count !== undefined && index >= 1 && index <= count) return { index, count };
  throw new PatchscopeError(
    'bad_input',
    `--shard is '${value}' where k/n is needed, such as 1/3 for the first of three parts.`,
  );
}
