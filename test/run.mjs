// Runs the tests. `--all` also needs the second real model, and a model that can't be fetched is an error;
// without it, tests that lack a model are reported as not run. Other words are the test files to run.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
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
const total = { tests: 0, pass: 0, fail: 0, skipped: 0 };
const failed = [];
await Promise.all(lanes().map(runLane));
for (const [what, count] of Object.entries(total)) console.log(`all ${what} ${count}`);
if (failed.length > 0) console.log(`failed: ${failed.join(' ')}`);
process.exit(failed.length > 0 ? 1 : 0);

/** The largest first, so that none is left alone at the end. */
function testFiles() {
  const size = (file) => fs.statSync(file).size;
  return fs
    .readdirSync(folder)
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => path.join(folder, name))
    .sort((a, b) => size(b) - size(a));
}

/**
 * The words before each command of a lane. A lane has a core of its own, for two that run models on the same cores
 * slow each other down many times; where processes can't be bound to cores there is one lane.
 */
function lanes() {
  const bound = spawnSync('taskset', ['-cp', String(process.pid)], { encoding: 'utf8' });
  const list = bound.status === 0 ? bound.stdout.trim().split(': ').at(-1) : '';
  const cores = list.split(',').flatMap((part) => {
    const [first, last = first] = part.split('-').map(Number);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
  const room = Math.floor(os.totalmem() / 4 / 2 ** 30);
  const many = Math.max(1, Math.min(cores.length, room, 8));
  return list === '' || many === 1
    ? [[]]
    : cores.slice(0, many).map((core) => ['taskset', '-c', String(core)]);
}

async function runLane(prefix) {
  for (let file = files.shift(); file !== undefined; file = files.shift()) {
    const words = [...prefix, process.execPath, '--import', 'tsx', '--test', '--test-reporter=spec', file];
    const child = spawn(words[0], words.slice(1), { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] });
    const parts = [];
    const begin = performance.now();
    child.stdout.on('data', (part) => parts.push(part));
    const [status] = await once(child, 'close');
    const said = Buffer.concat(parts).toString();
    const seconds = Math.round((performance.now() - begin) / 1000);
    console.log(`\n${path.relative(root, path.resolve(root, file))} (${seconds} s)\n${said.trimEnd()}`);
    for (const [, what, count] of said.matchAll(/^ℹ (tests|pass|fail|skipped) (\d+)$/gm)) {
      total[what] += Number(count);
    }
    if (status !== 0) failed.push(file);
  }
}
