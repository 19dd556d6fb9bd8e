/** Fits a mapping to the states that a model, or two, have at two places of the same prompts. */
import type { Engine } from '../engine.js';
import { PatchscopeError } from '../errors.js';
import { type Fit, fitBytes, leastPairs, makeFitter } from '../mapping/fit.js';
import { optionsOf, ridgeOf } from '../mapping/kind-options.js';
import { MappingWriter } from '../mapping/mapping-file.js';
import { applyMap, parameterCount } from '../mapping/maps.js';
import { Quality } from '../mapping/quality.js';
import { writeWhole } from '../output-file.js';
import type {
  Experiment,
  KindOptions,
  MappingFit,
  MappingKind,
  MappingRecord,
  MapRecord,
  PromptAt,
  Side,
  Source,
} from '../patchscope.js';
import type { Place } from '../places.js';
import { DEFAULT_VARIANT } from '../plan/pairs.js';
import { makePlan, type Plan } from '../plan/plan.js';
import {
  type PlacesOfSource,
  type Positions,
  pairCount,
  pairedPromptsOf,
  placesOf,
  promptsOf,
  type Split,
  splitPrompts,
} from './pairs.js';
import { spooled } from './spool.js';
import { rowsAtOnce, statesOf } from './state-stream.js';

export interface FitOptions extends MappingFit {
  /** The variant whose cells the maps are for. Default: the only one. */
  readonly variant?: string;
  /** Of the model whose states are mapped to. Default: the same. */
  readonly target?: Engine;
  /** Whether both models are in memory in turn, so that all states of one are wanted before any of the other. */
  readonly areInTurn?: boolean;
  /** One line for a person. */
  readonly onNote?: (line: string) => void;
  readonly signal?: AbortSignal;
}

/** Of sums and maps in memory at once; a single source place may need more. */
const GROUP_BYTES = 640 * 2 ** 20;
/** Longer than any number that takes its place. */
const LONG_NUMBER = -1.2345678901234567e-200;

/**
 * Fits a map for each pair of places that the cells of an experiment have, from source states to the states that
 * the same prompts have where the cells patch, and writes them to a file. In another model these are the states
 * of the tokens that end where those of the source end.
 *
 * @throws PatchscopeError `bad_input` where the experiment does not fit the model, or has too few prompts.
 */
export async function fitMapping(
  experiment: Experiment,
  engine: Engine,
  output: string,
  options: FitOptions,
): Promise<MappingRecord> {
  const task = new FitTask(experiment, engine, options);
  return writeWhole(output, (part) => task.run(part));
}

/** As `fitMapping`, into a file that is there and empty. */
export async function fitInto(
  file: string,
  experiment: Experiment,
  engine: Engine,
  options: FitOptions,
): Promise<MappingRecord> {
  return new FitTask(experiment, engine, options).run(file);
}

class FitTask {
  readonly #engine: Engine;
  readonly #options: FitOptions;
  readonly #places: readonly PlacesOfSource[];
  readonly #split: Split;
  readonly #ridge: number;
  readonly #record: Omit<MappingRecord, 'maps'> & { readonly options: KindOptions };

