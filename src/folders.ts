import fs from 'node:fs';
import path from 'node:path';

/**
 * Makes a folder and those above it. Node's own recursive way never ends under /proc (seen with Node 20).
 *
 * @returns the folders that were made, innermost first.
 * @throws the file system's error.
 */
export function makeFolder(folder: string): string[] {
  if (isFolder(folder)) return [];
  const parent = path.dirname(folder);
  const made = parent === folder ? [] : makeFolder(parent);
  try {
    fs.mkdirSync(folder);
  } catch (error) {
    if (isFolder(folder)) return made; // another process was quicker
    throw error;
  }
  return [folder, ...made];
}

/**
 * Whether a file could be written; nothing is left behind.
 *
 * @throws the file system's error.
 */
export function probeFile(file: string): void {
  const isNew = !fs.existsSync(file);
  const made = makeFolder(path.dirname(path.resolve(file)));
  try {
    fs.closeSync(fs.openSync(file, 'a'));
    if (isNew) fs.rmSync(file);
  } finally {
    removeEmpty(made);
  }
}

/** Removes those folders that hold nothing, in their order. */
function removeEmpty(folders: readonly string[]): void {
  for (const folder of folders) {
    if (fs.readdirSync(folder).length === 0) fs.rmdirSync(folder);
  }
}

function isFolder(folder: string): boolean {
  return fs.statSync(folder, { throwIfNoEntry: false })?.isDirectory() ?? false;
}
