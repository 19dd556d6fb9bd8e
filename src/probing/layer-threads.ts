/** The probe of several layers, spread over threads: a fit takes seconds, and nothing else may wait for it. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';

/** Compiled, from src too: what reads TypeScript in tests does not reach into threads. */
const program = new URL('../../dist/probing/layer-thread.js', import.meta.url);

/** The states of some samples at one layer. */
export interface LayerTask {
  /** (samples, width) row-major. They move to the thread. */
  readonly states: Float32Array<ArrayBuffer>;
  readonly labels: readonly string[];
  readonly folds: readonly number[];
}

/**
 * The class found for each sample at each layer.
 *
 * @param threads that work at once, at most.
 * @throws the signal's reason, as an AbortError, once all threads have ended.
 */
export async function probeLayers(
  tasks: readonly LayerTask[],
  threads: number,
  signal?: AbortSignal,
): Promise<(readonly string[])[]> {
  const found = new Array<readonly string[]>(tasks.length);
  const open = tasks.entries();
  const work = async () => {
    const worker = new Worker(program);
    try {
      for (const [i, task] of open) {
        const answered = once(worker, 'message', { signal });
        worker.postMessage(task, [task.states.buffer]);
        [found[i]] = (await answered) as [readonly string[]];
      }
    } finally {
      await worker.terminate();
    }
  };
  const ends = await Promise.allSettled(Array.from({ length: Math.min(threads, tasks.length) }, work));
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
  return found;
}