  constructor(experiment: Experiment, engine: Engine, options: FitOptions) {
    const { kind, heldOut = 0.1, positions = 'sample', targetSite } = options;
    const { record, tokenizer } = engine;
    const other = options.target === engine ? undefined : options.target;
    const { probe, ...mapped } = experiment;
    const plan =
      other === undefined
        ? makePlan(mapped, tokenizer, record)
        : makePlan(ontoItself(mapped), tokenizer, record, other);
    const variant = variantOf(experiment, options.variant);
    const settings = { ...experiment, ...variant };
    const { sourceSide: side, targetSide } = settings;
    if (other === undefined && (side ?? 'decoder') !== (targetSide ?? 'decoder')) {
      throw new PatchscopeError(
        'bad_input',
        'A mapping is fitted to pairs of states of the same token, and encoder and decoder read different ones: take one side.',
      );
    }
    if (other !== undefined) checkSides(engine, other, { source: side, target: targetSide });
    const target = (other ?? engine).record;
    const layerCount = targetSide === 'encoder' ? target.encoderLayerCount : target.layerCount;
    this.#engine = engine;
    this.#options = options;
    this.#places = placesOf(plan, variant.name, layerCount, targetSite);
    const prompts =
      other === undefined
        ? promptsOf(plan, variant.name, positions, tokenizer.bosToken).map((prompt) => ({
            source: prompt,
            target: prompt,
          }))
        : pairsOf(plan, variant.name, positions, { source: engine, target: other }, options.onNote);
    this.#split = splitPrompts(prompts, heldOut, experiment.seed);
    const pairs = { train: pairCount(this.#split.train), heldOut: pairCount(this.#split.heldOut) };
    const modelOf = ({ sha256, embeddingSize: width }: Engine['record'], ofModel: Side | undefined) => ({
      ...{ sha256, width },
      ...(ofModel && { side: ofModel }),
    });
    const models = { source: modelOf(record, side), target: modelOf(target, targetSide) };
    this.#ridge = ridgeOf(kind, options.ridge);
    const used = { kind, options: optionsOf(kind, options.options ?? {}, models) };
    checkPairs(used, models.source.width, pairs.train, this.#ridge);
    this.#record = {
      ...used,
      parameters: parameterCount({ ...used, ...models }),
      ...models,
      data: {
        experiment: experiment.name,
        positions,
        prompts: { train: this.#split.train.length, heldOut: this.#split.heldOut.length },
        pairs,
        seed: experiment.seed,
      },
    };
  }

  async run(file: string): Promise<MappingRecord> {
    const unknown = { train: LONG_NUMBER, heldOut: LONG_NUMBER };
    const draft = this.#places.flatMap(({ source, targets }) =>
      targets.map(
        (target): MapRecord => ({
          ...{ source, target, ridge: LONG_NUMBER, condition: LONG_NUMBER },
          ...(this.#record.kind === 'kernel' && { bandwidth: LONG_NUMBER }),
          ...{ r2: unknown, cosine: unknown, relativeError: unknown },
        }),
      ),
    );
    const writer = new MappingWriter(file, { ...this.#record, maps: draft });
    try {
      const maps: MapRecord[] = [];
      for (const group of this.#groups()) {
        for (const fitted of await this.#fitGroup(group)) {
          const { map, ...record } = fitted;
          writer.write(record, map);
          maps.push(record);
          this.#noteDoubts(record);
        }
        this.#options.onNote?.(`fitted ${maps.length} of ${draft.length} maps`);
      }
      const record = { ...this.#record, maps };
      writer.finish(record);
      return record;
    } finally {
      writer.close();
    }
  }

  /** Source places whose sums are in memory together. */
  #groups(): PlacesOfSource[][] {
    const { data } = this.#record;
    const groups: PlacesOfSource[][] = [];
    let bytes = Number.POSITIVE_INFINITY;
    for (const places of this.#places) {
      const own = fitBytes({ ...this.#record, targets: places.targets.length }, data.pairs.train);
      if (bytes + own > GROUP_BYTES) {
        groups.push([]);
        bytes = 0;
      }
      groups.at(-1)!.push(places);
      bytes += own;
    }
    return groups;
  }

  async #fitGroup(group: readonly PlacesOfSource[]): Promise<(Fit & MapRecord)[]> {
    const { kind, options, source, target, data } = this.#record;
    const { threads } = this.#engine.record;
    const { seed } = data;
    const { signal } = this.#options;
    const fitters = group.map(({ targets }) =>
      makeFitter({
        ...{ kind, options, ridge: this.#ridge, seed, source, target },
        ...{ targets: targets.length, threads, signal },
      }),
    );
    for await (const rows of this.#rowsOf(this.#split.train, group)) {
      for (const [i, places] of group.entries())
        await fitters[i]!.add(rows.of(places.source), places.targets.map(rows.target));
    }
    const fits: (Fit & MapPlacesOf)[] = [];
    for (const [i, { source, targets }] of group.entries()) {
      const solved = await fitters[i]!.solve();
      fitters[i] = undefined!; // its sums make room
      fits.push(...solved.map((fit, k) => ({ source, target: targets[k]!, ...fit })));
    }
    return this.#judge(fits, group);
  }

  /** With how good each is, on the prompts held out and on as many others. */
  async #judge(
    fits: readonly (Fit & MapPlacesOf)[],
    group: readonly PlacesOfSource[],
  ): Promise<(Fit & MapRecord)[]> {
    const { train, heldOut } = this.#split;
    const judged = { train: train.slice(0, heldOut.length), heldOut };
    const { source: from, target: to } = this.#record;
    const measured = { train: [] as Quality[], heldOut: [] as Quality[] };
    for (const split of ['train', 'heldOut'] as const) {
      measured[split] = fits.map(() => new Quality(to.width));
      for await (const rows of this.#rowsOf(judged[split], group)) {
        for (const [i, { map, source, target }] of fits.entries()) {
          const { threads } = this.#engine.record;
          const mapped = await applyMap(this.#record, map, rows.of(source), from.width, threads);
          measured[split][i]!.add(mapped, rows.target(target));
        }
      }
    }
    return fits.map((fit, i) => {
      const [ofTrain, ofHeldOut] = [measured.train[i]!, measured.heldOut[i]!];
      return {
        ...fit,
        r2: { train: ofTrain.r2, heldOut: ofHeldOut.r2 },
        cosine: { train: ofTrain.cosine, heldOut: ofHeldOut.cosine },
        relativeError: { train: ofTrain.relativeError, heldOut: ofHeldOut.relativeError },
      };
    });
  }

  /** States of all places of a group, some rows at a time. */
  async *#rowsOf(prompts: Split['train'], group: readonly PlacesOfSource[]): AsyncGenerator<RowsByPlace> {
    const { target = this.#engine, areInTurn, signal } = this.#options;
    const sources = distinct(group.map(({ source }) => source));
    const targets = distinct(group.flatMap((places) => places.targets));
    if (target === this.#engine) {
      const places = distinct([...sources, ...targets]);
      const ofPrompts = prompts.map(({ source }) => source);
      const atOnce = rowsAtOnce(target.record.embeddingSize * places.length);
      for await (const rows of statesOf(target, ofPrompts, places, atOnce, signal)) {
        const of = byPlace(places, rows);
        yield { of, target: of };
      }
      return;
    }
    const floats = (engine: Engine, places: readonly Place[]) => engine.record.embeddingSize * places.length;
    const atOnce = rowsAtOnce(floats(this.#engine, sources) + floats(target, targets));
    const stream = (engine: Engine, side: 'source' | 'target', places: readonly Place[]) =>
      statesOf(
        engine,
        prompts.map((pair) => pair[side]),
        places,
        atOnce,
        signal,
      );
    const captured = stream(this.#engine, 'source', sources);
    const ofSource = areInTurn ? spooled(captured) : captured;
    try {
      const ofTarget = stream(target, 'target', targets);
      for (;;) {
        const from = await ofSource.next();
        if (from.done) return;
        const to = await ofTarget.next();
        yield { of: byPlace(sources, from.value), target: byPlace(targets, to.value) };
      }
    } finally {
      await ofSource.return(undefined);
    }
  }

  #noteDoubts({ source, target, ridge, condition }: MapRecord): void {
    const { onNote } = this.#options;
    const asked = this.#ridge;
    if (ridge > asked) {
      const pair = `${keyOf(source)} -> ${keyOf(target)}`;
      onNote?.(
        `Warning: ${pair}: the source states leave more than one map, so a ridge of ${ridge} was taken instead of ${asked}.`,
      );
    } else if (condition !== null && condition > DOUBTFUL_CONDITION) {
      onNote?.(
        `Warning: ${keyOf(source)} -> ${keyOf(target)}: the condition is ${condition.toExponential(0)}, so some weights follow from noise: a ridge (--ridge 1e-6) would bound them.`,
      );
    }
  }
}

type MapPlacesOf = Pick<MapRecord, 'source' | 'target'>;

interface RowsByPlace {
  of(this: void, place: Place): Float32Array;
  target(this: void, place: Place): Float32Array;
}

function byPlace(places: readonly Place[], rows: readonly Float32Array[]): RowsByPlace['of'] {
  const found = new Map(places.map((place, i) => [keyOf(place), rows[i]!]));
  return (place) => found.get(keyOf(place))!;
}

function distinct(places: readonly Place[]): Place[] {
  return [...new Map(places.map((place) => [keyOf(place), place])).values()];
}

/** The target is the source prompt, as the target's model reads it. */
function ontoItself(experiment: Experiment): Experiment {
  const same = (source: Source): PromptAt => {
    if ('vector' in source) {
      throw new PatchscopeError(
        'bad_input',
        'A source is a vector, and a mapping between two models is fitted to source prompts: give every variant one.',
      );
    }
    const { prompt } = source;
    if (prompt.kind === 'text') return { prompt, position: { kind: 'index', index: 0 } };
    throw new PatchscopeError(
      'bad_input',
      'A mapping between two models is fitted to texts that both of them read: give source prompts as text, not as token ids.',
    );
  };
  // what is patched, and read behind a target, says nothing of its states
  const { metrics, controls, known, expected, variants, ...rest } = experiment;
  const unmapped = { mapping: { kind: 'identity' }, patch: { op: 'scale' } } as const;
  return {
    ...rest,
    ...unmapped,
    ...(variants && { variants: variants.map((variant) => ({ ...variant, ...unmapped })) }),
    reading: { topK: 1, maxTokens: 1, stop: [] },
    samples: experiment.samples.map((sample) => ({
      ...sample,
      target: same(sample.source),
      ...(sample.variants && {
        variants: Object.fromEntries(
          Object.entries(sample.variants).map(([name, { source = sample.source }]) => [
            name,
            { source, target: same(source) },
          ]),
        ),
      }),
    })),
  };
}

/** @throws PatchscopeError `bad_input` for a side that reads no text. */
function checkSides(
  source: Engine,
  target: Engine,
  sides: { readonly source: Side | undefined; readonly target: Side | undefined },
): void {
  for (const [which, engine] of [
    ['source', source],
    ['target', target],
  ] as const) {
    if (engine.tokenizer.decoderStartToken === undefined || sides[which] === 'encoder') continue;
    throw new PatchscopeError(
      'bad_input',
      `A mapping between two models is fitted to texts that both of them read, and the decoder of the ${which} model starts from a token and not from a text: take the ${which} side encoder.`,
    );
  }
}

function pairsOf(
  plan: Plan,
  variant: string,
  positions: Positions,
  { source, target }: { readonly source: Engine; readonly target: Engine },
  onNote: FitOptions['onNote'],
) {
  const tokenizers = { source: source.tokenizer, target: target.tokenizer };
  const { prompts, leftOut } = pairedPromptsOf(plan, variant, positions, tokenizers);
  if (prompts.length === 0) {
    throw new PatchscopeError(
      'bad_input',
      `The two models never end a token at the same place of a prompt, at any of the ${leftOut} positions: take all positions (--all-positions), or other prompts.`,
    );
  }
  if (leftOut > 0) {
    onNote?.(
      `left out ${leftOut} positions where the two models don't end a token at the same place of the text`,
    );
  }
  return prompts;
}

/** Beyond it float32 states say less of a map's weakest direction than rounding does. */
const DOUBTFUL_CONDITION = 1e10;

function keyOf({ site, layer }: Place): string {
  return layer === 'embed' ? site : `${site}.${layer}`;
}

function checkPairs(
  { kind, options }: { kind: MappingKind; options: KindOptions },
  width: number,
  pairs: number,
  ridge: number,
): void {
  const least = leastPairs(kind, width, options);
  if (pairs >= least || ridge > 0) return;
  throw new PatchscopeError(
    'bad_input',
    `There are ${pairs} pairs of states to fit to where a map of kind ${kind} from states of ${width} floats needs at least ${least}: give more prompts, take all positions (--all-positions, or positions: all), or a ridge (--ridge 0.01, or ridge: 0.01).`,
  );
}

/** @throws PatchscopeError `bad_input` where it is not said which, or there is none of that name. */
export function variantOf({ variants }: Experiment, name: string | undefined) {
  if (variants === undefined) {
    if (name === undefined || name === DEFAULT_VARIANT) return { name: DEFAULT_VARIANT };
    throw new PatchscopeError('bad_input', `There is no variant '${name}': the experiment has none.`);
  }
  const names = variants.map((variant) => variant.name).join(', ');
  if (name === undefined && variants.length > 1) {
    throw new PatchscopeError(
      'bad_input',
      `The experiment has several variants: say for which one the mapping is, with --variant and one of ${names}.`,
    );
  }
  const found = variants.find((variant) => name === undefined || variant.name === name);
  if (found === undefined) {
    throw new PatchscopeError('bad_input', `There is no variant '${name}': the experiment has ${names}.`);
  }
  return found;
}
