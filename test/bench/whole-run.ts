/** A run from the plan that is made to the rows that are stored. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import {
  openStore,
  type Plan,
  type RecordedEngine,
  type Runner,
  recordRun,
  run,
  runHeader,
} from '../../src/index.js';

export interface DoneRun {
  readonly seconds: number;
  /** By cell, in the plan's order. */
  readonly tokenIds: readonly (readonly number[])[];
}

/**
 * Into a new results file, which is removed afterwards.
 *
 * @param tokens that each cell must have, so that what is compared is the same work.
 */
export async function wholeRun(
  plan: Plan,
  runner: Runner,
  engine: RecordedEngine,
  tokens: number,
): Promise<DoneRun> {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bench-'));
  const tokenIds: (readonly number[])[] = [];
  try {
    const begin = performance.now();
    const header = runHeader(plan, { command: 'bench' });
    const openResults = () => openStore(path.join(folder, 'bench.db'));
    for await (const { observations } of recordRun(run(plan, runner), header, engine, openResults)) {
      for (const cell of observations) tokenIds.push(cell.tokenIds);
    }
    const seconds = (performance.now() - begin) / 1000;
    const short = tokenIds.filter((ids) => ids.length !== tokens).length;
    if (tokenIds.length !== plan.cellCount || short > 0) {
      throw new Error(`${short} of ${plan.cellCount} cells failed or ended early: nothing was measured.`);
    }
    return { seconds, tokenIds };
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}
