/** The linear probe of a plan's groups: the source states of each are captured again and learned from. */
import type { Engine, WorkOptions } from '../engine.js';
import { concatenate } from '../floats.js';
import type { Probe, ProbePrediction } from '../observation.js';
import type { Place } from '../places.js';
import { type Plan, pairOf } from '../plan/plan.js';
import { foldsOf, type ProbeUnit, probeUnits, reasonAgainst } from '../plan/probe-units.js';
import { needPrompt } from '../plan/sources.js';
import { inputOf } from '../prompts.js';
import { captureLayers, type Failure, pointOf } from '../source-states.js';
import { probeLayers } from './layer-threads.js';

/** Anything that probes the groups of a plan: in this process, or in another one. */
export interface Prober {
  /**
   * The probe of all samples of a unit and, where `known` is given, that of the known ones alone.
   *
   * @param unit place in the list of `probeUnits`.
   * @param known samples whose fact the model knows.
   */
  probe(unit: number, known: readonly number[] | null, options?: WorkOptions): Promise<Probe[]>;
}

/** Of the states of one unit in memory at once; the rest is captured after them. */
const PART_BYTES = 256 * 2 ** 20;

export class GroupProber implements Prober {
  readonly #plan: Plan;
  readonly #engine: Engine;
  readonly #units: readonly ProbeUnit[];

  /** @param engine of the source's model. */
  constructor(plan: Plan, engine: Engine) {
    this.#plan = plan;
    this.#engine = engine;
    this.#units = probeUnits(plan);
  }

  async probe(unit: number, known: readonly number[] | null, { signal }: WorkOptions = {}): Promise<Probe[]> {
    const { variant, group, samples, places } = this.#units[unit]!;
    const learners = [new Learner(this.#plan, samples, false)];
    if (known !== null) {
      const wanted = new Set(known);
      learners.push(
        new Learner(
          this.#plan,
          samples.filter((sample) => wanted.has(sample)),
          true,
        ),
      );
    }
    const able = learners.filter(({ isAble }) => isAble);
    if (able.length > 0) {
      const perPart = Math.max(
        1,
        Math.floor(PART_BYTES / (4 * this.#engine.record.embeddingSize * samples.length)),
      );
      for (let begin = 0; begin < places.length; begin += perPart) {
        const part = places.slice(begin, begin + perPart);
        const states = await this.#capture(variant, samples, part, signal);
        for (const learner of able) await learner.learn(part, states, this.#engine.record.threads, signal);
      }
    }
    return learners.map((learner) => ({ variant, group, ...learner.result }));
  }

  /** By sample, its state at each place. */
  async #capture(
    variant: string,
    samples: readonly number[],
    places: readonly Place[],
    signal: AbortSignal | undefined,
  ): Promise<StatesOfSample> {
    const captured = await captureLayers(
      this.#engine,
      samples.map((sample) => {
        const pair = pairOf(this.#plan, sample, variant);
        const source = needPrompt(pair.source, 'a probe learns from the states of prompts');
        return { ...inputOf(source), points: places.map((place) => pointOf(source, place)) };
      }),
      { signal },
    );
    return new Map(samples.map((sample, i) => [sample, captured[i]!]));
  }
}

type StatesOfSample = ReadonlyMap<number, readonly (Float32Array | Failure)[]>;

/** One probe: some samples, and what was found in their states so far. */
class Learner {
  readonly #plan: Plan;
  readonly #samples: readonly number[];
  readonly #known: boolean;
  readonly #folds: readonly number[] | undefined;
  readonly #predictions: ProbePrediction[] = [];
  #note: string | undefined;

  constructor(plan: Plan, samples: readonly number[], known: boolean) {
    this.#plan = plan;
    this.#samples = samples;
    this.#known = known;
    this.#note = reasonAgainst(plan.experiment, samples);
    if (this.#note === undefined) this.#folds = foldsOf(plan.experiment, samples);
  }

  get isAble(): boolean {
    return this.#folds !== undefined;
  }

  /** A place where some sample has no state is left out. */
  async learn(
    places: readonly Place[],
    states: StatesOfSample,
    threads: number,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const labels = this.#samples.map((sample) => this.#classOf(sample));
    const folds = this.#folds!;
    const whole = places.flatMap((place, k) => {
      const rows = this.#samples.map((sample) => states.get(sample)![k]!);
      const failure = rows.find((row) => !(row instanceof Float32Array)) as Failure | undefined;
      if (failure === undefined) return [{ place, rows: rows as Float32Array[] }];
      this.#note ??= `Some source layers have no probe: at ${place.layer === 'embed' ? place.layer : `${place.site} ${place.layer}`} a state is missing (${failure.error})`;
      return [];
    });
    const tasks = whole.map(({ rows }) => ({ states: concatenate(rows), labels, folds }));
    const found = await probeLayers(tasks, threads, signal);
    whole.forEach(({ place }, k) => {
      this.#samples.forEach((sample, i) => {
        const predicted = found[k]![i]!;
        this.#predictions.push({
          ...{ sample, sourceSite: place.site, sourceLayer: place.layer },
          ...{ fold: folds[i]!, predicted, correct: predicted === labels[i] },
        });
      });
    });
  }

  get result(): Omit<Probe, 'variant' | 'group'> {
    const distinct = (values: readonly unknown[]) => new Set(values).size;
    const { samples } = this.#plan.experiment;
    return {
      known: this.#known,
      samples: this.#samples.length,
      subjects: distinct(this.#samples.map((sample) => samples[sample]!.subject)),
      classes: distinct(this.#samples.map((sample) => this.#classOf(sample))),
      note: this.#note ?? null,
      predictions: this.#predictions,
    };
  }

  #classOf(sample: number): string {
    return this.#plan.experiment.samples[sample]!.class!;
  }
}
