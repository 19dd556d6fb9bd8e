import { createHash } from 'node:crypto';
import { homedir } from 'node:os';
import { dirname, join, posix, resolve, win32 } from 'node:path';
import { PatchscopeError } from '../errors.js';
import { makeFolder } from '../folders.js';
import { reason } from './watch.js';

/** Where and for whom the cache folder is looked up. */
export interface Surroundings {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly platform: NodeJS.Platform;
  readonly home: string;
}

/** The folder for everything that can be fetched or computed again. */
export function cacheFolder(
  { env, platform, home }: Surroundings = {
    env: process.env,
    platform: process.platform,
    home: homedir(),
  },
): string {
  const path = platform === 'win32' ? win32 : posix;
  if (env.PATCHSCOPES_CACHE) return resolve(env.PATCHSCOPES_CACHE);
  if (env.XDG_CACHE_HOME) return path.join(env.XDG_CACHE_HOME, 'patchscopes');
  if (platform === 'darwin') return path.join(home, 'Library', 'Caches', 'patchscopes');
  if (platform === 'win32')
    return path.join(env.LOCALAPPDATA || path.join(home, 'AppData', 'Local'), 'patchscopes');
  return path.join(home, '.cache', 'patchscopes');
}

/** The folder of downloaded models. */
export function modelsFolder(): string {
  return join(cacheFolder(), 'models');
}

/** Where the catalogue model `name` is kept. */
export function cachedModelPath(name: string): string {
  return join(modelsFolder(), `${name}.gguf`);
}

/**
 * Where the hash of the files at `paths` is recorded: beside a file of the
 * cache, and in the cache for a file elsewhere, whose folder is not ours to write in.
 */
export function hashRecordPath(paths: readonly string[]): string {
  const first = paths[0]!;
  if (dirname(first) === modelsFolder()) return `${first}.sha256.json`;
  return join(cacheFolder(), 'hashes', `${shortKey(paths.join('\n'))}.json`);
}

/** A file name standing for any text. */
export function shortKey(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 32);
}

/** Makes a folder of the cache, with those above it. */
export function makeCacheFolder(folder: string): void {
  try {
    makeFolder(folder);
  } catch (cause) {
    throw new PatchscopeError(
      'download',
      `The cache folder ${folder} cannot be made (${reason(cause)}); PATCHSCOPES_CACHE may name another.`,
      { cause },
    );
  }
}
