/** A run and its observations, written to a results file as they come. */
import type { Engine } from './engine.js';
import type { Observation } from './observation.js';
import type { ResolvedPrompt } from './prompts.js';
import type { Store } from './store/store.js';

export interface RunHeader {
  readonly name: string;
  /** As typed. */
  readonly command: string;
  readonly experiment: object;
  readonly reading: object;
  readonly seed: number;
  readonly samples: readonly {
    readonly name: string;
    readonly source: ResolvedPrompt;
    readonly target: ResolvedPrompt;
  }[];
  readonly cellsPlanned: number;
}

/**
 * Passes the observations on after each chunk of them is stored. Where it ends before all planned cells,
 * the run is marked `interrupted`; where it throws, `failed`.
 */
export async function* recordRun(
  observations: AsyncIterable<Observation[]>,
  header: RunHeader,
  engine: Engine,
  store: Store,
): AsyncGenerator<Observation[]> {
  const { samples, ...run } = header;
  const modelId = store.addModel(engine.record);
  const runId = store.beginRun(
    { ...run, sourceModelId: modelId, targetModelId: modelId, engine: engine.record },
    samples,
  );
  let stored = 0;
  let thrown = false;
  try {
    for await (const chunk of observations) {
      store.addObservations(runId, chunk);
      stored += chunk.length;
      yield chunk;
    }
  } catch (error) {
    thrown = true;
    throw error;
  } finally {
    store.finishRun(runId, thrown ? 'failed' : stored < header.cellsPlanned ? 'interrupted' : 'done');
  }
}
