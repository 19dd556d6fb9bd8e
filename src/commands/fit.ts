import type { Argv } from 'yargs';
import { engineArguments, experimentArguments, SEPARATOR, twoModelArguments } from '../cli/arguments.js';
import {
  chosenModels,
  type EngineArguments,
  EXIT,
  interruptSignal,
  note,
  print,
  withEngine,
  withEngines,
} from '../cli/session.js';
import { realNumber, wholeNumber } from '../cli/values.js';
import {
  activations,
  adaptersOf,
  defaultModel,
  type Experiment,
  fitMapping,
  formatTable,
  importLens,
  type KindOptions,
  type MappingRecord,
  type MapRecord,
  mappingKinds,
  openVectors,
  PatchscopeError,
  type ReadExperiment,
  readExperiment,
  sites,
} from '../index.js';

const own = (yargs: Argv) =>
  experimentArguments(
    yargs,
    'experiment file, or the name of one that comes with the package: its source prompts are fitted to',
  )
    .option('output', { type: 'string', demandOption: true, describe: '-o: safetensors file to write' })
    .option('kind', {
      choices: mappingKinds,
      default: 'affine' as const,
      describe:
        'affine W h + b, low-rank the same of a rank, linear W h, scale a h, mean-difference h + b, identity h (to see how far that goes), kernel on random Fourier features of h, mlp with one hidden layer',
    })
    .option('rank', { type: 'string', describe: 'of low-rank' })
    .option('features', { type: 'string', describe: 'of kernel; default: 1024' })
    .option('bandwidth', {
      type: 'string',
      describe: 'of kernel: distance of states that are alike; default: their median distance',
    })
    .option('hidden', { type: 'string', describe: 'of mlp: floats between its layers; default: 1024' })
    .option('activation', { choices: activations, describe: 'of mlp; default: silu' })
    .option('epochs', { type: 'string', describe: 'of mlp: how often it sees each pair; default: 100' })
    .option('rate', { type: 'string', describe: 'of mlp: size of its first steps; default: 0.003' })
    .option('variant', { type: 'string', describe: 'variant whose layers are mapped to each other' })
    .option('target-site', {
      choices: sites.filter((site) => site !== 'embed'),
      describe: "site to map to, where it is not the one that is patched: final_norm, as in the paper's code",
    })
    .option('all-positions', {
      type: 'boolean',
      default: false,
      describe: "all tokens of the source prompts but BOS, not the samples' positions alone",
    })
    .option('ridge', {
      type: 'string',
      describe:
        'keeps weights small: a part of the median sum of squares of a float of the source states; default: 0, of kernel 0.001',
    })
    .option('held-out', {
      type: 'string',
      default: '0.1',
      describe: 'share of the prompts to judge the maps by',
    })
    .option('from', {
      type: 'string',
      describe:
        'safetensors file of a published tuned lens (0.weight, 0.bias, 1.weight, ...): nothing is fitted, its weights are taken',
    })
    .option('residual', {
      type: 'boolean',
      default: true,
      describe: '--no-residual: those of --from are W and b of W h + b, not A and b of h + A h + b',
    })
    .option('json', { type: 'boolean', default: false, describe: 'one JSON object for each map' })
    .example('$0 fit lens.yaml -o lens.safetensors', 'then, in lens.yaml: mapping: lens.safetensors')
    .example('$0 fit tuned-lens --from params.safetensors -o tuned.safetensors', 'a published lens');

const build = (yargs: Argv) =>
  engineArguments(twoModelArguments(own(yargs))).default(
    'model',
    undefined,
    `the file's, or ${defaultModel}`,
  );

