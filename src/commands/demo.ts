import fs from 'node:fs';
import path from 'node:path';
import type { Argv } from 'yargs';
import { engineArguments } from '../cli/arguments.js';
import { echoPlan, percent, quote, topText } from '../cli/cells.js';
import {
  commandLine,
  type EngineArguments,
  EXIT,
  fetchModel,
  interruptSignal,
  note,
  print,
  stored,
  withEngine,
} from '../cli/session.js';
import { dbOf } from '../cli/values.js';
import {
  type BuiltInName,
  builtInExperiment,
  type ChunkResult,
  ChunkRunner,
  defaultModel,
  type Engine,
  type Experiment,
  formatTable,
  type LensPlan,
  lensRunHeader,
  makeFolder,
  makePlan,
  type Observation,
  type PageTable,
  PatchscopeError,
  type Plan,
  planLens,
  probeFile,
  query,
  renderPage,
  run,
  runHeader,
  runLens,
  type Source,
} from '../index.js';

/** Observations by method, each in columns by sample and rows by layer. */
interface Method {
  readonly name: string;
  readonly observations: readonly Observation[];
}

interface Shown {
  readonly experiment: Experiment & { readonly about: string };
  readonly methods: readonly Method[];
}

export const addDemo = (yargs: Argv) =>
  yargs.command(
    'demo',
    'Run two Patchscopes of the paper, store them, print them, and draw them on a page',
    (command) =>
      engineArguments(command)
        .option('db', {
          type: 'string',
          default: 'results/patchscopes.db',
          describe: 'SQLite file for the results',
        })
        .option('output', { type: 'string', default: 'results/demo.html', describe: '-o: page to write' })
        .option('fallback', {
          type: 'string',
          describe: 'known-answers model, used where the model cannot be fetched',
        })
        .example('$0 demo', 'the whole way, on the default model'),
    async (args) => {
      const db = dbOf(args);
      if (db === false)
        throw new PatchscopeError('bad_input', 'The demo needs a results file: leave --no-db out.');
      checkPage(args.output);
      const signal = interruptSignal();
      const known = await fallbackFor(args.model, args.fallback, signal);
      const engineArgs: EngineArguments = known === undefined ? args : { ...args, model: known };
      process.exitCode = await withEngine(engineArgs, signal, async (engine) => {
        const parts =
          known === undefined
            ? [planPart('token-identity', engine, true), planPart('entity-description', engine, false)]
            : [planPart('world-token-identity', engine, true), planPart('world-city', engine, false)];
        const shown: Shown[] = [];
        for (const part of parts) {
          if (!signal.aborted) shown.push(await runPart(part, engine, db, signal));
        }
        if (signal.aborted) return EXIT.interrupted;
        for (const part of shown) printPart(part);
        writePage(args.output, shown, engine);
        print(`\nThe page with all of them: ${args.output}`);
        for (const [question, sql] of questions(shown[0]!.experiment.name)) {
          print(`\n${question}\n\npatchscopes sql --db ${db} "${sql}"\n\n${formatTable(query(db, sql))}`);
        }
        const cells = shown.flatMap(({ methods }) => methods.flatMap(({ observations }) => observations));
        return cells.some(({ status }) => status === 'failed') ? EXIT.someFailed : EXIT.ok;
      });
    },
  );

/** Everything is planned before anything is run: what does not fit the model is refused with nothing stored. */
interface Part {
  readonly experiment: Shown['experiment'];
  readonly plan: Plan;
  readonly lensPlan: LensPlan | undefined;
}

/** The known-answers model's path, where the default model is asked for but can't be reached. */
async function fallbackFor(
  model: string,
  fallback: string | undefined,
  signal: AbortSignal,
): Promise<string | undefined> {
  try {
    await fetchModel(model, signal);
    return undefined;
  } catch (error) {
    const unreachable = error instanceof PatchscopeError && error.code === 'download';
    if (!unreachable || fallback === undefined || model !== defaultModel) throw error;
    note(`${error.message} The demo goes on with the known-answers model ${fallback}.`);
    return fallback;
  }
}

function planPart(name: BuiltInName, engine: Engine, besideLens: boolean): Part {
  const experiment = builtInExperiment(name);
  const { samples, sourceLayers: layers, reading, seed } = experiment;
  const prompts = samples.map(({ name, source }) => ({ name, prompt: promptOf(source) }));
  return {
    experiment,
    plan: makePlan(experiment, engine.tokenizer, engine.record),
    lensPlan: besideLens
      ? planLens({ prompts, layers, topK: reading.topK, lastTokenOnly: true, seed }, engine)
      : undefined,
  };
}

/** The lens reads what the Patchscope's sources read. */
function promptOf(source: Source) {
  if ('prompt' in source) return source.prompt;
  throw new TypeError('Expected the experiments of the demo to have source prompts.');
}

async function runPart(
  { experiment, plan, lensPlan }: Part,
  engine: Engine,
  db: string,
  signal: AbortSignal,
): Promise<Shown> {
  echoPlan(plan);
  const command = commandLine();
  const results = run(plan, new ChunkRunner(plan, engine), { signal });
  const patched = stored(results, runHeader(plan, { command }), engine, db);
  const methods = [{ name: experiment.name.replaceAll('-', ' '), observations: await collect(patched) }];
  if (lensPlan !== undefined) {
    const read = stored(
      runLens(lensPlan, engine, { signal }),
      lensRunHeader(lensPlan, { command }),
      engine,
      db,
    );
    methods.push({ name: 'logit lens', observations: await collect(read) });
  }
  return { experiment, methods };
}

