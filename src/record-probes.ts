/** What follows the cells of a run that has a probe: each group's, stored as it comes. */
import type { WorkOptions } from './engine.js';
import type { Probe } from './observation.js';
import type { Plan } from './plan/plan.js';
import { type ProbeUnit, probeUnits } from './plan/probe-units.js';
import type { Prober } from './probing/group-prober.js';
import { unlessAborted } from './run.js';
import type { Store } from './store/store.js';

export interface ProbingOptions extends Pick<WorkOptions, 'signal'> {
  /** One line for a person: how far it is, and what could not be probed. */
  readonly onNote?: (line: string) => void;
}

export class Probing {
  readonly #plan: Plan;
  readonly #prober: Prober;
  readonly #options: ProbingOptions;
  #isDone = false;

  constructor(plan: Plan, prober: Prober, options: ProbingOptions = {}) {
    this.#plan = plan;
    this.#prober = prober;
    this.#options = options;
  }

  /** All probes of the run are stored. */
  get isDone(): boolean {
    return this.#isDone;
  }

  /** Those that are missing, once all cells are stored: they tell which facts are known. */
  async record(store: Store, runId: number): Promise<void> {
    const { signal, onNote } = this.#options;
    const done = new Set(store.probedGroups(runId).map(keyOf));
    const known = this.#plan.experiment.known === undefined ? null : store.knownSamples(runId);
    const units = probeUnits(this.#plan);
    for (const [index, unit] of units.entries()) {
      if (done.has(keyOf(unit))) continue;
      if (signal?.aborted) return;
      onNote?.(`probe   ${index + 1} of ${units.length}: ${nameOf(unit)}`);
      const probes = await this.#prober.probe(index, known, { signal }).catch(unlessAborted(signal));
      if (probes === undefined) return;
      store.addProbes(runId, probes);
      for (const probe of probes) if (probe.note !== null) onNote?.(noteOf(probe));
    }
    this.#isDone = true;
  }
}

function keyOf({ variant, group }: Pick<ProbeUnit, 'variant' | 'group'>): string {
  return JSON.stringify([variant, group]);
}

function nameOf({ variant, group }: Pick<ProbeUnit, 'variant' | 'group'>): string {
  return group === '' ? variant : `${group}, ${variant}`;
}

function noteOf(probe: Probe): string {
  const what = `${nameOf(probe)}${probe.known ? ', known facts alone' : ''}`;
  return `Warning: ${probe.predictions.length === 0 ? 'no' : 'not the whole'} probe of ${what}: ${probe.note}`;
}
