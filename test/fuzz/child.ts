/** Runs one case after another, each when it is told to; may die of it. */
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { commandLines } from './arguments.js';
import { apiCalls } from './calls.js';
import type { Message, Order, Part, PartName } from './cases.js';
import { experimentFiles } from './experiments.js';
import { damagedHeaders, damagedTensors } from './files.js';
import { Random } from './random.js';

const parts: { readonly [name in PartName]: Part } = {
  headers: damagedHeaders,
  tensors: damagedTensors,
  arguments: commandLines,
  api: apiCalls,
  experiments: experimentFiles,
};

const folder = mkdtempSync(path.join(os.tmpdir(), 'patchscopes-fuzz-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
process.on('disconnect', () => process.exit());

const say = (message: Message) => process.send!(message);

process.on('unhandledRejection', (error) => {
  const detail = `a rejection that nobody can catch: ${(error as Error)?.stack ?? error}`;
  say({ kind: 'done', outcome: { kind: 'wrong', detail }, bytes: 0 });
});

process.on('message', async ({ part, seed, index }: Order) => {
  const tell = (what: string) => say({ kind: 'what', what });
  const outcome = await parts[part].run(new Random(seed, index), folder, tell);
  globalThis.gc!();
  say({ kind: 'done', outcome, bytes: process.memoryUsage.rss() });
});

say({ kind: 'ready' });
