import { fork } from 'node:child_process';
import type { HubSource } from './catalogue.js';
import type { HubMessage, HubTask } from './hub-child.js';
import type { FetchRequest } from './source.js';
import type { Watch } from './watch.js';

const firstAnswerWithinMs = 7_000;
const stalledAfterMs = 60_000;

/** Fetches a catalogue model; an interrupted download goes on where it stopped. */
export function fetchFromHub(source: HubSource, { folder, watch }: FetchRequest): Promise<string> {
  return downloadFromHub({ uri: source.uri, folder, fileName: 'model.gguf' }, watch);
}

/**
 * Resolves an `hf:` URI to a file of the task's folder, downloading it first when it is not there.
 *
 * It runs in a process of its own: without a network node-llama-cpp's downloader
 * retries for minutes before it can be cancelled, and a process can be ended.
 */
export function downloadFromHub(task: HubTask, { onProgress, signal }: Watch): Promise<string> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const child = fork(new URL('./hub-child.js', import.meta.url), [JSON.stringify(task)], {
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    });
    let stderr = '';
    let timer: NodeJS.Timeout | undefined;
    let settle: (() => void) | undefined;

    function end(outcome: () => void) {
      settle ??= outcome;
      clearTimeout(timer);
      child.kill();
    }
    function giveUpAfter(ms: number, why: string) {
      clearTimeout(timer);
      if (settle) return;
      timer = setTimeout(() => end(() => reject(new Error(why))), ms);
    }
    const giveUpWhenStalled = () =>
      giveUpAfter(stalledAfterMs, `nothing arrived for ${stalledAfterMs / 1000} s`);
    const onAbort = () => end(() => reject(signal?.reason));
    signal?.addEventListener('abort', onAbort);

    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    child.on('message', (message: HubMessage) => {
      switch (message.kind) {
        case 'ready':
          return giveUpAfter(
            firstAnswerWithinMs,
            `the hub did not answer within ${firstAnswerWithinMs / 1000} s`,
          );
        case 'progress':
          onProgress?.({
            step: 'download',
            doneBytes: message.doneBytes,
            totalBytes: message.totalBytes || undefined,
          });
          return giveUpWhenStalled();
        case 'answered':
          return giveUpWhenStalled();
        case 'done':
          return end(() => resolve(message.path));
        case 'failed':
          return end(() => reject(new Error(message.reason)));
      }
    });
    child.on('error', (error) => end(() => reject(error)));
    child.on('close', () => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      const endedEarly = () =>
        reject(new Error(stderr.trim().split('\n').at(-1) || 'the downloader ended early'));
      (settle ?? endedEarly)();
    });
  });
}
