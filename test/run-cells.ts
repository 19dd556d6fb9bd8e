/** An experiment of the package or of a test, run on an engine from its mappings on: each cell and what came of it. */
import assert from 'node:assert/strict';
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import type { Engine } from '../src/engine.js';
import { readExperiment } from '../src/experiment-file/read-experiment.js';
import { fitMappings } from '../src/fit-mapping/fit-mappings.js';
import type { Outcome } from '../src/observation.js';
import type { Control, Experiment, Layer } from '../src/patchscope.js';
import { type Cell, cellAt, makePlan, type Plan } from '../src/plan/plan.js';
import { recordRun, runHeader } from '../src/record-run.js';
import { ChunkRunner, run } from '../src/run.js';
import { openStore } from '../src/store/store.js';
import { folder, writeFile } from './support.js';

export interface RanCell extends Cell {
  readonly outcome: Outcome;
}

export const keyOf = (layer: Layer): string => `${layer}`;

export async function planFile(name: string, engine: Engine, set: readonly string[] = []): Promise<Plan> {
  return planOf(readExperiment(name, { set }).experiment, engine);
}

/** Of the text of a file. */
export async function planText(content: object, engine: Engine): Promise<Plan> {
  return planFile(writeFile(`file ${Math.random()}.json`, JSON.stringify(content)), engine);
}

export async function planOf(experiment: Experiment, engine: Engine): Promise<Plan> {
  const fitted = await fitMappings(experiment, engine, { folder: mkdtempSync(join(folder(), 'maps-')) });
  return makePlan(fitted, engine.tokenizer, engine.record);
}

/** All cells in one go, none of which failed. */
export async function runCells(plan: Plan, engine: Engine): Promise<RanCell[]> {
  const all = Array.from({ length: plan.cellCount }, (_, i) => i);
  const outcomes = await new ChunkRunner(plan, engine).runCells(all);
  return outcomes.map((outcome, i) => {
    assert.equal(outcome.status, 'ok', outcome.error ?? '');
    return { ...cellAt(plan, i), outcome };
  });
}

/** Into a results file of its own, whose path comes back. */
export async function storeRun(plan: Plan, engine: Engine): Promise<string> {
  const db = join(mkdtempSync(join(folder(), 'run-')), 'r.db');
  const header = runHeader(plan, { command: 'test' });
  for await (const _ of recordRun(run(plan, new ChunkRunner(plan, engine)), header, engine, () =>
    openStore(db),
  ));
  return db;
}

/** The cells of a variant. */
export function ofVariant(cells: readonly RanCell[], variant: string, control: Control = 'none'): RanCell[] {
  return cells.filter((cell) => cell.pair.variant === variant && cell.control === control);
}
