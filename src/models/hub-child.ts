/** The process in which node-llama-cpp downloads; see hub-source.ts. No addon is loaded. */
import { reason } from './watch.js';

export interface HubTask {
  readonly uri: string;
  readonly folder: string;
  /** Where not given, node-llama-cpp names the file after the URI. */
  readonly fileName?: string;
}

export type HubMessage =
  | { readonly kind: 'ready' }
  | { readonly kind: 'answered' }
  | {
      readonly kind: 'progress';
      readonly doneBytes: number;
      /** 0 until the hub has told it. */
      readonly totalBytes: number;
    }
  | { readonly kind: 'done'; readonly path: string }
  | { readonly kind: 'failed'; readonly reason: string };

const progressEveryMs = 200;

process.on('disconnect', () => process.exit());
const task: HubTask = JSON.parse(process.argv[2]!);
let answered = false;
let reportedAt = 0;

reportFirstAnswer();
try {
  const { resolveModelFile } = await import('node-llama-cpp');
  send({ kind: 'ready' });
  const path = await resolveModelFile(task.uri, {
    directory: task.folder,
    cli: false,
    deleteTempFileOnCancel: false,
    onProgress: reportProgress,
    ...(task.fileName && { fileName: task.fileName }),
  });
  send({ kind: 'done', path });
} catch (error) {
  send({ kind: 'failed', reason: reason(error) });
}

function send(message: HubMessage) {
  process.send?.(message);
}

function reportProgress(status: { totalSize: number; downloadedSize: number }) {
  if (Date.now() - reportedAt < progressEveryMs) return;
  reportedAt = Date.now();
  send({
    kind: 'progress',
    doneBytes: status.downloadedSize,
    totalBytes: status.totalSize,
  });
}

/** The downloader keeps failures to itself while it retries, so its requests are watched until the first answer. */
function reportFirstAnswer() {
  const { fetch } = globalThis;
  globalThis.fetch = async (...request) => {
    try {
      const response = await fetch(...request);
      if (!answered && (response.status === 429 || response.status >= 500))
        send({ kind: 'failed', reason: `the hub answered ${response.status}` });
      else if (!answered) send({ kind: 'answered' });
      answered = true;
      return response;
    } catch (error) {
      if (!answered)
        send({
          kind: 'failed',
          reason: `the hub could not be reached: ${reason((error as Error).cause ?? error)}`,
        });
      throw error;
    }
  };
}
