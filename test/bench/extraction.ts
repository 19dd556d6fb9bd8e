/** What planning, storing, probing and statistics cost of a run of attribute-extraction, beside its decodes alone. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import {
  type EngineProcess,
  openEngineProcess,
  openStore,
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

const measure = 'attribute-extraction, planned, stored, probed and reported : decoded alone';

/** Few target layers, so that it ends: with all of them decoding counts for many times more beside the rest. */
const { experiment } = readExperiment('attribute-extraction', {
  set: [
    'samples={data: [relations/country_currency, relations/product_by_company], subjects: 6, sentences: 1}',
    ...['target.layers=[2, 8]', 'controls={}'],
  ],
});

export async function measureExtraction(comparison: Comparison): Promise<void> {
  if (!comparison.wants(measure)) return;
  const engine = await openEngineProcess({ model: await resolveModel(modelName), engine: { gpu: 'off' } });
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bench-'));
  let round = 0;
  await comparison.compare(
    measure,
    { atLeast: 0.9, rounds: 3 },
    {
      ours: () => seconds(() => whole(engine, path.join(folder, String(round++)))),
      theirs: async () => {
        const plan = await engine.plan(experiment);
        return seconds(async () => {
          for await (const _ of run(plan, engine));
        });
      },
    },
  );
  fs.rmSync(folder, { recursive: true });
  await engine.close();
}

async function whole(engine: EngineProcess, name: string): Promise<void> {
  const [db, output] = [`${name}.db`, `${name}.html`];
  const plan = await engine.plan(experiment);
  const probing = new Probing(plan, engine);
  const header = runHeader(plan, { command: 'bench' });
  const stored = recordRun(run(plan, engine), header, engine, () => openStore(db), undefined, probing);
  for await (const _ of stored);
  await writeReport(db, { output });
}

async function seconds(work: () => Promise<void>): Promise<number> {
  const begin = performance.now();
  await work();
  return (performance.now() - begin) / 1000;
}
