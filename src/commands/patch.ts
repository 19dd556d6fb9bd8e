import type { Argv } from 'yargs';
import { engineArguments, outputArguments, promptArguments } from '../cli/arguments.js';
import { echoPlan, patchJson, patchTable } from '../cli/cells.js';
import {
  checkSameModel,
  commandLine,
  interruptSignal,
  printCells,
  stored,
  withEngine,
} from '../cli/session.js';
import { dbOf, promptOf, wholeNumber } from '../cli/values.js';
import { type Experiment, makePlan, parsePosition, run, runHeader, sides } from '../index.js';

const own = (yargs: Argv) =>
  yargs
    .option('target-model', {
      type: 'string',
      describe: "the target's model, if it is another (default: --model)",
    })
    .option('source', { type: 'string', describe: 'source prompt' })
    .option('source-ids', { type: 'string', describe: 'source prompt as raw token ids' })
    .option('source-position', {
      type: 'string',
      demandOption: true,
      describe: 'index (negative from the end) or a piece of text (its last token; CEO#2 is the second CEO)',
    })
    .option('source-layer', {
      type: 'string',
      demandOption: true,
      describe: '12, -1, 0..9, embed, all, or a list of these',
    })
    .option('target', { type: 'string', describe: 'target (inspection) prompt' })
    .option('target-ids', { type: 'string', describe: 'target prompt as raw token ids' })
    .option('target-position', { type: 'string', demandOption: true, describe: 'as --source-position' })
    .option('target-layer', { type: 'string', demandOption: true, describe: 'as --source-layer, or same' })
    .option('source-side', {
      choices: sides,
      default: 'decoder' as const,
      describe: 'where source layers and position count, in an encoder-decoder model',
    })
    .option('target-side', { choices: sides, default: 'decoder' as const, describe: 'as --source-side' })
    .option('predict', { type: 'string', default: '1', describe: '-n: tokens to generate' })
    .option('top', { type: 'string', default: '5', describe: 'most probable tokens to keep' })
    .example(
      `$0 patch --source 'Diana, Princess of Wales' --source-position -1 --source-layer 0..9 --target 'Syria: Country in the Middle East, Leonardo DiCaprio: American actor, x' --target-position -1 --target-layer same -n 12`,
      'describe an entity from its hidden state, layer by layer',
    );

const build = (yargs: Argv) => engineArguments(outputArguments(promptArguments(own(yargs))));

export const addPatch = (yargs: Argv) =>
  yargs.command(
    'patch',
    'Capture a hidden state in a source prompt, patch it into a target prompt, read what comes out',
    build,
    async (args) => {
      const experiment: Experiment = {
        name: 'patch',
        samples: [
          {
            name: args.source ?? args.sourceIds ?? '',
            source: {
              prompt: promptOf(args.source, args.sourceIds, '--source', args),
              position: parsePosition(args.sourcePosition),
            },
            target: {
              prompt: promptOf(args.target, args.targetIds, '--target', args),
              position: parsePosition(args.targetPosition),
            },
          },
        ],
        sourceLayers: args.sourceLayer,
        sourceSide: args.sourceSide,
        targetLayers: args.targetLayer,
        targetSide: args.targetSide,
        mapping: { kind: 'identity' },
        reading: {
          topK: wholeNumber(args.top, '--top', 1)!,
          maxTokens: wholeNumber(args.predict, '-n', 1)!,
          stop: [],
        },
        seed: wholeNumber(args.seed, '-s', 0)!,
      };
      const signal = interruptSignal();
      await checkSameModel(args.model, args.targetModel, signal);
      process.exitCode = await withEngine(args, signal, async (engine) => {
        const plan = makePlan(experiment, engine.tokenizer, engine.record);
        echoPlan(plan);
        const cells = stored(
          run(plan, engine, { signal }),
          runHeader(plan, commandLine()),
          engine,
          dbOf(args),
        );
        return printCells(cells, {
          json: args.json,
          toJson: patchJson,
          toTable: patchTable,
          planned: plan.cells.length,
        });
      });
    },
  );
