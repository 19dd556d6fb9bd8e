/** Every experiment of the package as a table for people: `npm run list` writes it to results/EXPERIMENTS.md. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { columns, experimentRow } from '../src/cli/experiment-table.js';
import { listExperiments } from '../src/experiment-file/listing.js';

const here = new URL('.', import.meta.url);

export function experimentsDocument(): string {
  return `# The experiments of the package

Written by \`npm run list\`, from the files alone: \`patchscopes list\` prints it, \`patchscopes new NAME\` writes one out.
T is the target prompt (S: the source prompt), i* its position (i: the source's), f what becomes of a state v that was taken
(h: the state that is met), M* the target's model, l* its layers (l: the source's); a layer alone means the block's output.

${experimentsTable('../')}`;
}

/** @param root of the repository, seen from where the table stands. */
export function experimentsTable(root: string): string {
  const head = [...columns, 'method', 'test'];
  const rows = listExperiments().map((experiment) => {
    const [name, ...cells] = experimentRow(experiment);
    const { method, from } = experiment;
    const test = testOf(experiment.name);
    return [
      `[${name}](${root}src/experiments/${name}.yaml)`,
      ...cells.map((cell) => (cell === '' ? '' : plain(cell))),
      [method, from].filter((part) => part !== null).join(', '),
      `[${test.replace('.test.ts', '')}](${root}test/${test})`,
    ];
  });
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |\n`;
  return [line(head), `|${'---|'.repeat(head.length)}\n`, ...rows.map(line)].join('');
}

/** As it is, whatever it would mean to Markdown. */
function plain(text: string): string {
  return text.replace(/[|*_<>\\]/g, '\\$&');
}

/** One that runs it by its name, else one that reads it, else the one that runs them all. */
function testOf(name: string): string {
  const files = readdirSync(here)
    .filter((file) => file.endsWith('.test.ts'))
    .sort();
  const holds = (call: string) => (file: string) =>
    readFileSync(new URL(file, here), 'utf8').includes(`${call}('${name}'`);
  return (
    files.find(holds('planFile')) ??
    files.find(holds('readExperiment')) ??
    files.find(holds('builtInExperiment')) ??
    'every-experiment.test.ts'
  );
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  writeFileSync(new URL('../results/EXPERIMENTS.md', here), experimentsDocument());
}
