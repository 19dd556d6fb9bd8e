import type { Argv } from 'yargs';
import {
  engineArguments,
  outputArguments,
  promptArguments,
  resumeArgument,
  SEPARATOR,
  samplingArguments,
  twoModelArguments,
} from '../cli/arguments.js';
import { echoPlan, patchJson, patchTable, scoredTable } from '../cli/cells.js';
import {
  commandLine,
  interruptSignal,
  note,
  printCells,
  resumedRun,
  stored,
  withEngines,
} from '../cli/session.js';
import {
  adapterOf,
  continuationOf,
  dbOf,
  promptOf,
  realNumber,
  samplingOf,
  wholeNumber,
} from '../cli/values.js';
import {
  adaptersOf,
  allChunks,
  CapturedStates,
  ChunkRunner,
  type Experiment,
  editOps,
  makePlan,
  modelNotes,
  parsePosition,
  readMappings,
  run,
  runHeader,
  sides,
  sites,
} from '../index.js';

const own = (yargs: Argv) =>
  yargs
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
      describe: '12, -1, 0..9, embed, all, blocks.5.hook_attn_out, hidden_states[5], or a list of these',
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
    .option('source-site', {
      choices: sites.filter((site) => site !== 'embed'),
      default: 'resid_out' as const,
      describe: 'where in its block the state is captured',
    })
    .option('target-site', {
      choices: sites.filter((site) => site !== 'embed'),
      default: 'resid_out' as const,
      describe: 'where in its block it is patched',
    })
    .option('lora', {
      type: 'string',
      describe: 'a LoRA (.gguf) that the model reads both prompts with; FILE:SCALE multiplies what it adds',
    })
    .option('source-lora', {
      type: 'string',
      describe: 'as --lora, of the source prompt alone; none: without it',
    })
    .option('target-lora', { type: 'string', describe: 'as --source-lora, of the target prompt' })
    .option('op', {
      choices: editOps,
      default: 'replace' as const,
      describe:
        'state h becomes: replace a v, add h + a v, scale a h, mix a v + (1-a) h, norm-matched-add h + a |h| v/|v|',
    })
    .option('mapping', {
      type: 'string',
      default: 'identity',
      describe:
        'what the state goes through on its way: a file of patchscopes fit; given again, what follows it',
    })
    .option('alpha', { type: 'string', default: '1', describe: 'the a of --op' })
    .option('at-generated', {
      type: 'boolean',
      default: false,
      describe: 'patch each generated token too, not the prompt alone',
    })
    .option('predict', { type: 'string', describe: '-n: tokens to generate; default: 1' })
    .option('continuation', {
      type: 'string',
      describe: 'text whose tokens are scored behind the target prompt; nothing is generated then',
    })
    .option('top', { type: 'string', default: '5', describe: 'most probable tokens to keep' })
    .example(
      `$0 patch --source 'Diana, Princess of Wales' --source-position -1 --source-layer 0..9 --target 'Syria: Country in the Middle East, Leonardo DiCaprio: American actor, x' --target-position -1 --target-layer same -n 12`,
      'describe an entity from its hidden state, layer by layer',
    );

const build = (yargs: Argv) =>
  engineArguments(
    twoModelArguments(outputArguments(resumeArgument(samplingArguments(promptArguments(own(yargs)))))),
  );

export const addPatch = (yargs: Argv) =>
  yargs.command(
    'patch',
    'Capture a hidden state in a source prompt, patch it into a target prompt, read what comes out',
    build,
    async (args) => {
      const sampling = samplingOf(args);
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
        sourceSite: args.sourceSite,
        sourceSide: args.sourceSide,
        targetLayers: args.targetLayer,
        targetSite: args.targetSite,
        targetSide: args.targetSide,
        sourceAdapter: adapterOf(args.sourceLora ?? args.lora),
        targetAdapter: adapterOf(args.targetLora ?? args.lora),
        mapping:
          args.mapping === 'identity' ? { kind: 'identity' } : readMappings(args.mapping.split(SEPARATOR)),
        patch: { op: args.op, alpha: realNumber(args.alpha, '--alpha'), atGenerated: args.atGenerated },
        reading: {
          topK: wholeNumber(args.top, '--top', 1)!,
          maxTokens: wholeNumber(args.predict ?? '1', '-n', 1)!,
          stop: [],
          ...(sampling && { sampling }),
          ...continuationOf(args, sampling),
        },
        seed: wholeNumber(args.seed, '-s', 0)!,
      };
      const signal = interruptSignal();
      const adapters = adaptersOf(experiment);
      process.exitCode = await withEngines({ ...args, adapters }, signal, async (engine) => {
        const { source, target } = engine;
        const plan = makePlan(experiment, source.tokenizer, source.record, target);
        echoPlan(plan);
        for (const line of modelNotes(plan, engine)) note(line);
        const header = runHeader(plan, { command: commandLine() });
        const db = dbOf(args);
        const resumed = resumedRun(args.resume, plan, header, engine, db);
        const chunks = allChunks(plan).filter((chunk) => !resumed?.doneChunks.includes(chunk));
        const results = run(plan, new ChunkRunner(plan, target, new CapturedStates(plan, source)), {
          signal,
          chunks,
        });
        return printCells(stored(results, header, engine, db, resumed), {
          json: args.json,
          toJson: patchJson(plan),
          toTable: plan.continuation === undefined ? patchTable : scoredTable,
          planned: plan.cellCount - (resumed?.cells ?? 0),
        });
      });
    },
  );
