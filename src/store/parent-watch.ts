import { Worker } from 'node:worker_threads';

const watch = `
  const { workerData } = require('node:worker_threads');
  setInterval(() => {
    if (process.ppid !== workerData) process.kill(process.pid, 'SIGKILL');
  }, 250);
`;

/**
 * Ends this process when its parent has gone. It is a thread that looks, since the main thread may be inside
 * SQLite, where no event reaches it; it keeps no process alive.
 */
export function endWithParent(parent: number): void {
  new Worker(watch, { eval: true, workerData: parent }).unref();
}
