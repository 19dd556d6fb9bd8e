/** What a plan is and what it would take. */
import {
  type EngineProcess,
  type Experiment,
  formatTable,
  type Plan,
  plannedFits,
  readFitted,
  summarize,
  tokensOf,
  withMappings,
} from '../index.js';
import { echoPlan } from './cells.js';
import { duration } from './progress.js';

/** Tokens that are decoded to see how fast it goes. */
const CALIBRATION_TOKENS = 2048;

/** What costs as much, and needs no mapping. */
const unmapped = { mapping: { kind: 'identity' }, patch: { op: 'scale' } } as const;

/** @param folder where mappings are looked for; where one is still to be fitted nothing is patched. */
export async function dryRun(
  experiment: Experiment,
  engine: EngineProcess,
  { folder, json }: { readonly folder: string; readonly json: boolean },
): Promise<string> {
  const { record, sourceRecord } = engine;
  const fits = plannedFits(experiment, engine, folder).map((fit) => ({ ...fit, found: readFitted(fit) }));
  const ofVariant = new Map(fits.map(({ variant, found }) => [variant, found]));
  const plan = await engine.plan(
    withMappings(experiment, (variant) => {
      const mapping = ofVariant.get(variant);
      return mapping === undefined ? unmapped : { mapping };
    }),
  );
  echoPlan(plan);
  const isWhole = fits.every(({ found }) => found !== undefined);
  const summary = summarize(plan, record, sourceRecord.embeddingSize);
  const seconds = (await secondsPerToken(plan, engine)) * (summary.sourceTokens + summary.targetTokens);
  const memoryBytes =
    record.bytes +
    (sourceRecord.sha256 === record.sha256 ? 0 : sourceRecord.bytes) +
    summary.stateBytes +
    summary.cacheTokens * record.cacheTokenBytes +
    // logits are kept in the graph and on the host
    2 * 4 * record.vocabularySize * Math.min(record.batchOutputs, record.batchRows);
  if (json) {
    const mappings = fits.map(({ variant, file, experiment: { samples }, fit, found }) => ({
      ...{ variant, file, kind: fit.kind, prompts: samples.length, isFitted: found !== undefined },
    }));
    const planSha256 = isWhole ? plan.sha256 : null;
    return JSON.stringify({ ...summary, planSha256, memoryBytes, seconds, mappings });
  }
  return formatTable({
    columns: ['plan', plan.experiment.name],
    rows: [
      ['samples', plan.experiment.samples.length],
      ['variants', plan.pairs.length / plan.experiment.samples.length],
      ['cells', summary.cells],
      ['cells that are run twice', summary.repeatedCells],
      ['distinct sources', summary.sources],
      ['distinct targets', summary.targets],
      ['chunks', summary.chunks],
      ['batches, at most', summary.batches],
      ['source tokens', summary.sourceTokens],
      ['target tokens, at most', summary.targetTokens],
      ['K/V layout', plan.cacheLayout],
      ...cutRows(plan),
      ['memory, about', `${Math.ceil(memoryBytes / 1e6)} MB`],
      ...fits.map(({ variant, fit, experiment: { samples }, found }) => [
        `mapping of ${variant}`,
        `${fit.kind}, ${found === undefined ? `to be fitted to ${samples.length} prompts` : 'there'}`,
      ]),
      ['time, about', `${duration(seconds)}${isWhole ? '' : ', and the fits'}`],
      ['sha256', isWhole ? plan.sha256 : 'told by the fitted mappings'],
    ].map((row) => row.map(String)),
    truncated: false,
  });
}

/** What is cut in the first sample, variant by variant: positions and layers. */
function cutRows({ pairs }: Plan): [string, string][] {
  return pairs
    .filter(({ sample }) => sample === 0)
    .flatMap(({ variant, cuts = [] }) =>
      cuts.map(({ from, to, layers, atGenerated }): [string, string] => {
        const queries = [...(from.length > 0 ? [from.join(' ')] : []), ...(atGenerated ? ['generated'] : [])];
        return [
          `attention cut, ${variant}`,
          `from ${queries.join(' and ')} to ${to.join(' ')}, layers ${'around' in layers ? `${layers.around} around the target layer` : layers.join(' ')}`,
        ];
      }),
    );
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
