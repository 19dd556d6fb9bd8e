/**
 * Causal tracing of one prompt beside a plain PyTorch hook loop, on the same weights in float32 and as many threads:
 * `npm run bench:tracing`, or with `-- 10` every tenth place for the loop, and ten times its seconds.
 */
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { openEngine, resolveModel } from '../../../src/index.js';
import { middle } from '../comparison.js';
import { REST, SEEDS, tracingRows } from '../tracing.js';
import { modelAs, modelName, someTokens } from '../workloads.js';
import { peerPython, peerWeights, scripts } from './python.js';

const PROMPT_TOKENS = 20;
const ROUNDS = 3;
const READ_ONE = { topK: 1, maxTokens: 1 };

const nth = Number(process.argv[2] ?? 1);
const tokens = someTokens(PROMPT_TOKENS, 0);
const positions = Array.from({ length: REST }, (_, i) => PROMPT_TOKENS - REST + i);
const engine = await openEngine(await modelAs('f32'), { gpu: 'off' });
const { threads } = engine.record;
const ours: number[] = [];
let rowCount = 0;
for (let round = 0; round <= ROUNDS; round++) {
  const begin = performance.now();
  const rows = await tracingRows(engine, tokens);
  await engine.patch(rows, READ_ONE);
  rowCount = rows.length;
  if (round > 0) ours.push((performance.now() - begin) / 1000); // the first one warms up
}
await engine.close();

const python = peerPython();
const weights = peerWeights(python, await resolveModel(modelName));
const job = { threads, nth, tokens, positions, noised: positions.slice(0, -1), seeds: SEEDS };
const loop = JSON.parse(
  execFileSync(python, [path.join(scripts, 'tracing.py'), weights], {
    input: JSON.stringify(job),
    encoding: 'utf8',
    env: { ...process.env, PYTHONDONTWRITEBYTECODE: '1' },
  }),
) as { readonly seconds: number; readonly rows: number };
const theirs = (loop.seconds * rowCount) / loop.rows;
const mine = middle(ours.sort((a, b) => a - b));
console.log(
  `Causal tracing, ${rowCount} runs of ${PROMPT_TOKENS} tokens, F32, ${threads} threads: patchscopes ${mine.toFixed(1)} s, a PyTorch hook loop ${theirs.toFixed(1)} s (of ${loop.rows} runs): ${(theirs / mine).toFixed(1)} times as fast.`,
);
