/** A run and its observations, written to a results file as they come. */
import type { CacheLayout, Engine } from './engine.js';
import { PatchscopeError } from './errors.js';
import type { LensPlan } from './lens.js';
import type { Observation } from './observation.js';
import type { Plan } from './plan.js';
import type { ResolvedPrompt } from './prompts.js';
import type { RunRecord } from './store/records.js';
import type { Store, UnfinishedRun } from './store/store.js';

export interface RunHeader {
  readonly name: string;
  /** As typed. */
  readonly command: string;
  readonly experiment: object;
  readonly reading: object;
  readonly seed: number;
  readonly cacheLayout: CacheLayout;
  readonly samples: readonly {
    readonly name: string;
    readonly source: ResolvedPrompt;
    readonly target: ResolvedPrompt;
  }[];
  readonly cellsPlanned: number;
}

/** What is kept of a run of Patchscopes before its first cell. */
export function runHeader({ experiment, samples, cells }: Plan, command: string): RunHeader {
  const { name, reading, seed } = experiment;
  return {
    name,
    command,
    experiment,
    reading,
    seed,
    cacheLayout: 'unified',
    samples,
    cellsPlanned: cells.length,
  };
}

/** What is kept of a run of the logit lens, whose target is its source. */
export function lensRunHeader({ experiment, samples, cellCount }: LensPlan, command: string): RunHeader {
  return {
    name: 'logit-lens',
    command,
    experiment,
    reading: { topK: experiment.topK },
    seed: experiment.seed,
    cacheLayout: 'unified',
    samples: samples.map(({ name, prompt }) => ({ name, source: prompt, target: prompt })),
    cellsPlanned: cellCount,
  };
}

/**
 * Passes the observations on after each chunk of them is stored. The store is opened and the run begun with
 * the first chunk, so that a run that can't begin leaves nothing behind; the store is closed at the end. Where
 * it ends before all planned cells, it is marked `interrupted`; where it throws, `failed`.
 *
 * @param resumed a run that these observations go on with.
 */
export async function* recordRun(
  observations: AsyncIterable<Observation[]>,
  header: RunHeader,
  engine: Engine,
  openResults: () => Store,
  resumed?: UnfinishedRun,
): AsyncGenerator<Observation[]> {
  const startedAt = new Date();
  let store: Store | undefined;
  let runId: number | undefined;
  let stored = 0;
  if (resumed !== undefined) {
    ({ runId, cells: stored } = resumed);
    store = openResults();
    store.resumeRun(runId);
  }
  let thrown = false;
  try {
    for await (const chunk of observations) {
      if (store === undefined || runId === undefined) {
        const tolerance = await engine.tolerance(header.cellsPlanned, header.cacheLayout);
        store = openResults();
        runId = store.beginRun(runRecord(header, startedAt, engine, tolerance, store), header.samples);
      }
      store.addObservations(runId, chunk);
      stored += chunk.length;
      yield chunk;
    }
  } catch (error) {
    thrown = true;
    throw error;
  } finally {
    if (store !== undefined && runId !== undefined) {
      store.finishRun(runId, thrown ? 'failed' : stored < header.cellsPlanned ? 'interrupted' : 'done');
    }
    store?.close();
  }
}

/**
 * The newest run of this experiment, on this model and with these settings, that has not come to its end.
 *
 * @throws PatchscopeError `bad_input` where there is none, or only one with other settings.
 */
export function findUnfinishedRun(
  header: RunHeader,
  engine: Engine,
  openResults: () => Store,
): UnfinishedRun {
  const store = openResults();
  try {
    const found = store.unfinishedRun(runRecord(header, new Date(), engine, null, store));
    if (found === undefined) {
      throw new PatchscopeError(
        'bad_input',
        'There is no unfinished run of this experiment on this model to go on with: leave --resume out.',
      );
    }
    return found;
  } finally {
    store.close();
  }
}

function runRecord(
  { samples, ...run }: RunHeader,
  startedAt: Date,
  { record }: Engine,
  tolerance: number | null,
  store: Store,
): RunRecord {
  const modelId = store.addModel(record);
  return { ...run, startedAt, sourceModelId: modelId, targetModelId: modelId, engine: record, tolerance };
}
