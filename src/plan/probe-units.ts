/** Which states a probe is to learn from, and whether it can. */
import { PatchscopeError } from '../errors.js';
import { grouped } from '../group.js';
import { controls, type Experiment, type Source } from '../patchscope.js';
import type { Place } from '../places.js';
import { groupedFolds } from '../statistics/folds.js';
import { checkClasses } from '../statistics/probe.js';
import { type VariantSettings, variantsOf } from './pairs.js';
import type { Plan } from './plan.js';

/** The source states of one group of samples in one variant. */
export interface ProbeUnit {
  readonly variant: string;
  /** Empty: samples without one. */
  readonly group: string;
  /** Indexes. */
  readonly samples: readonly number[];
  readonly places: readonly Place[];
}

/** Group by group; none where the experiment has no probe. */
export function probeUnits(plan: Plan): ProbeUnit[] {
  const { experiment } = plan;
  if (experiment.probe === undefined) return [];
  const variants = variantsOf(experiment).filter(({ name }) => !experiment.known?.includes(name));
  const places = sourcePlaces(plan);
  return groupsOf(experiment).flatMap(([group, samples]) =>
    variants.map(({ name }) => ({ variant: name, group, samples, places: places.get(name)! })),
  );
}

function groupsOf({ samples }: Experiment): [string, number[]][] {
  return [...grouped([...samples.keys()], (sample) => samples[sample]!.group ?? '')];
}

/** By variant, of the cells that are patched with captured states. */
function sourcePlaces({ pairs, cells, places }: Plan): Map<string, Place[]> {
  const captured = controls.indexOf('none');
  const found = new Map<string, Set<number>>();
  for (let i = 0; i < cells.pair.length; i++) {
    if (cells.control[i] !== captured) continue;
    const { variant } = pairs[cells.pair[i]!]!;
    const numbers = found.get(variant);
    if (numbers === undefined) found.set(variant, new Set([cells.source[i]!]));
    else numbers.add(cells.source[i]!);
  }
  return new Map(
    [...found].map(([variant, numbers]) => [variant, places.filter((_, number) => numbers.has(number))]),
  );
}

/**
 * The fold of each of some samples.
 *
 * @throws PatchscopeError `bad_input` where a probe can't learn from them.
 */
export function foldsOf({ samples, probe, seed }: Experiment, some: readonly number[]): number[] {
  const subjects = some.map((sample) => samples[sample]!.subject!);
  const folds = groupedFolds(subjects, probe!.folds, seed);
  checkClasses(
    some.map((sample) => samples[sample]!.class!),
    folds,
  );
  return folds;
}

/** @throws PatchscopeError `bad_input` where there is no variant that tells what is known, or no group to probe. */
export function checkKnownAndProbe(experiment: Experiment): void {
  for (const name of experiment.known ?? []) checkKnown(experiment, name);
  if (experiment.probe !== undefined) checkOneSource(experiment);
  const reason = reasonAgainstProbe(experiment);
  if (reason !== undefined) throw new PatchscopeError('bad_input', `${reason}, or leave out probe.`);
}

/**
 * Without its probe, where no group can have one: of a part of an experiment's samples, whose whole can.
 *
 * @param onNote is told why.
 */
export function withoutHopelessProbe(experiment: Experiment, onNote: (line: string) => void): Experiment {
  const reason = reasonAgainstProbe(experiment);
  if (reason === undefined) return experiment;
  onNote(`Warning: the probe is left out, since these are too few samples for one. ${reason}.`);
  const { probe, ...rest } = experiment;
  return rest;
}

/** Why no group of an experiment can have its probe; a sentence without its full stop. */
function reasonAgainstProbe(experiment: Experiment): string | undefined {
  if (experiment.probe === undefined) return undefined;
  const lacking = experiment.samples.find(
    (sample) => sample.subject === undefined || sample.class === undefined,
  );
  if (lacking !== undefined) {
    return `The sample '${lacking.name}' has no subject or no class, which a probe needs: give both`;
  }
  const reasons = groupsOf(experiment).map(([group, samples]) => [group, reasonAgainst(experiment, samples)]);
  const [[group, reason]] = reasons as [[string, string | undefined]];
  if (reasons.some(([, against]) => against === undefined)) return undefined;
  const where = reasons.length === 1 ? 'the samples' : `any of the ${reasons.length} groups`;
  return `A probe can't learn from ${where}${reasons.length === 1 ? '' : ` (the first is '${group}')`}: ${reason![0]!.toLowerCase()}${reason!.slice(1).replace(/\.$/, '')}`;
}

function checkOneSource({ samples }: Experiment): void {
  const sources = samples.flatMap(({ source, variants = {} }) => [
    source,
    ...Object.values(variants).flatMap((own) => own.source ?? []),
  ]);
  const hasOne = (source: Source) =>
    'vector' in source || (source.position.kind !== 'each' && (source.further ?? []).length === 0);
  if (sources.every(hasOne)) return;
  throw new PatchscopeError(
    'bad_input',
    'A probe learns from one state of each sample, and the source has several positions: give it one, or leave out probe.',
  );
}

/** Why a probe can't learn from some samples. */
export function reasonAgainst(experiment: Experiment, samples: readonly number[]): string | undefined {
  try {
    foldsOf(experiment, samples);
    return undefined;
  } catch (error) {
    if (!(error instanceof PatchscopeError)) throw error;
    return error.message;
  }
}

function checkKnown(experiment: Experiment, known: string): void {
  const variants = variantsOf(experiment);
  const bad = (what: string) => new PatchscopeError('bad_input', `known names '${known}', ${what}.`);
  const variant = variants.find(({ name }) => name === known);
  if (variant === undefined) {
    throw bad(`which is no variant: there are ${variants.map(({ name }) => name).join(', ')}`);
  }
  if (variants.every(({ name }) => experiment.known!.includes(name)))
    throw bad('beside which a variant is needed whose facts it tells');
  if (!patchesNothing(variant)) {
    throw bad(
      'a variant that patches something, where its text tells what the model says by itself: give it edit: { op: scale }',
    );
  }
  if (!experiment.metrics?.includes('answer-found')) {
    throw bad('which tells by the metric answer-found: add it to the metrics');
  }
}

function patchesNothing({ patch }: VariantSettings): boolean {
  return patch?.op === 'scale' && (patch.alpha ?? 1) === 1;
}
