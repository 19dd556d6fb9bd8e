/** The Python of the peers, and the weights in the form that they read, made once and kept in the cache folder. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { makeFolder, type ResolvedModel } from '../../../src/index.js';
import { cacheFolder, shortKey } from '../../../src/models/cache.js';

export const scripts = fileURLToPath(new URL('.', import.meta.url));

/** @returns the Python of a virtual environment with the packages of `requirements.txt`. */
export function peerPython(): string {
  const requirements = path.join(scripts, 'requirements.txt');
  const environment = folderOf(`python-${shortKey(fs.readFileSync(requirements, 'utf8'))}`);
  const python = path.join(environment, 'bin', 'python');
  makeOnce(environment, () => {
    note('Installing the peers with pip: some gigabytes, once.');
    call('python3', ['-m', 'venv', environment]);
    call(python, ['-m', 'pip', 'install', '--quiet', '--requirement', requirements]);
  });
  return python;
}

/** @returns a folder with all weights as float32, such as the quantized file means them. */
export function peerWeights(python: string, { path: file, sha256 }: ResolvedModel): string {
  const folder = folderOf(`weights-${sha256.slice(0, 12)}`);
  makeOnce(folder, () => {
    note('Writing the weights in float32 for the peers, once.');
    call(python, [path.join(scripts, 'weights.py'), file, folder]);
  });
  return folder;
}

export function note(line: string): void {
  process.stderr.write(`${line}\n`);
}

function folderOf(name: string): string {
  return path.join(cacheFolder(), 'bench', name);
}

/** What was broken off is made anew. */
function makeOnce(folder: string, make: () => void): void {
  const done = `${folder}.done`;
  if (fs.existsSync(done)) return;
  fs.rmSync(folder, { recursive: true, force: true });
  makeFolder(folder);
  make();
  fs.writeFileSync(done, '');
}

function call(program: string, args: readonly string[]): void {
  execFileSync(program, args, { stdio: 'pipe', maxBuffer: 2 ** 26 }); // progress is shown only where it fails
}
