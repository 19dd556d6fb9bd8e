/**
 * An engine in a process of its own: plans and chunks go in, outcomes come out, states stay inside. llama.cpp
 * ends its process where others would return an error; a run outlives that here.
 */
import { isDeepStrictEqual } from 'node:util';
import type { CacheLayout, EngineRecord, WorkOptions } from '../engine.js';
import { PatchscopeError } from '../errors.js';
import type { FittingProcess } from '../fit-mapping/fit-mappings.js';
import { checkResolved } from '../models/resolve.js';
import type { Outcome, Probe } from '../observation.js';
import type { Experiment, MappingFit, MappingRecord } from '../patchscope.js';
import { chunkRange, type Plan } from '../plan/plan.js';
import type { Prober } from '../probing/group-prober.js';
import { failedOutcome, type Runner } from '../run.js';
import { ChildDeath, type ChildLink } from './child-link.js';
import { type Attempt, Culprits } from './culprits.js';
import type { OpenInput, TaskName, Tasks } from './messages.js';
import { engineDied, type Identity, openChild } from './open-child.js';

export interface EngineProcessOptions extends OpenInput {
  /** One line for a person. */
  readonly onNote?: (line: string) => void;
}

export interface EngineProcess extends Runner, Prober, FittingProcess {
  /** Of the target's model. */
  readonly record: EngineRecord;
  readonly sourceRecord: EngineRecord;
  /** Of the process that does the work at the moment, if there is one. */
  readonly pid: number | undefined;
  /**
   * Makes the plan whose chunks are worked on from here on.
   *
   * @throws PatchscopeError as `makePlan` does.
   */
  plan(experiment: Experiment): Promise<Plan>;
  /** A plan that is there already takes the place of one made. */
  usePlan(plan: Plan): void;
  /**
   * A chunk at which the process dies twice is run in parts, beside other rows than the plan has for it, until
   * the cell that it dies of is alone: that one's outcome is `failed`.
   *
   * @throws PatchscopeError `engine_died` where this happens too often.
   */
  run(chunk: number, options?: WorkOptions): Promise<Outcome[]>;
  /** Some cells of the plan, in batches that are not the plan's. */
  runCells(cells: readonly number[], options?: WorkOptions): Promise<Outcome[]>;
  /** As the engine's. */
  tolerance(rows: number, cacheLayout?: CacheLayout): Promise<number | null>;
  /** Idempotent; work under way ends with code `closed`. */
  close(): Promise<void>;
}

/** @throws PatchscopeError as `openEngine` does, and `engine_died` where the process ends while it opens the model. */
export async function openEngineProcess({
  onNote = () => undefined,
  ...input
}: EngineProcessOptions): Promise<EngineProcess> {
  checkResolved(input.model);
  if (input.target !== undefined) checkResolved(input.target.model);
  const { link, identity } = await openChild(input, onNote, () => undefined);
  return new ReopenedEngine(input, onNote, link, identity);
}

