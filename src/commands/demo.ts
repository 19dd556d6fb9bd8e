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
import {
  builtInExperiment,
  defaultModel,
  type Engine,
  type Experiment,
  formatTable,
  lensRunHeader,
  makePlan,
  type Observation,
  type PageTable,
  PatchscopeError,
  planLens,
  query,
  renderPage,
  run,
  runHeader,
  runLens,
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
      const signal = interruptSignal();
      const known = await fallbackFor(args.model, args.fallback);
      const engineArgs: EngineArguments = known === undefined ? args : { ...args, model: known };
      process.exitCode = await withEngine(engineArgs, async (engine) => {
        const context = { engine, db: args.db, signal };
        const shown =
          known === undefined
            ? [await besideLens('token-identity', context), await alone('entity-description', context)]
            : [await besideLens('world-token-identity', context), await alone('known-answers', context)];
        if (signal.aborted) return EXIT.interrupted;
        for (const part of shown) printPart(part);
        writePage(args.output, shown, engine);
        print(`\nThe page with all of them: ${args.output}`);
        for (const [question, sql] of questions(shown[0]!.experiment.name)) {
          print(
            `\n${question}\n\npatchscopes sql --db ${args.db} "${sql}"\n\n${formatTable(query(args.db, sql))}`,
          );
        }
        const cells = shown.flatMap(({ methods }) => methods.flatMap(({ observations }) => observations));
        return cells.some(({ status }) => status === 'failed') ? EXIT.someFailed : EXIT.ok;
      });
    },
  );

interface Context {
  readonly engine: Engine;
  readonly db: string;
  readonly signal: AbortSignal;
}

/** The known-answers model's path, where the default model is asked for but can't be reached. */
async function fallbackFor(model: string, fallback: string | undefined): Promise<string | undefined> {
  try {
    await fetchModel(model);
    return undefined;
  } catch (error) {
    const unreachable = error instanceof PatchscopeError && error.code === 'download';
    if (!unreachable || fallback === undefined || model !== defaultModel) throw error;
    note(`${error.message} The demo goes on with the known-answers model ${fallback}.`);
    return fallback;
  }
}

async function besideLens(name: Parameters<typeof builtInExperiment>[0], context: Context): Promise<Shown> {
  const { experiment, methods } = await alone(name, context);
  const { engine, db, signal } = context;
  const prompts = experiment.samples.map((sample) => ({ name: sample.name, prompt: sample.source.prompt }));
  const plan = planLens(
    {
      prompts,
      layers: experiment.sourceLayers,
      topK: experiment.reading.topK,
      lastTokenOnly: true,
      seed: experiment.seed,
    },
    engine,
  );
  const header = lensRunHeader(plan, commandLine());
  const observations = await collect(stored(runLens(plan, engine, { signal }), header, engine, db));
  return { experiment, methods: [...methods, { name: 'logit lens', observations }] };
}

async function alone(
  name: Parameters<typeof builtInExperiment>[0],
  { engine, db, signal }: Context,
): Promise<Shown> {
  const experiment = builtInExperiment(name);
  const plan = makePlan(experiment, engine.tokenizer, engine.record);
  echoPlan(plan);
  const header = runHeader(plan, commandLine());
  const observations = await collect(stored(run(plan, engine, { signal }), header, engine, db));
  return { experiment, methods: [{ name: experiment.name.replaceAll('-', ' '), observations }] };
}

async function collect(chunks: AsyncIterable<Observation[]>): Promise<Observation[]> {
  const all: Observation[] = [];
  for await (const chunk of chunks) all.push(...chunk);
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
  print(`\n${experiment.about}\n`);
  print(
    formatTable({
      columns: [
        'layer',
        ...experiment.samples
          .slice(0, shown)
          .flatMap(({ name }) => methods.map((method, i) => (i === 0 ? name : method.name))),
      ],
      rows: rowsOf(part).map(({ layer, cells }) => [
        String(layer),
        ...cells.slice(0, shown * methods.length).map((cell) => {
          const logprob = cell?.steps[0]?.[0]?.logprob;
          return methods.length > 1 && logprob !== undefined
            ? `${quote(shownText(cell))} ${percent(logprob)}`
            : quote(shownText(cell)).slice(0, 44);
        }),
      ]),
      truncated: false,
    }),
  );
  const left = experiment.samples.length - shown;
  if (left > 0) print(`(${left} more on the page)`);
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
  try {
    fs.mkdirSync(path.dirname(path.resolve(file)), { recursive: true });
    fs.writeFileSync(file, html);
  } catch (cause) {
    throw new PatchscopeError(
      'bad_input',
      `The page ${file} could not be written: ${(cause as Error).message}.`,
      { cause },
    );
  }
}

/** Questions to the results file about the newest run of each method. */
function questions(experiment: string): readonly (readonly [string, string])[] {
  const newest = (name: string) => `(SELECT max(id) FROM run WHERE name = '${name}')`;
  return [
    [
      "From which layer on does each method say the model's own next token?",
      `WITH own AS (SELECT sample, top_token FROM reading WHERE run_id = ${newest('logit-lens')} AND source_layer = target_layer) SELECT sample, own.top_token, run_name, min(source_layer) AS first_layer FROM reading JOIN own USING (sample) WHERE run_id IN (${newest(experiment)}, ${newest('logit-lens')}) AND reading.top_token = own.top_token GROUP BY sample, run_name ORDER BY sample, first_layer`,
    ],
    [
      'How sure are the readings, by method and tenth layer?',
      `SELECT run_name, source_layer / 10 * 10 AS from_layer, count(*) AS readings, round(avg(top_probability), 3) AS mean_probability FROM reading WHERE run_id IN (${newest(experiment)}, ${newest('logit-lens')}) GROUP BY run_name, from_layer ORDER BY run_name, from_layer`,
    ],
  ];
}
