// Runs the tests. `--all` also needs the second real model, and a model that can't be fetched is an error;
// without it, tests that lack a model are reported as not run. Other words are the test files to run.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const folder = path.dirname(fileURLToPath(import.meta.url));
const root = path.dirname(folder);
const words = process.argv.slice(2);
const all = words.includes('--all');
const named = words.filter((word) => !word.startsWith('--'));

for (const model of ['smollm2-135m-instruct', ...(all ? ['gemma-3-270m'] : [])]) {
  const { status } = spawnSync(process.execPath, [path.join(root, 'dist', 'cli.js'), 'pull', model], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  if (status === 0) continue;
  console.error(`not run: the tests that need ${model}, which could not be fetched (see above)`);
  if (all) process.exit(1);
}

const files = named.length > 0 ? named : testFiles();
const { status } = spawnSync(
  process.execPath,
  // one file at a time: two that run models at once slow each other down many times
  ['--import', 'tsx', '--test', '--test-concurrency=1', '--test-reporter=spec', ...files],
  { stdio: 'inherit', cwd: root },
);
process.exit(status ?? 1);

function testFiles() {
  return fs
    .readdirSync(folder)
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => path.join(folder, name));
}
