import type { Argv } from 'yargs';
import { engineArguments, experimentArguments, SEPARATOR, twoModelArguments } from '../cli/arguments.js';
import { chosenModels, EXIT, interruptSignal, note, print, withEngines } from '../cli/session.js';
import { realNumber, wholeNumber } from '../cli/values.js';
import {
  defaultModel,
  fitMapping,
  formatTable,
  type MapRecord,
  mappingKinds,
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
      describe: 'affine W h + b, linear W h, scale a h, identity h (to see how far that goes)',
    })
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
      default: '0',
      describe: 'keeps weights small: a part of the median sum of squares of a float of the source states',
    })
    .option('held-out', {
      type: 'string',
      default: '0.1',
      describe: 'share of the prompts to judge the maps by',
    })
    .option('json', { type: 'boolean', default: false, describe: 'one JSON object for each map' })
    .example('$0 fit lens.yaml -o lens.safetensors', 'then, in lens.yaml: mapping: lens.safetensors');

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
      const options = {
        kind: args.kind,
        ridge: realNumber(args.ridge, '--ridge'),
        heldOut: realNumber(args.heldOut, '--held-out'),
        positions: args.allPositions ? ('all' as const) : ('sample' as const),
        ...(args.variant !== undefined && { variant: args.variant }),
        ...(args.targetSite !== undefined && { targetSite: args.targetSite }),
      };
      const chosen = chosenModels(args, models);
      const signal = interruptSignal();
      const { maps, data } = await withEngines(
        { ...args, ...chosen },
        signal,
        ({ source, target, areInTurn }) =>
          fitMapping(experiment, source, args.output, {
            ...options,
            ...(target !== source && { target, areInTurn }),
            ...{ onNote: note, signal },
          }),
      );
      note(
        `pairs   ${data.pairs.train} to fit to, ${data.pairs.heldOut} held out (${data.prompts.train} and ${data.prompts.heldOut} prompts)`,
      );
      print(args.json ? maps.map((map) => JSON.stringify(map)).join('\n') : tableOf(maps));
      process.exitCode = EXIT.ok;
    },
  );

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
