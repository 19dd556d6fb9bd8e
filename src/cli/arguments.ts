/** The command line as people type it, made fit for yargs, and the options that commands share. */
import type { Argv } from 'yargs';
import { gpuChoices, modelsChoices, nearest } from '../index.js';

/** llama.cpp's spellings with one dash, which yargs would read as bundles of letters. */
const llamaSpellings: Readonly<Record<string, string>> = {
  '-ngl': '--gpu-layers',
  '-sm': '--split-mode',
  '-fa': '--flash-attn',
  '-ctk': '--cache-type-k',
  '-ctv': '--cache-type-v',
  '--n-gpu-layers': '--gpu-layers',
  '--n-predict': '--predict',
};

const letters: Readonly<Record<string, string>> = {
  '-m': '--model',
  '-n': '--predict',
  '-c': '--ctx-size',
  '-t': '--threads',
  '-s': '--seed',
  '-o': '--output',
  '-h': '--help',
};

const spellings = new Map([...Object.entries(letters), ...Object.entries(llamaSpellings)]);

/** Options without a value. */
const switches = new Set([
  'json',
  'csv',
  'bos',
  'chat',
  'special',
  'exact',
  'all-positions',
  'residual',
  'at-generated',
  'dry-run',
  'quiet',
  'yes',
  'help',
  'version',
]);

/** Options that are switches of other commands only. */
const valuedAt: Readonly<Record<string, readonly string[]>> = { report: ['csv'] };

/** Options that take all words up to the next option. */
const lists = new Set(['--compare']);

/**
 * Binds each option to its value (`--name="value"`), so that values may begin with a dash: layers and
 * positions count from the end, and prompts hold anything. yargs takes off exactly one pair of quotes.
 */
export function bindValues(argv: readonly string[]): string[] {
  const bound: string[] = [];
  const repeated = new Map<string, string[]>();
  const valued = valuedAt[argv[0] ?? ''] ?? [];
  const isSwitch = (name: string) => switches.has(name) && !valued.includes(name);
  for (let i = 0; i < argv.length; i++) {
    const [, typed, inline] = /^(--[a-z][a-z-]*)=(.*)$/s.exec(argv[i]!) ?? [undefined, argv[i]!, undefined];
    const name = spellings.get(typed!) ?? typed!;
    const next = argv[i + 1];
    const mayTakeValue = /^--[a-z]/.test(name) && !name.startsWith('--no-') && !isSwitch(name.slice(2));
    const takesValue = mayTakeValue && (name !== '--resume' || /^\d+$/.test(next ?? ''));
    const value = inline ?? (takesValue ? next : undefined);
    if (value !== undefined && inline === undefined) i++;
    if (value === undefined) bound.push(name);
    else if (repeatable.has(name)) {
      const values = [value];
      while (lists.has(name) && i + 1 < argv.length && !argv[i + 1]!.startsWith('-')) values.push(argv[++i]!);
      repeated.set(name, [...(repeated.get(name) ?? []), ...values]);
    } else bound.push(`${name}="${value}"`);
  }
  for (const [name, values] of repeated) bound.push(`${name}="${values.join(SEPARATOR)}"`);
  return bound;
}

/** Options that may be given more than once; yargs is told to take the last of all others. */
const repeatable = new Set(['--set', '--compare', '--mapping']);
/** ASCII's unit separator, which nobody types. */
export const SEPARATOR = '\u001f';

/** What yargs says of a mistake, as one sentence. */
export function usageSentence(
  message: string,
  argv: readonly string[],
  commands: readonly string[],
  help: string,
): string {
  const unknown = unknownWords(argv, commands, help);
  if (unknown !== undefined) return unknown;
  const command = argv.find((word) => !word.startsWith('-'));
  const [, option, given, choices] =
    /Argument: ([\w-]+), Given: "?(.*?)"?, Choices: (.*)/s.exec(message) ?? [];
  if (option !== undefined) {
    return `${shortOf(`--${option}`)} is '${given}' where one of ${choices!.replaceAll('"', '').trim()} is needed.`;
  }
  const missing = /^Missing required arguments?: (.+)$/.exec(message)?.[1];
  if (missing !== undefined) {
    return `${missing
      .split(', ')
      .map((name) => `--${name}`)
      .join(', ')} must be given: patchscopes ${command} --help shows an example.`;
  }
  if (message.startsWith('Not enough non-option arguments')) {
    const [, usage] = new RegExp(`patchscopes ${command} <(\\w+)(?:\\.\\.)?>`).exec(help) ?? [];
    return `patchscopes ${command} needs a ${usage ?? 'word more'}: patchscopes ${command} --help shows an example.`;
  }
  const extra = /^Unknown arguments?: (.+)$/s.exec(message)?.[1];
  if (extra !== undefined) return `'${extra}' is one word too many: put quotes around texts with blanks.`;
  return message;
}

/**
 * The first command or option that `help` does not name, with what was probably meant; undefined where
 * all are known.
 */
