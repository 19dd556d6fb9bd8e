/** Every experiment of the package as a table for people: `npm run list` writes it into the README. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { columns, experimentRow } from '../src/cli/experiment-table.js';
import { listExperiments } from '../src/experiment-file/listing.js';

const here = new URL('.', import.meta.url);

const readme = new URL('../README.md', here);
const [begin, end] = ['<!-- patchscopes list -->\n', '<!-- end of the list -->'];

/** What stands in the README before the table, the table, and what stands behind it. */
export function readmeParts(): readonly [before: string, table: string, after: string] {
  const text = readFileSync(readme, 'utf8');
  const [from, to] = [text.indexOf(begin) + begin.length, text.indexOf(end)];
  return [text.slice(0, from), text.slice(from, to), text.slice(to)];
}

export function experimentsTable(): string {
  const head = [...columns, 'method', 'test'];
  const rows = listExperiments().map((experiment) => {
    const [name, ...cells] = experimentRow(experiment);
    const { method, from } = experiment;
    const test = testOf(experiment.name);
    return [
      `[${name}](src/experiments/${name}.yaml)`,
      ...cells.map((cell) => (cell === '' ? '' : plain(cell))),
      [method, from].filter((part) => part !== null).join(', '),
      `[${test.replace('.test.ts', '')}](test/${test})`,
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
  const [before, , after] = readmeParts();
  writeFileSync(readme, `${before}${experimentsTable()}${after}`);
}
