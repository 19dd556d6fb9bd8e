/**
 * Damaged models, odd calls, odd command lines and odd experiment files: `npm run fuzz -- [--seed N] [--count N] [--only PART] [--case N] [--verbose]`.
 * The same seed gives the same cases; `--case` runs one of a part alone; `--verbose` tells of all.
 */
import { parseArgs } from 'node:util';
import type { Outcome, PartName } from './cases.js';
import { type Fault, runCases, type Summary } from './runner.js';

/** Of each ten cases. */
const shares: Readonly<Record<PartName, number>> = {
  headers: 3,
  tensors: 3,
  arguments: 1,
  api: 2,
  experiments: 1,
};
const names = Object.keys(shares) as PartName[];

/** Cases until the allocator has its pools; after that, its moods and what a thousand cases may add. */
const WARM_UP = 200;
const MOODS_MIB = 24;
const GROWTH_MIB = 8;

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    count: { type: 'string', default: '10000' },
    only: { type: 'string' },
    case: { type: 'string' },
    verbose: { type: 'boolean', default: false },
  },
});

const [seed, count] = [whole(values.seed, '--seed'), whole(values.count, '--count')];
const only = values.only as PartName | undefined;
if (only !== undefined && !names.includes(only)) fail(`--only takes one of ${names.join(', ')}.`);
if (values.case !== undefined && only === undefined) fail('--case needs --only.');

const summaries: Summary[] = [];
for (const part of only === undefined ? names : [only]) {
  const cases = only === undefined ? Math.round((count * shares[part]) / 10) : count;
  const indexes = values.case === undefined ? Array(cases).keys() : [whole(values.case, '--case')];
  const since = performance.now();
  const summary = await runCases(part, seed, indexes, report, show);
  summaries.push(summary);
  const { accepted, refused, faults } = summary;
  const of = (kind: Fault['kind']) => faults.filter((fault) => fault.kind === kind).length;
  console.log(
    `${part.padEnd(11)} ${summary.cases} cases in ${Math.round((performance.now() - since) / 1000)} s: ${accepted} accepted, ${refused} refused, ${of('wrong')} wrong, ${of('death')} deaths, ${of('hang')} hangs, ${growth(summary).toFixed(1)} MiB more at the end`,
  );
}

// each command line is a process of its own otherwise, and Node keeps every copy of a program loaded anew
const grown = summaries.filter(
  (summary) =>
    summary.part !== 'arguments' && growth(summary) > MOODS_MIB + (GROWTH_MIB * summary.cases) / 1000,
);
for (const { part } of grown) console.error(`${part}: the process that runs the cases grows`);
process.exitCode = grown.length > 0 || summaries.some(({ faults }) => faults.length > 0) ? 1 : 0;

function report({ part, index, kind, what, detail }: Fault): void {
  console.error(
    `${kind}  npm run fuzz -- --seed ${seed} --only ${part} --case ${index}\n  ${what}\n  ${detail}`,
  );
}

function show(index: number, what: string, { kind, detail }: Outcome): void {
  if (values.verbose) console.log(`${index}  ${what}\n  ${kind} ${detail}`);
}

/** MiB: the middle of the last quarter against that of the first after warming up. */
function growth({ bytes }: Summary): number {
  const seen = bytes.slice(bytes.lastIndexOf(0) + 1).slice(WARM_UP);
  const quarter = Math.floor(seen.length / 4);
  if (quarter < 50) return 0;
  const middle = (list: readonly number[]) => list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)]!;
  return (middle(seen.slice(-quarter)) - middle(seen.slice(0, quarter))) / 2 ** 20;
}

function whole(text: string, option: string): number {
  if (!/^\d+$/.test(text)) fail(`${option} is '${text}' where a whole number is needed.`);
  return Number(text);
}

function fail(message: string): never {
  console.error(message);
  process.exit(2);
}