export const addFit = (yargs: Argv) =>
  yargs.command(
    'fit <experiment>',
    'Fit a mapping of the source states of an experiment to states of its target layers',
    build,
    async (args) => {
      const limit = wholeNumber(args.limit, '--limit', 1);
      const { experiment, models } = readExperiment(args.experiment, {
        set: args.set?.split(SEPARATOR) ?? [],
        withoutMappings: true,
        ...(limit !== undefined && { limit }),
      });
      if (args.from !== undefined) {
        const { maps } = await imported(experiment, { ...args, from: args.from }, models);
        note(`taken   ${maps.length} maps`);
        if (args.json) print(maps.map((map) => JSON.stringify(map)).join('\n'));
        process.exitCode = EXIT.ok;
        return;
      }
      const options = {
        kind: args.kind,
        options: kindOptions(args),
        ...(args.ridge !== undefined && { ridge: realNumber(args.ridge, '--ridge') }),
        heldOut: realNumber(args.heldOut, '--held-out'),
        positions: args.allPositions ? ('all' as const) : ('sample' as const),
        ...(args.variant !== undefined && { variant: args.variant }),
        ...(args.targetSite !== undefined && { targetSite: args.targetSite }),
      };
      const chosen = { ...chosenModels(args, models), adapters: adaptersOf(experiment) };
      const signal = interruptSignal();
      const { maps, data, parameters } = await withEngines({ ...args, ...chosen }, signal, async (engines) =>
        fitMapping(await openVectors(experiment, engines, { signal }), engines.source, args.output, {
          ...options,
          ...{ target: engines.target, areInTurn: engines.areInTurn, onNote: note, signal },
        }),
      );
      note(
        `pairs   ${data.pairs.train} to fit to, ${data.pairs.heldOut} held out (${data.prompts.train} and ${data.prompts.heldOut} prompts)`,
      );
      note(`map     ${parameters} parameters`);
      print(args.json ? maps.map((map) => JSON.stringify(map)).join('\n') : tableOf(maps));
      process.exitCode = EXIT.ok;
    },
  );

interface ImportArguments extends ModelTyped, Omit<EngineArguments, 'model'> {
  readonly from: string;
  readonly residual: boolean;
  readonly output: string;
  readonly variant?: string | undefined;
}

interface ModelTyped {
  readonly model?: string | undefined;
  readonly targetModel?: string | undefined;
}

/** A lens is of one model. */
async function imported(
  experiment: Experiment,
  args: ImportArguments,
  models: ReadExperiment['models'],
): Promise<MappingRecord> {
  const { model, targetModel } = chosenModels(args, models);
  if (targetModel !== undefined) {
    throw new PatchscopeError('bad_input', 'A lens is of one model: leave --target-model out.');
  }
  return withEngine({ ...args, model }, interruptSignal(), (engine) =>
    importLens(experiment, engine, args.output, {
      ...{ from: args.from, isResidual: args.residual },
      ...(args.variant !== undefined && { variant: args.variant }),
    }),
  );
}

type Typed<T extends string> = { readonly [name in T]?: string | undefined };

/** What was given of them. */
function kindOptions(
  args: Typed<'rank' | 'features' | 'bandwidth' | 'hidden' | 'epochs' | 'rate'> & {
    readonly activation?: KindOptions['activation'] | undefined;
  },
): KindOptions {
  const real = (value: string | undefined, option: string) =>
    value === undefined ? undefined : realNumber(value, option);
  const options = {
    rank: wholeNumber(args.rank, '--rank', 1),
    features: wholeNumber(args.features, '--features', 1),
    bandwidth: real(args.bandwidth, '--bandwidth'),
    hidden: wholeNumber(args.hidden, '--hidden', 1),
    activation: args.activation,
    epochs: wholeNumber(args.epochs, '--epochs', 1),
    rate: real(args.rate, '--rate'),
  };
  return Object.fromEntries(
    Object.entries(options).filter(([, value]) => value !== undefined),
  ) as KindOptions;
}

function tableOf(maps: readonly MapRecord[]): string {
  const rounded = (value: number | null) => (value === null ? null : Number(value.toFixed(4)));
  const place = ({ site, layer }: MapRecord['source']) => (layer === 'embed' ? 'embed' : `${site} ${layer}`);
  return formatTable({
    truncated: false,
    columns: [
      'source',
      'target',
      'r2',
      'r2 held out',
      'cosine',
      'cosine held out',
      'error held out',
      'ridge',
      'condition',
    ],
    rows: maps.map(({ source, target, r2, cosine, relativeError, ridge, condition }) => [
      place(source),
      place(target),
      rounded(r2.train),
      rounded(r2.heldOut),
      rounded(cosine.train),
      rounded(cosine.heldOut),
      rounded(relativeError?.heldOut ?? null),
      ridge,
      condition === null ? null : condition.toExponential(1),
    ]),
  });
}
