import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { Argv } from 'yargs';
import { engineArguments, outputArguments, promptArguments } from '../cli/arguments.js';
import { echoPlan } from '../cli/cells.js';
import { fidelityJson, fidelityOf, fidelityTable, legend, verdict } from '../cli/fidelity-table.js';
import {
  commandLine,
  EXIT,
  interruptSignal,
  note,
  print,
  stored,
  withEngineProcess,
} from '../cli/session.js';
import { dbOf, wholeNumber } from '../cli/values.js';
import { type EngineProcess, PatchscopeError, readExperiment, run, runHeader } from '../index.js';

/** So many at most, unless they are chosen, so that it takes about half a minute on a small model. */
const MOST_LAYERS = 10;

const own = (yargs: Argv) =>
  yargs
    .option('source', {
      type: 'string',
      demandOption: true,
      describe: 'prompt whose state is to be explained',
    })
    .option('source-position', {
      type: 'string',
      default: '-1',
      describe: 'index (negative from the end) or a piece of text (its last token; CEO#2 is the second CEO)',
    })
    .option('layers', {
      type: 'string',
      describe: `12, -1, 0..9, embed, all, or a list of these; default: ${MOST_LAYERS} at most, evenly over all`,
    })
    .example(
      `$0 explain -m smollm2-135m-instruct --source 'Diana, Princess of Wales'`,
      'what does the state of the last token hold, and which readings of it are to be believed?',
    );

const build = (yargs: Argv) => engineArguments(outputArguments(promptArguments(own(yargs))));

export const addExplain = (yargs: Argv) =>
  yargs.command(
    'explain',
    'Read one hidden state at each layer by several inspection prompts, and say which readings to believe',
    build,
    async (args) => {
      const { source, sourcePosition, layers, bos, chat, special } = args;
      if (source.trim() === '') {
        throw new PatchscopeError('bad_input', '--source is empty where a text is needed, such as a name.');
      }
      const set = [
        `samples.0.text=${JSON.stringify(source)}`,
        `samples.0.position=${JSON.stringify(sourcePosition)}`,
        `source.prompt=${JSON.stringify({ text: '{text}', bos, chat, special })}`,
        `seed=${wholeNumber(args.seed, '-s', 0)}`,
        ...(layers === undefined ? [] : [`source.layers=${JSON.stringify(layers)}`]),
      ];
      // before a model is loaded
      readExperiment('explain', { set });
      const db = dbOf(args);
      const signal = interruptSignal();
      process.exitCode = await withEngineProcess(args, signal, async (engine) => {
        const { layerCount } = engine.sourceRecord;
        if (layers === undefined) set.push(`source.layers=${JSON.stringify(someLayers(layerCount))}`);
        return withFile(db, (file) => explain(engine, set, file, { ...args, signal, kept: db !== false }));
      });
    },
  );

interface Explaining {
  readonly json: boolean;
  readonly signal: AbortSignal;
  /** Whether the results file stays. */
  readonly kept: boolean;
}

async function explain(
  engine: EngineProcess,
  set: readonly string[],
  db: string,
  { json, signal, kept }: Explaining,
): Promise<number> {
  const { experiment, text, file } = readExperiment('explain', { set });
  const plan = await engine.plan(experiment);
  echoPlan(plan);
  const header = runHeader(plan, { command: commandLine(), experimentSource: text, experimentFile: file });
  let runId: number | undefined;
  let cells = 0;
  let failed = 0;
  for await (const chunk of stored(run(plan, engine, { signal }), header, engine, db)) {
    runId = chunk.runId;
    cells += chunk.observations.length;
    failed += chunk.observations.filter(({ status }) => status === 'failed').length;
  }
  if (runId === undefined || cells < plan.cellCount) return EXIT.interrupted;
  const layers = fidelityOf(db, runId);
  if (json) for (const line of fidelityJson(db, runId, layers)) print(line);
  else {
    print(
      `${fidelityTable(layers, process.stdout.columns ?? 120)}\n\n${legend.join('\n')}\n\n${verdict(layers)}`,
    );
  }
  if (kept) note(`report  patchscopes report ${runId} --db ${db} -o explain.html`);
  return failed > 0 ? EXIT.someFailed : EXIT.ok;
}

/** The first layer and each so many further. */
function someLayers(count: number): number[] {
  const step = Math.ceil(count / MOST_LAYERS);
  return Array.from({ length: Math.ceil(count / step) }, (_, i) => i * step);
}

/** Cells are compared in a results file; where none is wanted, in one that goes again. */
async function withFile<T>(db: string | false, work: (file: string) => Promise<T>): Promise<T> {
  if (db !== false) return work(db);
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'patchscopes-explain-'));
  try {
    return await work(path.join(folder, 'results.db'));
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
}