async function collect(chunks: AsyncIterable<ChunkResult>): Promise<Observation[]> {
  const all: Observation[] = [];
  for await (const { observations } of chunks) all.push(...observations);
  return all;
}

/** Layers from above to below, samples from left to right, methods side by side. */
function rowsOf({ experiment, methods }: Shown) {
  const layers = [...new Set(methods[0]!.observations.map(({ sourceLayer }) => sourceLayer))];
  return layers.map((layer) => ({
    layer,
    cells: experiment.samples.flatMap((_, sample) =>
      methods.map(({ observations }) =>
        observations.find((cell) => cell.sample === sample && cell.sourceLayer === layer),
      ),
    ),
  }));
}

/** The text that one observation is shown by: what was generated, or why nothing was. */
function shownText(cell: Observation | undefined): string {
  if (cell === undefined) return '';
  return cell.status === 'failed' ? 'failed' : (cell.text ?? '');
}

/** As many samples as fit the terminal; the page has all. */
function printPart(part: Shown): void {
  const { experiment, methods } = part;
  const perSample = methods.length * (methods.length > 1 ? 18 : 46);
  const width = process.stdout.columns ?? 110;
  const shown = Math.max(1, Math.min(experiment.samples.length, Math.floor((width - 6) / perSample)));
  const order = methods.map(({ name }) => name).join(', then ');
  print(`\n${experiment.about}\nEach prompt: ${order}.\n`);
  print(
    formatTable({
      columns: [
        'layer',
        ...experiment.samples
          .slice(0, shown)
          .flatMap(({ name }) => methods.map((method, i) => (i === 0 ? name : `(${method.name})`))),
      ],
      rows: rowsOf(part).map(({ layer, cells }) => [
        String(layer),
        ...cells.slice(0, shown * methods.length).map((cell) => {
          const logprob = cell?.steps[0]?.[0]?.logprob;
          return methods.length > 1 && logprob !== undefined
            ? `${quote(shownText(cell))} ${percent(logprob)}`
            : shortened(quote(shownText(cell)));
        }),
      ]),
      truncated: false,
    }),
  );
  const left = experiment.samples.length - shown;
  if (left > 0) print(`(${left} more on the page)`);
}

function shortened(text: string): string {
  return text.length > 44 ? `${text.slice(0, 43)}…` : text;
}

function pageTable(part: Shown): PageTable {
  const { experiment, methods } = part;
  const own = experiment.samples.map((_, sample) => {
    const lens = methods.find(({ name }) => name === 'logit lens')?.observations;
    return lens?.filter((cell) => cell.sample === sample).at(-1)?.text;
  });
  return {
    title: experiment.name.replaceAll('-', ' '),
    about: experiment.about,
    framed: 'what the model itself says next',
    groups: experiment.samples.map(({ name }) => ({
      title: name,
      columns: methods.map((method) => method.name),
    })),
    rows: rowsOf(part).map(({ layer, cells }) => ({
      heading: String(layer),
      cells: cells.map((cell, column) => {
        const logprob = cell?.steps[0]?.[0]?.logprob;
        return {
          text: shownText(cell),
          probability: logprob === undefined ? null : Math.exp(logprob),
          detail: cell === undefined ? '' : (cell.error ?? topText(cell)),
          marked: cell?.text !== undefined && cell.text === own[Math.floor(column / methods.length)],
        };
      }),
    })),
  };
}

/** Looks at the page's place before the work, which would be for nothing if it could not be written. */
function checkPage(file: string): void {
  try {
    probeFile(file);
  } catch (cause) {
    throw new PatchscopeError(
      'bad_input',
      `The page ${file} can't be written (${(cause as NodeJS.ErrnoException).code}): name a file in a folder that is yours with -o.`,
      { cause },
    );
  }
}

function writePage(file: string, shown: readonly Shown[], { record }: Engine): void {
  const html = renderPage({
    title: 'Patchscopes: what is in a hidden state?',
    lead: "Each row is a layer of the model. Its hidden state at a prompt's last token was taken out and put into another prompt that asks what it holds; the cell shows what the model then said.",
    tables: shown.map(pageTable),
    facts: [
      ['model', `${record.name} (${record.architecture}, ${record.quantization})`],
      ['sha256', record.sha256],
      [
        'llama.cpp',
        `${record.llamaCpp}, ${record.devices.map(({ description, library }) => `${description} (${library})`).join(', ')}`,
      ],
      ['made', new Date().toISOString()],
    ],
  });
  makeFolder(path.dirname(path.resolve(file)));
  fs.writeFileSync(file, html);
}

/** Questions to the results file about the newest run of each method. */
function questions(experiment: string): readonly (readonly [string, string])[] {
  const methods = `run_name IN ('${experiment}', 'logit-lens')`;
  return [
    [
      "From which layer on does each method say the model's own next token?",
      `WITH own AS (
  SELECT sample, top_token FROM latest_reading
  WHERE run_name = 'logit-lens' AND source_layer = target_layer
)
SELECT sample, own.top_token, run_name, min(source_layer) AS first_layer
FROM latest_reading AS r JOIN own USING (sample)
WHERE ${methods} AND r.top_token = own.top_token
GROUP BY sample, run_name ORDER BY sample, first_layer`,
    ],
    [
      'How sure are the readings, by method, in tens of layers?',
      `SELECT run_name, source_layer / 10 * 10 AS from_layer, count(*) AS readings,
  round(avg(top_probability), 3) AS mean_probability
FROM latest_reading WHERE ${methods}
GROUP BY run_name, from_layer ORDER BY run_name, from_layer`,
    ],
  ];
}
