/** Does a workload as a peer does, in processes of its own: `ours.ts MODEL W1|W2 RUNS`. */
import fs from 'node:fs';
import { openEngineProcess, resolveModel } from '../../../src/index.js';
import { middle } from '../comparison.js';
import { type DoneRun, wholeRun } from '../whole-run.js';
import { W1, W2 } from '../workloads.js';
import type { JobResult } from './job.js';

const [model, name, runCount] = process.argv.slice(2) as [string, string, string];
const { experiment, tokens } = name === 'W1' ? W1 : W2;
const engine = await openEngineProcess({ model: await resolveModel(model), engine: { gpu: 'off' } });
const runs: DoneRun[] = [];
for (let i = 0; i <= Number(runCount); i++) {
  const done = await wholeRun(await engine.plan(experiment), engine, engine, tokens);
  if (i > 0) runs.push(done); // the first one warms up
}
const result: JobResult = {
  seconds: middle(runs.map(({ seconds }) => seconds).sort((a, b) => a - b)),
  tokens: runs[0]!.tokenIds,
  peakBytes: peakBytes('self') + peakBytes(engine.pid!),
  versions: { patchscopes: engine.record.packageVersion, 'llama.cpp': engine.record.llamaCpp },
};
await engine.close();
fs.writeSync(1, JSON.stringify(result));

function peakBytes(pid: number | 'self'): number {
  const status = fs.readFileSync(`/proc/${pid}/status`, 'utf8');
  return 1024 * Number(/VmHWM:\s+(\d+)/.exec(status)![1]);
}
