import { open, realpath } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { PatchscopeError } from '../errors.js';

const splitName = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/;

/** The files of the GGUF model at `path`, in order; more than one where the model is split. Each is known to be readable. */
export async function localParts(path: string): Promise<string[]> {
  const parts = partsNamedBy(resolve(path));
  await checkFile(parts[0]!);
  const missing: string[] = [];
  for (const part of parts.slice(1))
    await checkFile(part).catch((error) => {
      if (error.cause?.code !== 'ENOENT') throw error;
      missing.push(basename(part));
    });
  if (missing.length > 0)
    throw new PatchscopeError(
      'bad_input',
      `${parts[0]} is the first of ${parts.length} parts, and beside it ${missing.join(', ')} ${missing.length === 1 ? 'is' : 'are'} missing.`,
    );
  return parts;
}

/** The files themselves, behind any symbolic links. */
export function realPaths(paths: readonly string[]): Promise<string[]> {
  return Promise.all(paths.map((path) => realpath(path)));
}

function partsNamedBy(path: string): string[] {
  const match = splitName.exec(basename(path));
  if (!match) return [path];
  const [, stem, part, count] = match;
  const named = (n: number) => join(dirname(path), `${stem}-${String(n).padStart(5, '0')}-of-${count}.gguf`);
  if (Number(part) !== 1)
    throw new PatchscopeError(
      'bad_input',
      `${path} is part ${Number(part)} of ${Number(count)}; give the path of the first, ${basename(named(1))}.`,
    );
  return Array.from({ length: Math.max(1, Number(count)) }, (_, i) => named(i + 1));
}

async function checkFile(path: string): Promise<void> {
  const magic = await readStart(path);
  if (magic.length === 0) throw new PatchscopeError('bad_model', `${path} is empty.`);
  if (magic.toString('latin1') !== 'GGUF')
    throw new PatchscopeError('bad_model', `${path} is not a GGUF file.`);
}

async function readStart(path: string): Promise<Buffer> {
  try {
    const file = await open(path);
    try {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(4), 0, 4, 0);
      return buffer.subarray(0, bytesRead);
    } finally {
      await file.close();
    }
  } catch (cause) {
    throw new PatchscopeError('bad_input', unreadable(path, cause), { cause });
  }
}

function unreadable(path: string, cause: unknown): string {
  const { code, message } = cause as NodeJS.ErrnoException;
  switch (code) {
    case 'ENOENT':
    case 'ENOTDIR':
      return `There is no file at ${path}.`;
    case 'EISDIR':
      return `${path} is a folder; give the path of a .gguf file in it.`;
    case 'EACCES':
    case 'EPERM':
      return `${path} cannot be read: permission denied.`;
    default:
      return `${path} cannot be read: ${message}.`;
  }
}