export function unknownWords(
  argv: readonly string[],
  commands: readonly string[],
  help: string,
): string | undefined {
  const [command] = argv.filter((word) => !word.startsWith('-'));
  if (command !== undefined && !commands.includes(command)) {
    return `There is no command '${command}'${meaning(command, commands)}: patchscopes --help lists them.`;
  }
  const options = [...help.matchAll(/--([a-z][a-z-]+)/g)].map(([, name]) => name!);
  const unknown = argv
    .filter((word) => word.startsWith('-') && !/^-?-?\d/.test(word))
    .map((word) => word.replace(/=.*$/s, ''))
    .find((word) => !options.includes(word.replace(/^--(no-)?/, '')));
  return unknown === undefined
    ? undefined
    : `There is no option ${unknown}${meaning(unknown.replace(/^-+/, ''), options, '--')}: patchscopes ${command ?? ''} --help lists them.`;
}

/** The spelling people know best, if there is one. */
function shortOf(option: string): string {
  return [...spellings].find(([short, long]) => long === option && !short.startsWith('--'))?.[0] ?? option;
}

function meaning(word: string, known: readonly string[], prefix = ''): string {
  const meant = nearest(word, known);
  return meant === undefined ? '' : `, perhaps ${prefix}${meant} was meant`;
}

export function twoModelArguments<T>(yargs: Argv<T>) {
  return yargs
    .option('target-model', {
      type: 'string',
      describe: "the target's model, if it is another (default: --model)",
    })
    .option('models', {
      choices: modelsChoices,
      default: 'auto' as const,
      describe: 'two models: together or in-turn in memory; auto: together where both fit',
    });
}

export function engineArguments<T>(yargs: Argv<T>) {
  return yargs
    .option('model', {
      type: 'string',
      describe: '-m: name of the catalogue, path of a .gguf file, or hf: URI',
      default: 'smollm2-135m-instruct',
    })
    .option('gpu', { choices: gpuChoices, default: 'auto' as const, describe: 'kind of GPU' })
    .option('gpu-layers', {
      type: 'string',
      default: 'auto',
      describe: '-ngl: layers on the GPU: auto (what fits), all, or a number',
    })
    .option('split-mode', {
      type: 'string',
      default: 'layer',
      describe: '-sm: layer (shared out over all GPUs) or none (one GPU)',
    })
    .option('rpc', {
      type: 'string',
      describe: 'HOST:PORT,...: workers (patchscopes worker) whose devices take layers like GPUs',
    })
    .option('ctx-size', {
      type: 'string',
      describe: '-c: cells of the K/V cache; default: what the work needs',
    })
    .option('threads', {
      type: 'string',
      describe: '-t: default: the least of physical cores, CPU affinity and container quota',
    })
    .option('flash-attn', {
      choices: ['auto', 'on', 'off'] as const,
      default: 'auto' as const,
      describe: '-fa: auto is on',
    })
    .option('cache-type-k', { type: 'string', default: 'f16', describe: '-ctk: type of the K cache' })
    .option('cache-type-v', { type: 'string', default: 'f16', describe: '-ctv: type of the V cache' })
    .option('exact', {
      type: 'boolean',
      default: false,
      describe: 'small batches, in which no cell depends on its neighbours',
    });
}

export function promptArguments<T>(yargs: Argv<T>) {
  return yargs
    .option('bos', {
      type: 'boolean',
      default: true,
      describe: '--no-bos: leave out the first token a model asks for',
    })
    .option('chat', {
      type: 'boolean',
      default: false,
      describe: "wrap texts in the model's own chat template",
    })
    .option('special', { type: 'boolean', default: false, describe: 'read special tokens in texts as such' });
}

/** How tokens are drawn; without a temperature the most probable one follows. */
export function samplingArguments<T>(yargs: Argv<T>) {
  return yargs
    .option('temp', {
      type: 'string',
      default: '0',
      describe: 'temperature of drawn tokens; 0: the most probable one follows',
    })
    .option('top-k', { type: 'string', default: '0', describe: 'draw from this many tokens; 0: from all' })
    .option('top-p', {
      type: 'string',
      default: '1',
      describe: 'draw from the most probable tokens that reach this probability together',
    });
}

/** The experiment of a command, and what changes it. */
export function experimentArguments<T>(yargs: Argv<T>, what: string) {
  return yargs
    .positional('experiment', { type: 'string', demandOption: true, describe: what })
    .option('set', {
      type: 'string',
      describe: 'key=value, as often as needed: changes the file, as --set reading.tokens=5',
    })
    .option('limit', { type: 'string', describe: 'so many samples, from the first on' });
}

export function resumeArgument<T>(yargs: Argv<T>) {
  return yargs.option('resume', {
    type: 'string',
    describe: 'go on with the newest unfinished run of these very words, or with the one of this number',
  });
}

export function outputArguments<T>(yargs: Argv<T>) {
  return yargs
    .option('seed', {
      type: 'string',
      default: '0',
      describe: '-s: what tokens are drawn with; kept in the record',
    })
    .option('json', { type: 'boolean', default: false, describe: 'one JSON object a line' })
    .option('db', {
      type: 'string',
      default: 'results/patchscopes.db',
      describe: 'SQLite file for the results; --no-db: none',
    });
}
