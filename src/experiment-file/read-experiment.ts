/** Experiments as files that people write; the format is `schema.ts`, in words in the README. */
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { PatchscopeError } from '../errors.js';
import { readMappings } from '../mapping/mapping-file.js';
import { nearest } from '../nearest.js';
import type { Experiment } from '../patchscope.js';
import { around, type Located, parseDocument, pathFrom, plain, quoted } from './document.js';
import { toExperiment } from './experiment.js';
import { expandFactors, type Levels } from './factors.js';
import { problem } from './problems.js';
import { readSamples } from './samples.js';
import { type ExperimentFile, experimentSchema } from './schema.js';
import { applySet } from './set.js';
import { isModelFile, standalone } from './standalone.js';
import { readText } from './text-file.js';

/** The text's parser takes a second for each. */
const MOST_MIB = 4;

/** Where the experiments of the package lie. */
export const builtIns = fileURLToPath(new URL('../../src/experiments/', import.meta.url));

export interface ReadExperiment {
  readonly experiment: Experiment;
  /** As `resolveModel` takes them, where the file names them. */
  readonly models?: { readonly source: string; readonly target: string };
  /** The file as it is written. */
  readonly text: string;
  /** The same as it is read here: with settings, factors as variants, and whole paths. */
  readonly file: object;
  /** The question it asks. */
  readonly about?: string;
}

export interface ReadOptions {
  /** Each key=value, the key a dotted path, the value in YAML. */
  readonly set?: readonly string[];
  /** Only so many samples, from the first on. */
  readonly limit?: number;
  /** Take the identity for every mapping, whose files and samples need not be there yet. Default: false. */
  readonly withoutMappings?: boolean;
}

export function builtInNames(): string[] {
  const names = fs.readdirSync(builtIns).filter((file) => file.endsWith('.yaml'));
  return names.map((file) => path.basename(file, '.yaml')).sort();
}

/**
 * @param nameOrPath name of a built-in, or path of a .yaml, .yml or .json file.
 * @throws PatchscopeError `bad_input`
 */
export function readExperiment(
  nameOrPath: string,
  { set = [], limit, withoutMappings = false }: ReadOptions = {},
): ReadExperiment {
  if (limit !== undefined && !(Number.isSafeInteger(limit) && limit > 0)) {
    throw new PatchscopeError(
      'bad_input',
      `The limit is ${limit} where a whole number of at least 1 is needed.`,
    );
  }
  const { file, root, text, factors } = readFile(nameOrPath, set);
  const rows = readSamples(file.samples, around(root, ['samples']), 'samples', limit);
  const { about, model } = file;
  const modelAt = (name: string, ...keys: string[]) =>
    isModelFile(name) ? pathFrom(around(root, ['model', ...keys]), name) : name;
  return {
    experiment: toExperiment(file, root, rows, { factors, ...(!withoutMappings && { open: readMappings }) }),
    text,
    file: standalone(root, file, limit),
    ...(about !== undefined && { about }),
    ...(model !== undefined && {
      models:
        typeof model === 'string'
          ? { source: modelAt(model), target: modelAt(model) }
          : { source: modelAt(model.source, 'source'), target: modelAt(model.target, 'target') },
    }),
  };
}

/** A file that fits the schema, and where each part of it stands. */
export interface WrittenExperiment {
  readonly file: ExperimentFile;
  readonly root: Located;
  readonly text: string;
  /** Of each variant that is made of factors its levels. */
  readonly factors: ReadonlyMap<string, Levels>;
}

/** As `readExperiment`, whose samples and mappings need not be there. */
export function readFile(nameOrPath: string, set: readonly string[] = []): WrittenExperiment {
  const location = fileOf(nameOrPath);
  const shownFile = /[./\\]/.test(nameOrPath) ? location : path.basename(location);
  const text = readText(location, MOST_MIB, 'The experiment');
  const root = parseDocument(text, {
    folder: path.dirname(location),
    placeOf: (line, column) => `${shownFile}:${line}:${column}`,
  });
  for (const setting of set) applySet(root, setting);
  const parsed = experimentSchema.safeParse(plain(root));
  if (!parsed.success) throw problem(parsed.error.issues, root);
  const factors = expandFactors(root);
  return {
    file: factors.size === 0 ? parsed.data : experimentSchema.parse(plain(root)),
    root,
    text,
    factors,
  };
}

function fileOf(nameOrPath: string): string {
  if (/[./\\]/.test(nameOrPath)) return nameOrPath;
  const names = builtInNames();
  if (names.includes(nameOrPath)) return path.join(builtIns, `${nameOrPath}.yaml`);
  const meant = nearest(nameOrPath, names);
  throw new PatchscopeError(
    'bad_input',
    `There is no built-in experiment ${quoted(nameOrPath)}${meant === undefined ? '' : `, perhaps ${meant} was meant`}: there are ${names.join(', ')}, and a file is named with its ending, such as ./mine.yaml.`,
  );
}
