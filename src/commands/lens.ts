import type { Argv } from 'yargs';
import { engineArguments, outputArguments, promptArguments } from '../cli/arguments.js';
import { lensJson, lensTable } from '../cli/cells.js';
import { commandLine, interruptSignal, printCells, stored, withEngine } from '../cli/session.js';
import { dbOf, promptOf, wholeNumber } from '../cli/values.js';
import { lensRunHeader, planLens, runLens, sites } from '../index.js';

const own = (yargs: Argv) =>
  yargs
    .option('prompt', { type: 'string', describe: 'prompt' })
    .option('prompt-ids', { type: 'string', describe: 'prompt as raw token ids' })
    .option('layer', {
      type: 'string',
      default: 'all',
      describe: '12, -1, 0..9, embed, all, or a list of these',
    })
    .option('site', {
      choices: sites.filter((site) => site !== 'embed' && site !== 'final_norm'),
      default: 'resid_out' as const,
      describe: 'where in its block a state lies',
    })
    .option('top', { type: 'string', default: '5', describe: 'most probable tokens to keep' })
    .example(`$0 lens --prompt 'The capital of France is'`, 'the logit lens at each layer and position');

const build = (yargs: Argv) => engineArguments(outputArguments(promptArguments(own(yargs))));

export const addLens = (yargs: Argv) =>
  yargs.command(
    'lens',
    'Logit lens: what the model would say next if each layer were the last',
    build,
    async (args) => {
      const prompt = promptOf(args.prompt, args.promptIds, '--prompt', args);
      const topK = wholeNumber(args.top, '--top', 1)!;
      const seed = wholeNumber(args.seed, '-s', 0)!;
      const signal = interruptSignal();
      process.exitCode = await withEngine(args, signal, async (engine) => {
        const name = args.prompt ?? args.promptIds ?? '';
        const plan = planLens(
          { prompts: [{ name, prompt }], layers: args.layer, site: args.site, topK, seed },
          engine,
        );
        const header = lensRunHeader(plan, { command: commandLine() });
        const cells = stored(runLens(plan, engine, { signal }), header, engine, dbOf(args));
        return printCells(cells, {
          json: args.json,
          toJson: lensJson(plan),
          toTable: lensTable(plan),
          planned: plan.cellCount,
        });
      });
    },
  );
