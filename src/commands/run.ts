import fs from 'node:fs';
import type { Argv } from 'yargs';
import {
  engineArguments,
  experimentArguments,
  outputArguments,
  resumeArgument,
  SEPARATOR,
  twoModelArguments,
} from '../cli/arguments.js';
import { echoPlan } from '../cli/cells.js';
import { dryRun } from '../cli/dry-run.js';
import { effectTable, repeatText } from '../cli/run-facts.js';
import {
  beQuiet,
  chosenModels,
  commandLine,
  EXIT,
  interruptSignal,
  note,
  print,
  type ResumedRun,
  resumedRun,
  stored,
  withEngineProcess,
} from '../cli/session.js';
import { dbOf, mappingsFolder, shardOf, wholeNumber } from '../cli/values.js';
import {
  adaptersOf,
  cellsIn,
  defaultModel,
  type EngineProcess,
  expectationSql,
  findUnfinishedRun,
  fitMappings,
  formatTable,
  openStore,
  PatchscopeError,
  type Plan,
  Probing,
  query,
  type RunHeader,
  readExperiment,
  run,
  runDetails,
  runHeader,
  shardChunks,
  withoutHopelessProbe,
} from '../index.js';

const own = (yargs: Argv) =>
  experimentArguments(yargs, 'experiment file (YAML or JSON), or the name of one that comes with the package')
    .option('dry-run', {
      type: 'boolean',
      default: false,
      describe: 'say what there is to do and how long it would take, and end',
    })
    .option('shard', { type: 'string', describe: 'k/n: the k-th of n parts; patchscopes merge joins them' })
    .option('states', { type: 'string', describe: 'safetensors file to keep the captured states in' })
    .option('quiet', { type: 'boolean', default: false, describe: 'warnings, errors and results only' })
    .example('$0 run token-identity', 'an experiment of the package on the default model')
    .example('$0 run my.yaml --set source.layers=0..9 --limit 100 --dry-run', 'what would it take?');

const build = (yargs: Argv) =>
  engineArguments(twoModelArguments(outputArguments(resumeArgument(own(yargs)))))
    .default('model', undefined, `the file's, or ${defaultModel}`)
    .default('seed', undefined, "the file's");

export const addRun = (yargs: Argv) =>
  yargs.command(
    'run <experiment>',
    'Run an experiment file: all samples, layers and variants of it, into a results file',
    build,
    async (args) => {
      if (args.quiet) beQuiet();
      const limit = wholeNumber(args.limit, '--limit', 1);
      const shard = shardOf(args.shard);
      const set = args.set?.split(SEPARATOR) ?? [];
      const seed = wholeNumber(args.seed, '-s', 0);
      if (seed !== undefined) set.push(`seed=${seed}`);
      const {
        experiment: asked,
        models,
        text,
        file,
      } = readExperiment(args.experiment, { set, ...(limit !== undefined && { limit }) });
      const experiment = limit === undefined ? asked : withoutHopelessProbe(asked, note);
      const chosen = { ...chosenModels(args, models), adapters: adaptersOf(experiment) };
      const db = dbOf(args);
      const signal = interruptSignal();
      const folder = mappingsFolder(db);
      const work = async (engine: EngineProcess) => {
        if (args.dryRun) {
          print(await dryRun(experiment, engine, { folder, json: args.json }));
          return EXIT.ok;
        }
        const fitted = await fitMappings(experiment, engine, { folder, signal, onNote: note });
        const plan = await engine.plan(fitted);
        echoPlan(plan);
        const chunks = shardChunks(plan, shard);
        const header = runHeader(plan, {
          command: commandLine(argumentsOfRun(process.argv.slice(2))),
          experimentSource: text,
          experimentFile: file,
          shard,
        });
        const resumed = resumedRun(args.resume, plan, header, engine, db);
        if (resumed === undefined) offerResume(header, engine, plan, db);
        const left = chunks.filter((chunk) => !resumed?.doneChunks.includes(chunk));
        const results = run(plan, engine, { signal, chunks: left });
        const probing =
          experiment.probe && shard === undefined && db !== false
            ? new Probing(plan, engine, { signal, onNote: note })
            : undefined;
        const done = await tally(stored(results, header, engine, db, resumed, probing), resumed);
        report(done, header, db, args.json);
        if (done.cells < header.cellsPlanned || probing?.isDone === false) {
          if (done.runId !== undefined) note(`To go on: the same command with --resume ${done.runId}`);
          return EXIT.interrupted;
        }
        return done.failed > 0 ? EXIT.someFailed : EXIT.ok;
      };
      const states = args.dryRun ? undefined : args.states;
      process.exitCode = await withEngineProcess({ ...args, ...chosen }, signal, work, states);
    },
  );

