import fs from 'node:fs';
import path from 'node:path';

/**
 * Makes a folder and those above it. Node's own recursive way never ends under /proc (seen with Node 20).
 *
 * @throws the file system's error.
 */
export function makeFolder(folder: string): void {
  if (fs.statSync(folder, { throwIfNoEntry: false })?.isDirectory()) return;
  const parent = path.dirname(folder);
  if (parent !== folder) makeFolder(parent);
  try {
    fs.mkdirSync(folder);
  } catch (error) {
    // another process may have made it meanwhile
    if (!fs.statSync(folder, { throwIfNoEntry: false })?.isDirectory()) throw error;
  }
}
