/** A thread that probes one layer after the other; see layer-threads.ts. */
import { parentPort } from 'node:worker_threads';
import { probe } from '../statistics/probe.js';
import type { LayerTask } from './layer-threads.js';

parentPort!.on('message', ({ states, labels, folds }: LayerTask) => {
  const width = states.length / labels.length;
  const rows = labels.map((_, i) => states.subarray(i * width, (i + 1) * width));
  parentPort!.postMessage(probe({ states: rows, labels, folds }).predictions);
});
