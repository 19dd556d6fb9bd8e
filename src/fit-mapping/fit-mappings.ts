/** Before the plan: an experiment's unfitted mappings become files, each fitted once for the models and their engines. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import type { Engine, ModelRecords, WorkOptions } from '../engine.js';
import { PatchscopeError } from '../errors.js';
import { makeFolder } from '../folders.js';
import { readMapping } from '../mapping/mapping-file.js';
import { writeWhole } from '../output-file.js';
import type {
  Experiment,
  FileMapping,
  MappingFit,
  MappingRecord,
  PromptAt,
  Settings,
} from '../patchscope.js';
import { type VariantSettings, variantsOf } from '../plan/pairs.js';
import { type FitOptions, fitInto } from './fit-mapping.js';

/** An engine in another process, or two, which fit there. */
export interface FittingProcess extends ModelRecords {
  /** As `fitInto`. */
  fit(file: string, experiment: Experiment, fit: MappingFit, options?: WorkOptions): Promise<MappingRecord>;
}

export interface FitMappingsOptions extends Omit<FitOptions, keyof MappingFit | 'variant'> {
  /** Where the files are kept, and looked for. */
  readonly folder: string;
}

/** One mapping of a variant, fitted or not yet. */
export interface PlannedFit {
  readonly variant: string;
  readonly file: string;
  /** The source prompts it is fitted to, as an experiment of their own. */
  readonly experiment: Experiment;
  readonly fit: MappingFit;
}

/** What is to be fitted before an experiment can be planned, or was already. */
export function plannedFits(experiment: Experiment, models: ModelRecords, folder: string): PlannedFit[] {
  return variantsOf(experiment).flatMap((settings) => {
    const { name: variant, mapping } = settings;
    if (mapping.kind !== 'unfitted') return [];
    const own = trainingOf(experiment, settings, mapping.prompts);
    const name = [experiment.name, mapping.fit.kind, keyOf(own, mapping.fit, models)].map(fileWord).join('-');
    return [{ variant, file: path.join(folder, `${name}.safetensors`), experiment: own, fit: mapping.fit }];
  });
}

/**
 * The experiment with files in place of mappings that are to be fitted. A file that is there already, and whole,
 * is taken as it is. Variants with the same settings share one.
 *
 * @param engine of the source's model; that of the target's is among the options where it is another.
 * @throws PatchscopeError `bad_input` where a mapping can't be fitted, or its file can't be written.
 */
export async function fitMappings(
  experiment: Experiment,
  engine: Engine | FittingProcess,
  { folder, ...options }: FitMappingsOptions,
): Promise<Experiment> {
  const { onNote, target } = options;
  const models = target === undefined ? engine : { sourceRecord: engine.record, record: target.record };
  const found = new Map<string, FileMapping>();
  for (const planned of plannedFits(experiment, models, folder)) {
    const { variant, file } = planned;
    let mapping = readFitted(planned);
    if (mapping === undefined) {
      onNote?.(fitText(planned));
      await fitFile(planned, engine, options);
      mapping = readFitted(planned);
      if (mapping === undefined) throw new Error(`${file} was fitted and can't be read.`);
    } else onNote?.(`mapping of ${variant}: ${file}`);
    found.set(variant, mapping);
  }
  return withMappings(experiment, (variant) => ({ mapping: found.get(variant)! }));
}

/** For a person. */
function fitText({ variant, fit, experiment, file }: PlannedFit): string {
  const count = experiment.samples.length;
  return `fitting the mapping of ${variant} (${fit.kind}) to ${count} prompt${count === 1 ? '' : 's'}: ${file}`;
}

/** The file of a mapping, if it is there and whole. */
export function readFitted({ variant, file }: PlannedFit): FileMapping | undefined {
  try {
    const mapping = readMapping(file);
    return { ...mapping, name: `${variant}@${mapping.sha256.slice(0, 12)}` };
  } catch (error) {
    if (error instanceof PatchscopeError) return undefined;
    throw error;
  }
}

/** @param of what a variant has in place of its unfitted mapping. */
export function withMappings(
  experiment: Experiment,
  of: (variant: string) => Pick<Settings, 'mapping' | 'patch'>,
): Experiment {
  const settings = variantsOf(experiment);
  const unfitted = settings.filter(({ mapping }) => mapping.kind === 'unfitted').map(({ name }) => name);
  if (unfitted.length === 0) return experiment;
  const { variants } = experiment;
  const mapping = experiment.mapping.kind === 'unfitted' ? { kind: 'identity' as const } : experiment.mapping;
  return variants === undefined
    ? { ...experiment, ...of(unfitted[0]!) }
    : {
        ...experiment,
        mapping,
        variants: variants.map((variant) =>
          unfitted.includes(variant.name) ? { ...variant, ...of(variant.name) } : variant,
        ),
      };
}

async function fitFile(
  { variant, file, experiment, fit }: PlannedFit,
  engine: Engine | FittingProcess,
  options: Omit<FitMappingsOptions, 'folder'>,
): Promise<void> {
  try {
    makeFolder(path.dirname(file));
    fs.rmSync(file, { force: true }); // not whole
    await writeWhole(file, (part) =>
      'fit' in engine
        ? engine.fit(part, experiment, fit, options)
        : fitInto(part, experiment, engine, { ...fit, ...options }),
    );
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (cause instanceof PatchscopeError) {
      if (cause.code !== 'bad_input') throw cause;
      const said = `The mapping of ${variant} can't be fitted: ${message[0]!.toLowerCase()}${message.slice(1)}`;
      throw new PatchscopeError('bad_input', said, { cause });
    }
    if (code === undefined || !/^E[A-Z]+$/.test(code)) throw cause;
    throw new PatchscopeError(
      'bad_input',
      `The mapping ${file} can't be written (${code}): take results into a folder that is yours and has room.`,
      { cause },
    );
  }
}

/** The prompts of a mapping, and the places of its variant's cells; where they are patched to does not matter. */
function trainingOf(
  { name, seed }: Experiment,
  { name: _, mapping: __, patch: ___, draws: ____, ...settings }: VariantSettings,
  prompts: readonly PromptAt[],
): Experiment {
  return {
    name,
    samples: prompts.map((prompt, i) => ({ name: `${i + 1}`, source: prompt, target: onto(prompt) })),
    ...settings,
    mapping: { kind: 'identity' },
    reading: { topK: 1, maxTokens: 1, stop: [] },
    seed,
  };
}

function onto(source: PromptAt): PromptAt {
  return source.position.kind === 'each' ? { ...source, position: { kind: 'same' } } : source;
}

/** The same for the same bits; anywhere, but for the paths of the models and what is left over in their contexts. */
function keyOf(
  experiment: Experiment,
  fit: MappingFit,
  { record, sourceRecord = record }: ModelRecords,
): string {
  const decides = [sourceRecord, record].map(({ path: _, promptTokens: __, ...rest }) => rest);
  const text = JSON.stringify([experiment, fit, decides]);
  return createHash('sha256').update(text).digest('hex').slice(0, 16);
}

function fileWord(text: string): string {
  return text.replace(/[^\w.]+/g, '-').slice(0, 40);
}
