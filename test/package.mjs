// A packed package, installed into an empty project elsewhere, must work: as a command and as an import.
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const project = fs.mkdtempSync(path.join(os.tmpdir(), 'patchscopes-package-'));
const world = path.join(root, 'test', 'world', 'world.gguf');

try {
  const packed = output('npm', ['pack', '--silent', '--pack-destination', project], root).split('\n').at(-1);
  fs.writeFileSync(
    path.join(project, 'package.json'),
    '{ "name": "empty", "private": true, "type": "module" }\n',
  );
  output('npm', ['install', '--no-audit', '--no-fund', path.join(project, packed)], project);

  const cells = output(
    path.join(project, 'node_modules', '.bin', 'patchscopes'),
    `patch -m ${world} --source-ids 1,5,6 --source-position -1 --source-layer all --target-ids 1,7 --target-position -1 --target-layer same --json`.split(
      ' ',
    ),
    project,
  );
  expect(cells.split('\n').length === 6, `six cells from the command, not:\n${cells}`);
  expect(fs.existsSync(path.join(project, 'results', 'patchscopes.db')), 'the results in SQLite');

  const known = output(
    path.join(project, 'node_modules', '.bin', 'patchscopes'),
    'run known-answers --limit 4 -t 1 --quiet --no-db'.split(' '),
    project,
  );
  expect(/known-answers: (\d+) of \1 cells$/.test(known), `the known-answers experiment, but:\n${known}`);

  fs.writeFileSync(
    path.join(project, 'use.mjs'),
    `import { openEngine, resolveModel } from 'patchscopes';
const engine = await openEngine(await resolveModel(${JSON.stringify(world)}));
const [captured] = await engine.capture([{ tokenIds: [1, 5], points: [{ site: 'resid_out', layer: 0, tokenIndex: 1 }] }]);
console.log(captured.states[0].length);
await engine.close();
`,
  );
  expect(output(process.execPath, ['use.mjs'], project) === '128', 'a state of width 128 from the import');
  console.log('package: installed, command and import work');
} finally {
  fs.rmSync(project, { recursive: true });
}

function output(command, args, cwd) {
  return execFileSync(command, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] }).trim();
}

function expect(holds, what) {
  if (!holds) throw new Error(`The installed package does not give ${what}.`);
}
