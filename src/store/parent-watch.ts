/**
 * A thread that ends its process when the parent has gone. The main thread may be inside SQLite, where no
 * event reaches it.
 */
import { workerData } from 'node:worker_threads';

const lookEveryMs = 250;

setInterval(() => {
  if (process.ppid !== workerData) process.kill(process.pid, 'SIGKILL');
}, lookEveryMs);
