/** What whole runs cost beside a bare llama.cpp loop that does the same decodes, and beside no child process. */
import {
  ChunkRunner,
  type EngineProcess,
  makePlan,
  openEngine,
  openEngineProcess,
  type Plan,
  type ResolvedModel,
  resolveModel,
} from '../../src/index.js';
import type { Comparison } from './comparison.js';
import { startRawLoop } from './raw-loop.js';
import { wholeRun } from './whole-run.js';
import { BATCH_ROWS, modelAs, modelName, W1, W2, type Workload } from './workloads.js';

interface Mode {
  /** Behind the names of its measures. */
  readonly suffix: string;
  readonly file: ResolvedModel;
  readonly exact: boolean;
  readonly atLeast?: number;
}

/** What the child process costs is looked for in few hundredths. */
const BOUNDARY_ROUNDS = 11;

export async function measureRuns(comparison: Comparison): Promise<void> {
  const file = await resolveModel(modelName);
  const q40 = await modelAs('q4_0');
  const modes: Mode[] = [
    { suffix: '', file, exact: false, atLeast: 0.9 },
    { suffix: ', exact', file, exact: true },
    { suffix: ', Q4_0', file: q40, exact: false, atLeast: 0.9 },
    { suffix: ', Q4_0, exact', file: q40, exact: true },
  ];
  for (const mode of modes) await measureMode(mode, comparison);
  await measureBoundary(file, comparison);
}

async function measureMode({ suffix, file, exact, atLeast }: Mode, comparison: Comparison): Promise<void> {
  const measures = [W1, W2]
    .map((work) => ({ work, measure: `${work.name}${suffix}, run and stored : raw loop` }))
    .filter(({ measure }) => comparison.wants(measure));
  if (measures.length === 0) return;
  const engine = await openEngineProcess({ model: file, engine: { gpu: 'off', exact } });
  const raw = await startRawLoop(file.path, engine.record.threads);
  for (const { work, measure } of measures) {
    const { rows, tokens, experiment } = work;
    const prefix = prefixOf(await engine.plan(experiment));
    await comparison.compare(
      measure,
      { ...(atLeast !== undefined && { atLeast }) },
      {
        ours: () => plannedRun(engine, work),
        theirs: () => raw.run(`rows ${prefix} ${rows} ${BATCH_ROWS} ${tokens}`),
      },
    );
  }
  raw.close();
  await engine.close();
}

/** A plan that is made anew: nothing that was captured for the last one is left. */
async function plannedRun(engine: EngineProcess, { experiment, tokens }: Workload): Promise<number> {
  const { seconds } = await wholeRun(await engine.plan(experiment), engine, engine, tokens);
  return seconds;
}

async function measureBoundary(model: ResolvedModel, comparison: Comparison): Promise<void> {
  const measure = 'W1, engine in a child process : in this process';
  if (!comparison.wants(measure)) return;
  const options = { gpu: 'off' as const };
  const child = await openEngineProcess({ model, engine: options });
  const engine = await openEngine(model, options);
  const plan = makePlan(W1.experiment, engine.tokenizer, engine.record);
  await comparison.compare(
    measure,
    { atLeast: 0.98, rounds: BOUNDARY_ROUNDS },
    {
      ours: () => plannedRun(child, W1),
      theirs: async () => (await wholeRun(plan, new ChunkRunner(plan, engine), engine, W1.tokens)).seconds,
    },
  );
  await engine.close();
  await child.close();
}

/** Tokens of the target prompt that all rows share. */
function prefixOf({ pairs }: Plan): number {
  return pairs[0]!.target.tokenIds.length - 1;
}
