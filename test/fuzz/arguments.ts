/** Argument lists of the command line: right ones with words changed, left out, doubled and in other places. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { catalogue } from '../../src/index.js';
import { writeTinyModel } from '../fixtures/models.js';
import { isSentence, type Outcome, type Part } from './cases.js';
import type { Random } from './random.js';

const cli = new URL('../../dist/cli.js', import.meta.url);

/** A process takes a third of a second to start, so most lists run in this one. */
const SPAWNED = 0.02;

/** `{model}` is a path. */
const examples: readonly (readonly string[])[] = [
  'patch|--source|the cat is|--source-position|-1|--source-layer|0..1|--target|a b x|--target-position|x|--target-layer|same|-n|2|--json',
  'patch|--source-ids|1,70,71|--source-position|2|--source-layer|all|--target-ids|1,72|--target-position|-1|--target-layer|embed,-1|--top|3',
  'lens|--prompt|the cat|--layer|all|--top|2|--json',
  'lens|--prompt|the cat|--db|results/a.db|-c|64|-t|1|-fa|off|-ctk|f32|-ngl|0',
  'sql|SELECT * FROM run|--json',
  'sql|SELECT count(*) FROM observation|--csv|--db|results/a.db',
  'pull|no-such-model',
  'pull',
  'convert|{model}|--to|f32|-o|out.gguf',
  'demo|-o|page.html|--db|results/a.db',
  '--help',
  'patch|--help',
  '--version',
].map((line) => line.split('|'));

const words: readonly string[] = [
  ...new Set(examples.flat()),
  ...[
    '',
    ' ',
    '-',
    '--',
    '---',
    '-1',
    '0',
    '-0',
    '0..',
    '9..0',
    '0..99',
    'embed',
    '1e3',
    '0x10',
    '0.5',
    '2147483648',
  ],
  ...[
    '99999999999999999999',
    'NaN',
    'null',
    '"',
    "'",
    '`',
    '\\',
    '\n',
    '\0',
    'ü',
    '\u{1f408}',
    '\ud800',
    '=',
    '%s',
    '*',
  ],
  ...[
    '--no-bos',
    '--no-db',
    '--no-json',
    '--chat',
    '--special',
    '--exact',
    '--json=1',
    '--gpu',
    'off',
    '--gpu=x',
    '--db',
  ],
  ...[
    '-x',
    '-h',
    '--hlep',
    '--source=',
    '--top',
    '--seed',
    '-s',
    '-1.5',
    'hf:',
    'hf:x',
    '/',
    '.',
    '..',
    '/dev/null',
    'x.gguf',
  ],
  ...[
    'x'.repeat(10_000),
    '1,'.repeat(2000),
    '--constructor',
    '__proto__',
    '--__proto__',
    '--a.b',
    'SELECT',
    'DROP TABLE run',
  ],
];

/** At `cwd`: whatever is written without a path of its own lands there. */
function draw(random: Random): string[] {
  const list = [...random.pick(examples)];
  for (let i = 1 + random.below(3); i > 0; i--) change(list, random);
  return list.filter((word) => !fetches(word));
}

function change(list: string[], random: Random): void {
  const at = random.below(list.length + 1);
  switch (random.below(5)) {
    case 0:
      list.splice(at, 1);
      return;
    case 1:
      list.splice(at, 0, random.pick(words));
      return;
    case 2:
      list.splice(at, 0, ...list.slice(0, 1 + random.below(3)));
      return;
    case 3:
      if (at < list.length) list[at] = scrambled(list[at]!, random);
      return;
    default:
      list.splice(at, 1, random.pick(words));
  }
}

function scrambled(word: string, random: Random): string {
  const letters = [...word];
  letters.splice(random.below(letters.length + 1), random.below(2), random.pick([...'-=.,#\'"\\09xä\0\n']));
  return letters.join('');
}

/** What would be looked for on the network. */
const fetches = (word: string): boolean => Object.hasOwn(catalogue, word) || /hf:[^/]+\//.test(word);

interface Ended {
  readonly code: number | null;
  readonly signal: string | null;
  readonly stderr: string;
}

export const commandLines: Part = {
  async run(random, folder, tell) {
    const model = path.join(folder, 'llama.gguf');
    const cwd = path.join(folder, 'cwd');
    if (!existsSync(model)) writeTinyModel('llama', model);
    mkdirSync(cwd, { recursive: true });
    process.env.PATCHSCOPES_CACHE = path.join(folder, 'cache');
    const typed = draw(random).map((word) => (word === '{model}' ? model : word));
    // in front of all, where no other option can take it for its value: without it a model would be fetched
    const list = ['-m', model, ...typed];
    tell(typed.map((word) => JSON.stringify(word.slice(0, 60))).join(' '));
    // a process is given no such words
    const spawned = random.chance(SPAWNED) && !typed.some((word) => word.includes('\0'));
    const ended = spawned ? spawn(list, cwd) : await runHere(list, cwd);
    if (random.chance(0.1)) rmSync(cwd, { recursive: true, force: true });
    return judge(ended);
  },
};

function judge({ code, signal, stderr }: Ended): Outcome {
  const wrong = (what: string): Outcome => ({ kind: 'wrong', detail: `${what}: ${stderr.slice(-600)}` });
  if (signal !== null || code === null) return wrong(`ended by ${signal}`);
  if (/^ {4}at /m.test(stderr)) return wrong('a stack trace');
  if (code > 2) return wrong(`exit code ${code}`);
  if (code !== 2) return { kind: 'accepted', detail: String(code) };
  const last = stderr.trimEnd().split('\n').at(-1)!;
  return last.startsWith('patchscopes: ') && isSentence(last)
    ? { kind: 'refused', detail: last }
    : wrong('not one sentence');
}

function spawn(list: readonly string[], cwd: string): Ended {
  const { status, signal, stderr } = spawnSync(process.execPath, [fileURLToPath(cli), ...list], {
    cwd,
    encoding: 'utf8',
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  return { code: status, signal, stderr };
}

let runs = 0;

/** The program reads its arguments when it is loaded, so it is loaded anew; what it stands on is kept. */
async function runHere(list: readonly string[], cwd: string): Promise<Ended> {
  const { argv, exitCode } = process;
  const write = process.stderr.write;
  const before = process.cwd();
  const interrupts = process.listeners('SIGINT');
  let stderr = '';
  process.stderr.write = (text: string | Uint8Array) => {
    stderr += typeof text === 'string' ? text : Buffer.from(text).toString();
    return true;
  };
  process.argv = [process.execPath, fileURLToPath(cli), ...list];
  process.exitCode = 0;
  process.chdir(cwd);
  try {
    await import(`${cli.href}?${runs++}`);
    return { code: Number(process.exitCode), signal: null, stderr };
  } finally {
    process.stderr.write = write;
    process.argv = argv;
    process.exitCode = exitCode;
    process.chdir(before);
    for (const listener of process.listeners('SIGINT')) {
      if (!interrupts.includes(listener)) process.removeListener('SIGINT', listener);
    }
  }
}
