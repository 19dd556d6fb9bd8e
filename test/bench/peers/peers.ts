/**
 * The same jobs by other tools, on the same weights in float32 and as many threads: `npm run bench:peers`
 * prints a table. The machine must have nothing else to do. To try it out, `-- 10` gives the peers every tenth
 * cell, and takes ten times their seconds.
 */
import { execFileSync } from 'node:child_process';
import os from 'node:os';
import path from 'node:path';
import { makePlan, openEngine, resolveModel } from '../../../src/index.js';
import { modelAs, modelName, W1, W2, type Workload } from '../workloads.js';
import { type Job, type JobResult, jobOf } from './job.js';
import { note, peerPython, peerWeights, scripts } from './python.js';

/** Equal most probable tokens of W1, below which the tools do not compute the same. */
const LEAST_AGREEMENT = 0.98;

const nth = Number(process.argv[2] ?? 1);
const file = await resolveModel(modelName);
const python = peerPython();
const weights = peerWeights(python, file);
const f32 = await modelAs('f32');
const jobs = await jobsOf([W1, W2]);

interface Row {
  readonly tool: string;
  readonly way: string;
  readonly results: ReadonlyMap<Workload, JobResult>;
  /** Its cells are every n-th one. */
  readonly nth: number;
}

const ours: Row[] = [];
for (const [way, { path: model }] of [
  ['Q4_0', await modelAs('q4_0')],
  ['Q4_1', file],
  ['F32', f32],
] as const) {
  ours.push({ tool: 'patchscopes', way, results: await each((work) => runOurs(model, work)), nth: 1 });
}
const exact = ours.at(-1)!;
const peers: Row[] = [];
for (const [tool, way, shown] of [
  ['hooks', 'one', 'one patch at a time'],
  ['hooks', 'batched', 'batched'],
  ['hooks', 'shared', 'batched, prefix shared by hand'],
  ['nnsight', 'one', 'one patch at a time'],
  ['nnsight', 'batched', 'batched'],
] as const) {
  const results = await each((work) => runPeer(tool, way, thinned(jobs.get(work)!, nth)));
  peers.push({ tool: tool === 'hooks' ? 'transformers, hooks' : tool, way: shown, results, nth });
}

const rows = [...ours, ...peers];
console.log(
  [
    ['tool', 'way', 'W1, s', 'W2, s', 'peak, MB', 'top-1 of W1 as ours in F32', 'tokens of W2'],
    Array.from({ length: 7 }, () => '---'),
    ...rows.map((row) => [
      row.tool,
      row.way,
      ...[W1, W2].map((work) => (row.nth * row.results.get(work)!.seconds).toFixed(2)),
      megabytes(row).toFixed(0),
      ...[W1, W2].map((work) => `${(100 * agreement(row, work)).toFixed(1)} %`),
    ]),
  ]
    .map((cells) => `| ${cells.join(' | ')} |`)
    .join('\n'),
);
const versions = Object.assign(
  {},
  ...rows.flatMap(({ results }) => [...results.values()].map((r) => r.versions)),
);
console.log(
  `\n${[
    Object.entries(versions)
      .map(([name, version]) => `${name} ${version}`)
      .join(', '),
    `${jobs.get(W1)!.threads} threads`,
    os.cpus()[0]!.model.trim(),
    new Date().toISOString().slice(0, 10),
  ].join('; ')}`,
);
const most = Math.max(...ours.filter(({ way }) => way !== 'F32').map(megabytes));
const least = Math.min(...peers.map(megabytes));
console.log(
  `Our peak memory on the quantized files is ${(most / least).toFixed(2)} of the least peer's (wanted: under 0.50).`,
);
const unlike = peers.filter((row) => agreement(row, W1) < LEAST_AGREEMENT);
if (unlike.length > 0) {
  throw new Error(
    `Not the same computation, so no comparison: ${unlike.map(({ tool, way }) => `${tool} ${way}`)}.`,
  );
}

/** The plans' cells, which do not depend on the type of the weights. */
async function jobsOf(works: readonly Workload[]): Promise<ReadonlyMap<Workload, Job>> {
  const engine = await openEngine(f32, { gpu: 'off' });
  const { tokenizer, record } = engine;
  const made = works.map(
    (work) => [work, jobOf(makePlan(work.experiment, tokenizer, record), work, record.threads)] as const,
  );
  await engine.close();
  return new Map(made);
}

function thinned(job: Job, nth: number): Job {
  return { ...job, cells: job.cells.filter((_, i) => i % nth === 0) };
}

async function each(run: (work: Workload) => JobResult): Promise<ReadonlyMap<Workload, JobResult>> {
  return new Map([W1, W2].map((work) => [work, run(work)] as const));
}

function runOurs(model: string, work: Workload): JobResult {
  const result = execFileSync(process.execPath, [
    ...process.execArgv,
    path.join(scripts, 'ours.ts'),
    model,
    work.name,
    nth === 1 ? '3' : '1',
  ]);
  return told(`patchscopes, ${path.basename(model)}, ${work.name}`, result);
}

function runPeer(tool: string, way: string, job: Job): JobResult {
  const result = execFileSync(python, [path.join(scripts, 'peer.py'), weights, tool, way], {
    input: JSON.stringify(job),
    stdio: 'pipe',
    maxBuffer: 2 ** 26,
    env: { ...process.env, PYTHONDONTWRITEBYTECODE: '1' },
  });
  return told(`${tool}, ${way}, ${job.tokens} tokens of ${job.cells.length} cells`, result);
}

function told(what: string, output: Buffer): JobResult {
  const result = JSON.parse(output.toString()) as JobResult;
  note(`${what}: ${result.seconds.toFixed(2)} s, ${(result.peakBytes / 1e6).toFixed(0)} MB`);
  return result;
}

function megabytes({ results }: Row): number {
  return Math.max(...[...results.values()].map(({ peakBytes }) => peakBytes)) / 1e6;
}

/** The share of tokens that are those of our run in float32. */
function agreement({ results, nth }: Row, work: Workload): number {
  const expected = exact.results.get(work)!.tokens.filter((_, i) => i % nth === 0);
  const found = results.get(work)!.tokens;
  const equal = found.flatMap((tokens, i) => tokens.map((token, k) => token === expected[i]![k]));
  return equal.filter(Boolean).length / equal.length;
}