interface Done {
  readonly runId: number | undefined;
  readonly cells: number;
  readonly failed: number;
}

async function tally(chunks: ReturnType<typeof stored>, resumed: ResumedRun | undefined): Promise<Done> {
  let { runId, cells }: { runId: number | undefined; cells: number } = resumed ?? {
    runId: undefined,
    cells: 0,
  };
  let failed = 0;
  for await (const chunk of chunks) {
    runId = chunk.runId;
    cells += chunk.observations.length;
    failed += chunk.observations.filter(({ status }) => status === 'failed').length;
  }
  return { runId, cells, failed };
}

/** What came out, in a few lines; the rest is in the results file. */
function report({ runId, cells, failed }: Done, header: RunHeader, db: string | false, json: boolean): void {
  if (json) {
    print(
      JSON.stringify({ run: runId ?? null, name: header.name, planned: header.cellsPlanned, cells, failed }),
    );
    return;
  }
  const failures = failed > 0 ? `, ${failed} failed` : '';
  print(`run ${runId ?? '-'}  ${header.name}: ${cells} of ${header.cellsPlanned} cells${failures}`);
  if (db === false || runId === undefined) return;
  const metrics = query(
    db,
    `SELECT name AS metric, variant, source_layer, target_layer, round(value, 4) AS best, n,
        round(ci_low, 4) AS ci_low, round(ci_high, 4) AS ci_high
      FROM best_layers WHERE run_id = ${runId} AND control = 'none' ORDER BY name, variant, mapping`,
  );
  if (metrics.rows.length > 0) print(`\n${formatTable(metrics)}`);
  const { effects, repeats } = runDetails(db, { run: `${runId}` });
  if (effects.length > 0) print(`\n${effectTable(effects)}`);
  if (repeats !== null) print(`\n${repeatText(repeats)}`);
  printExpectations(db, runId);
  print(`\npatchscopes show ${runId}${db === DEFAULT_DB ? '' : ` --db ${db}`}`);
}

/** Where the truth is known: how much of it came out, and what did not. */
function printExpectations(db: string, runId: number): void {
  const columns = 'about, truth, least, most, lowest, highest, holds';
  const expected = query(db, `SELECT ${columns} FROM (${expectationSql(`${runId}`)})`);
  if (expected.rows.length === 0) return;
  const missed = expected.rows.filter((row) => row.at(-1) !== 1);
  print(`\n${expected.rows.length - missed.length} of ${expected.rows.length} expectations hold`);
  if (missed.length > 0) print(formatTable({ ...expected, rows: missed }));
}

const DEFAULT_DB = 'results/patchscopes.db';

/** Says so where an earlier run of the same experiment broke off. */
function offerResume(header: RunHeader, engine: EngineProcess, plan: Plan, db: string | false): void {
  if (db === false) return;
  const found = fittingRun(header, engine, db);
  if (found === undefined) return;
  note(
    `Run ${found.runId} of this experiment broke off after ${cellsIn(plan, found.doneChunks)} of ${header.cellsPlanned} cells: with --resume it goes on. This is a new run.`,
  );
}

/** Nothing, too, where there are only runs of other models, experiments or settings. */
function fittingRun(header: RunHeader, engine: EngineProcess, db: string) {
  try {
    return fs.existsSync(db) ? findUnfinishedRun(header, engine, () => openStore(db)) : undefined;
  } catch (error) {
    if (error instanceof PatchscopeError && error.code === 'bad_input') return undefined;
    throw error;
  }
}

/** As typed, without what says where a run is done and stored: it is the same run elsewhere. */
function argumentsOfRun(argv: readonly string[]): string[] {
  const kept: string[] = [];
  for (let i = 0; i < argv.length; i++) {
    const [, name, inline] = /^--(shard|db|resume|quiet|states|models)(=.*)?$/s.exec(argv[i]!) ?? [];
    if (name === undefined) kept.push(argv[i]!);
    else if (inline === undefined && (name !== 'resume' || /^\d+$/.test(argv[i + 1] ?? ''))) {
      if (name !== 'quiet') i++;
    }
  }
  return kept;
}
