/**
 * What planning, storing, probing, statistics and the report cost of attribute-extraction over all built-in
 * relations and the full grid, beside its decodes: those would take days, and are taken for as long as a few chunks say.
 */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import {
  type EngineProcess,
  openEngineProcess,
  openStore,
  type Plan,
  Probing,
  readExperiment,
  recordRun,
  resolveModel,
  run,
  runHeader,
  writeReport,
} from '../../src/index.js';
import type { Comparison } from './comparison.js';
import { modelName } from './workloads.js';

const measure = 'attribute-extraction, planned, stored, probed and reported : its decodes alone';
/** Of several target prompts and layers. */
const DECODED_CHUNKS = 3;
const AT_LEAST = 0.9;

export async function measureExtraction(comparison: Comparison): Promise<void> {
  if (!comparison.wants(measure)) return;
  const { experiment } = readExperiment('attribute-extraction');
  const model = await resolveModel(modelName);
  const module = new URL('costless-engine.ts', import.meta.url).href;
  const costless = await openEngineProcess({ model, engine: { gpu: 'off' }, module });
  const beside = await seconds(async () => {
    await whole(costless, await costless.plan(experiment));
  });
  await costless.close();
  const engine = await openEngineProcess({ model, engine: { gpu: 'off' } });
  const decodes = await decodeSeconds(engine, await engine.plan(experiment));
  await engine.close();
  comparison.add(
    measure,
    (decodes / (decodes + beside)).toFixed(3),
    ...['', '', `at least ${AT_LEAST.toFixed(2)}`],
    `${beside.toFixed(0)} beside ${decodes.toFixed(0)}`,
  );
}

async function whole(engine: EngineProcess, plan: Plan): Promise<void> {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bench-'));
  const db = path.join(folder, 'bench.db');
  const probing = new Probing(plan, engine);
  const header = runHeader(plan, { command: 'bench' });
  const stored = recordRun(run(plan, engine), header, engine, () => openStore(db), undefined, probing);
  for await (const _ of stored);
  await writeReport(db, { output: path.join(folder, 'bench.html') });
  fs.rmSync(folder, { recursive: true });
}

async function decodeSeconds(engine: EngineProcess, plan: Plan): Promise<number> {
  const chunkCount = plan.chunkStarts.length - 1;
  const chunks = Array.from({ length: DECODED_CHUNKS }, (_, k) =>
    Math.floor(((k + 0.5) * chunkCount) / DECODED_CHUNKS),
  );
  let cells = 0;
  const taken = await seconds(async () => {
    for await (const { observations } of run(plan, engine, { chunks })) cells += observations.length;
  });
  return (taken * plan.cellCount) / cells;
}

async function seconds(work: () => Promise<void>): Promise<number> {
  const begin = performance.now();
  await work();
  return (performance.now() - begin) / 1000;
}