class ReopenedEngine implements EngineProcess {
  readonly record: EngineRecord;
  readonly sourceRecord: EngineRecord;
  readonly #identity: Identity;
  readonly #input: OpenInput;
  readonly #onNote: (line: string) => void;
  readonly #culprits = new Culprits<Outcome>((died) => {
    const { code, message } = engineDied(died, 'worked on this cell');
    return failedOutcome({ code, error: message });
  });
  #link: ChildLink;
  #plan: Plan | undefined;
  /** What was handed to which process last. */
  #handedOver: { readonly link: ChildLink; readonly plan: Plan } | undefined;
  #last: Promise<unknown> = Promise.resolve();
  #closed = false;

  constructor(input: OpenInput, onNote: (line: string) => void, link: ChildLink, identity: Identity) {
    const { file: _, source, ...record } = identity;
    this.record = record;
    this.sourceRecord = source;
    this.#identity = identity;
    // not anew what fits: a process that follows must compute what the first one would have
    this.#input = {
      ...input,
      engine: { ...input.engine, gpuLayers: record.gpuLayers, threads: record.threads },
      ...(input.target && { target: { ...input.target, sourceGpuLayers: source.gpuLayers } }),
    };
    this.#onNote = onNote;
    this.#link = link;
  }

  get pid(): number | undefined {
    return this.#link.isAlive ? this.#link.pid : undefined;
  }

  fit(
    file: string,
    experiment: Experiment,
    fit: MappingFit,
    { signal }: WorkOptions = {},
  ): Promise<MappingRecord> {
    return this.#alone(() => this.#ask('fitted a mapping', 'fit', { file, experiment, fit }, signal));
  }

  plan(experiment: Experiment): Promise<Plan> {
    return this.#alone(async () => {
      const plan = await this.#ask('made the plan', 'plan', experiment);
      this.#plan = plan;
      this.#handedOver = { link: this.#link, plan };
      return plan;
    });
  }

  usePlan(plan: Plan): void {
    this.#plan = plan;
  }

  run(chunk: number, { signal }: WorkOptions = {}): Promise<Outcome[]> {
    return this.#alone(() => {
      const [begin, end] = chunkRange(this.#known(), chunk);
      const all = Array.from({ length: end - begin }, (_, i) => begin + i);
      return this.#goAround(
        all,
        (link, cells) =>
          cells === all ? link.ask('run', chunk, signal) : link.ask('runCells', cells, signal),
        signal,
      );
    });
  }

  runCells(cells: readonly number[], { signal }: WorkOptions = {}): Promise<Outcome[]> {
    return this.#alone(() =>
      this.#goAround(cells, (link, part) => link.ask('runCells', part, signal), signal),
    );
  }

  /** Where the process dies it is tried once more, since the cause may have come from outside. */
  probe(unit: number, known: readonly number[] | null, { signal }: WorkOptions = {}): Promise<Probe[]> {
    return this.#alone(async () => {
      const attempt = () =>
        this.#attempt(this.#known(), (link) => link.ask('probe', { unit, known }, signal), signal);
      const first = await attempt();
      const result = 'died' in first ? await attempt() : first;
      if ('died' in result) throw engineDied(result.died, 'captured the states of a probe');
      return [...result.outcomes];
    });
  }

  tolerance(rows: number, cacheLayout: CacheLayout = 'unified'): Promise<number | null> {
    return this.#alone(() => this.#ask('measured its own tolerance', 'tolerance', { rows, cacheLayout }));
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#link.kill();
    await this.#last.catch(() => undefined);
  }

  #known(): Plan {
    if (this.#plan === undefined) throw new TypeError('Expected a plan before any of its cells.');
    return this.#plan;
  }

  #goAround(
    cells: readonly number[],
    work: (link: ChildLink, part: readonly number[]) => Promise<Outcome[]>,
    signal: AbortSignal | undefined,
  ): Promise<Outcome[]> {
    const plan = this.#known();
    return this.#culprits.goAround(cells, (part) => this.#attempt(plan, (link) => work(link, part), signal));
  }

  async #attempt<T>(
    plan: Plan,
    work: (link: ChildLink) => Promise<T[]>,
    signal?: AbortSignal,
  ): Promise<Attempt<T>> {
    signal?.throwIfAborted();
    const link = await this.#alive();
    try {
      const { link: planned, plan: known } = this.#handedOver ?? {};
      if (planned !== link || known !== plan) await link.ask('usePlan', plan);
      this.#handedOver = { link, plan };
      return { outcomes: await work(link) };
    } catch (error) {
      if (!(error instanceof ChildDeath)) throw error;
      return { died: error.message };
    }
  }

  async #ask<Name extends TaskName>(
    did: string,
    name: Name,
    input: Tasks[Name]['input'],
    signal?: AbortSignal,
  ): Promise<Tasks[Name]['answer']> {
    const link = await this.#alive();
    return link.ask(name, input, signal).catch((error: unknown) => {
      throw error instanceof ChildDeath ? engineDied(error.message, did) : error;
    });
  }

  /** The process, or one that takes its place where it has ended. */
  async #alive(): Promise<ChildLink> {
    if (this.#closed) throw new PatchscopeError('closed', 'The engine was closed.');
    if (this.#link.isAlive) return this.#link;
    this.#onNote("The engine's process died: another one takes its place.");
    const { link, identity } = await openChild(
      this.#input,
      () => undefined,
      (started) => {
        this.#link = started;
      },
    );
    const changed = (Object.keys(identity) as (keyof Identity)[]).filter(
      (key) => !isDeepStrictEqual(identity[key], this.#identity[key]),
    );
    if (changed.length > 0) {
      await link.kill();
      throw new PatchscopeError(
        'engine_died',
        `The engine's process died, and one that was to take its place has another ${changed.join(', ')}: what it computes would not be the same.`,
      );
    }
    return link;
  }

  /** One thing at a time, so that it is known what the process died of. */
  #alone<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#last
      .catch(() => undefined)
      .then(work)
      .catch((error: unknown) => {
        throw this.#closed ? new PatchscopeError('closed', 'The engine was closed.') : error;
      });
    this.#last = turn;
    return turn;
  }
}
