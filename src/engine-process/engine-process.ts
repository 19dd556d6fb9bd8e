/**
 * An engine in a process of its own: plans and chunks go in, outcomes come out, states stay inside. llama.cpp
 * ends its process where others would return an error; a run outlives that here.
 */
import { isDeepStrictEqual } from 'node:util';
import type { EngineRecord, WorkOptions } from '../engine.js';
import { PatchscopeError } from '../errors.js';
import type { Outcome } from '../observation.js';
import type { Experiment } from '../patchscope.js';
import { chunkRange, type Plan } from '../plan/plan.js';
import { failedOutcome, type Runner } from '../run.js';
import { ChildDeath, ChildLink } from './child-link.js';
import { type Attempt, withoutCulprits } from './culprits.js';
import type { OpenInput, TaskName, Tasks } from './messages.js';
import { type PackedOutcomes, unpackOutcomes } from './packed-outcomes.js';

export interface EngineProcessOptions extends OpenInput {
  /** One line for a person. */
  readonly onNote?: (line: string) => void;
}

export interface EngineProcess extends Runner {
  readonly record: EngineRecord;
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
  /** As the engine's. */
  tolerance(rows: number): Promise<number | null>;
  /** Idempotent; work under way ends with code `closed`. */
  close(): Promise<void>;
}

/** A run ends at so many cells that end the process: each of them costs some loads of the model. */
const MOST_CULPRITS = 32;
/** The same while nothing at all has come out of the engine. */
const MOST_CULPRITS_ALONE = 3;

/** @throws PatchscopeError as `openEngine` does, and `engine_died` where the process ends while it opens the model. */
export async function openEngineProcess({
  onNote = () => undefined,
  ...input
}: EngineProcessOptions): Promise<EngineProcess> {
  const { link, record } = await openChild(input, onNote, () => undefined);
  return new ReopenedEngine(input, onNote, link, record);
}

async function openChild(
  input: OpenInput,
  onNote: (line: string) => void,
  onStart: (link: ChildLink) => void,
) {
  const link = new ChildLink(onNote);
  onStart(link);
  try {
    return { link, record: await link.ask('open', input) };
  } catch (error) {
    await link.kill();
    throw error instanceof ChildDeath ? engineDied(error.message, 'opened the model') : error;
  }
}

function engineDied(died: string, did: string): PatchscopeError {
  return new PatchscopeError('engine_died', `The engine's process died while it ${did}: it ${died}`);
}

class ReopenedEngine implements EngineProcess {
  readonly record: EngineRecord;
  readonly #input: OpenInput;
  readonly #onNote: (line: string) => void;
  #link: ChildLink;
  #plan: Plan | undefined;
  /** Where the plan has been handed to. */
  #planned: ChildLink | undefined;
  #last: Promise<unknown> = Promise.resolve();
  #closed = false;
  #culprits = 0;
  #hasWorked = false;

  constructor(input: OpenInput, onNote: (line: string) => void, link: ChildLink, record: EngineRecord) {
    this.record = record;
    // not anew what fits: a process that follows must compute what the first one would have
    this.#input = {
      ...input,
      engine: { ...input.engine, gpuLayers: record.gpuLayers, threads: record.threads },
    };
    this.#onNote = onNote;
    this.#link = link;
  }

  get pid(): number | undefined {
    return this.#link.isAlive ? this.#link.pid : undefined;
  }

  plan(experiment: Experiment): Promise<Plan> {
    return this.#alone(async () => {
      const plan = await this.#ask('made the plan', 'plan', experiment);
      this.usePlan(plan);
      this.#planned = this.#link;
      return plan;
    });
  }

  usePlan(plan: Plan): void {
    this.#plan = plan;
    this.#planned = undefined;
  }

  run(chunk: number, { signal }: WorkOptions = {}): Promise<Outcome[]> {
    return this.#alone(() => {
      const plan = this.#plan;
      if (plan === undefined) throw new TypeError('Expected a plan before one of its chunks.');
      const [begin, end] = chunkRange(plan, chunk);
      const all = Array.from({ length: end - begin }, (_, i) => begin + i);
      return withoutCulprits(
        all,
        (cells) =>
          this.#attempt(
            plan,
            (link) => (cells === all ? link.ask('run', chunk, signal) : link.ask('runCells', cells, signal)),
            signal,
          ),
        (died) => this.#giveUp(died),
      );
    });
  }

  tolerance(rows: number): Promise<number | null> {
    return this.#alone(() => this.#ask('measured its own tolerance', 'tolerance', rows));
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#link.kill();
    await this.#last.catch(() => undefined);
  }

  async #attempt(
    plan: Plan,
    work: (link: ChildLink) => Promise<PackedOutcomes>,
    signal?: AbortSignal,
  ): Promise<Attempt<Outcome>> {
    signal?.throwIfAborted();
    const link = await this.#alive();
    try {
      if (this.#planned !== link) await link.ask('usePlan', plan);
      this.#planned = link;
      const outcomes = unpackOutcomes(await work(link));
      this.#hasWorked = true;
      return { outcomes };
    } catch (error) {
      if (!(error instanceof ChildDeath)) throw error;
      return { died: error.message };
    }
  }

  async #ask<Name extends TaskName>(
    did: string,
    name: Name,
    input: Tasks[Name]['input'],
  ): Promise<Tasks[Name]['answer']> {
    const link = await this.#alive();
    return link.ask(name, input).catch((error: unknown) => {
      throw error instanceof ChildDeath ? engineDied(error.message, did) : error;
    });
  }

  /** The process, or one that takes its place where it has ended. */
  async #alive(): Promise<ChildLink> {
    if (this.#closed) throw new PatchscopeError('closed', 'The engine was closed.');
    if (this.#link.isAlive) return this.#link;
    this.#onNote("The engine's process died: another one takes its place.");
    const { link, record } = await openChild(
      this.#input,
      () => undefined,
      (started) => {
        this.#link = started;
      },
    );
    const changed = Object.entries(this.record).filter(
      ([key, value]) => !isDeepStrictEqual(value, record[key as keyof EngineRecord]),
    );
    if (changed.length > 0) {
      await link.kill();
      throw new PatchscopeError(
        'engine_died',
        `The engine's process died, and one that was to take its place has another ${changed.map(([key]) => key).join(', ')}: what it computes would not be the same.`,
      );
    }
    return link;
  }

  #giveUp(died: string): Outcome {
    this.#culprits++;
    if (this.#culprits >= (this.#hasWorked ? MOST_CULPRITS : MOST_CULPRITS_ALONE)) {
      const which = this.#hasWorked
        ? `at ${this.#culprits} cells of this run`
        : `at each of the ${this.#culprits} cells that it worked on alone`;
      throw new PatchscopeError(
        'engine_died',
        `The engine's process died ${which}, which no run goes on after; the last time it ${died}`,
      );
    }
    const { code, message } = engineDied(died, 'worked on this cell');
    return failedOutcome({ code, error: message });
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
