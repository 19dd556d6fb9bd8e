/** What a plan is and what it would take. */
import { type EngineProcess, formatTable, type Plan, summarize, tokensOf } from '../index.js';
import { duration } from './progress.js';

/** Tokens that are decoded to see how fast it goes. */
const CALIBRATION_TOKENS = 2048;

export async function dryRun(plan: Plan, engine: EngineProcess, json: boolean): Promise<string> {
  const { record, sourceRecord } = engine;
  const summary = summarize(plan, record, sourceRecord.embeddingSize);
  const seconds = (await secondsPerToken(plan, engine)) * (summary.sourceTokens + summary.targetTokens);
  const memoryBytes =
    record.bytes +
    (sourceRecord.sha256 === record.sha256 ? 0 : sourceRecord.bytes) +
    summary.stateBytes +
    summary.cacheTokens * record.cacheTokenBytes +
    // logits are kept in the graph and on the host
    2 * 4 * record.vocabularySize * Math.min(record.batchOutputs, record.batchRows);
  if (json) return JSON.stringify({ ...summary, planSha256: plan.sha256, memoryBytes, seconds });
  return formatTable({
    columns: ['plan', plan.experiment.name],
    rows: [
      ['samples', plan.experiment.samples.length],
      ['variants', plan.pairs.length / plan.experiment.samples.length],
      ['cells', summary.cells],
      ['distinct sources', summary.sources],
      ['distinct targets', summary.targets],
      ['chunks', summary.chunks],
      ['batches, at most', summary.batches],
      ['source tokens', summary.sourceTokens],
      ['target tokens, at most', summary.targetTokens],
      ['K/V layout', plan.cacheLayout],
      ['memory, about', `${Math.ceil(memoryBytes / 1e6)} MB`],
      ['time, about', duration(seconds)],
      ['sha256', plan.sha256],
    ].map((row) => row.map(String)),
    truncated: false,
  });
}

/** Of some neighbouring cells in the middle, once to warm up and once by the clock. */
async function secondsPerToken(plan: Plan, engine: EngineProcess): Promise<number> {
  const middle = plan.cellCount >> 1;
  const cells = [middle];
  const most = Math.min(plan.cellCount - middle, engine.record.batchRows);
  while (cells.length < most && tokensOf(plan, cells) < CALIBRATION_TOKENS) cells.push(middle + cells.length);
  await engine.runCells(cells);
  const begin = performance.now();
  await engine.runCells(cells);
  return (performance.now() - begin) / 1000 / tokensOf(plan, cells);
}
