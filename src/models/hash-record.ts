/**
 * SHA-256 of model files, computed once: a record says which sizes and times of
 * change the hash belongs to, and holds as long as the files still have them.
 */
import { createHash, randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { PatchscopeError } from '../errors.js';
import { reason, type Watch } from './watch.js';

/** `parts` in the order in which they were hashed as one text. */
export interface HashRecord {
  readonly sha256: string;
  readonly bytes: number;
  readonly parts: readonly FileState[];
}

interface FileState {
  readonly bytes: number;
  readonly mtimeMs: number;
}

export interface HashOptions {
  /** Bytes that differ from those recorded earlier are an error, not a new record. */
  readonly pinned?: boolean;
}

/**
 * The hash over the files at `paths`, from the record at `recordPath` when that still fits.
 * A record stays good when its files are renamed.
 */
export async function hashOnce(
  paths: readonly string[],
  recordPath: string,
  watch: Watch = {},
  { pinned = false }: HashOptions = {},
): Promise<HashRecord> {
  const parts = await statesOf(paths);
  const earlier = await readRecord(recordPath);
  if (earlier && sameParts(earlier.parts, parts)) return earlier;

  const sha256 = await sha256Of(paths, watch);
  if (!sameParts(parts, await statesOf(paths)))
    throw new PatchscopeError(
      'bad_model',
      `${paths[0]} was changed by another program while it was being read.`,
    );
  if (pinned && earlier && earlier.sha256 !== sha256)
    throw new PatchscopeError(
      'bad_model',
      `${paths[0]} has changed since it was downloaded (its sha256 was ${earlier.sha256} and is now ${sha256}); delete it together with ${basename(recordPath)} to download it again.`,
    );
  const record = { sha256, bytes: totalBytes(parts), parts };
  try {
    await writeAtomically(recordPath, JSON.stringify(record, null, '\t'));
  } catch (error) {
    watch.onNote?.(
      `The hash of ${paths[0]} could not be kept (${reason(error)}), so it is computed again next time.`,
    );
  }
  return record;
}

/** SHA-256, in hexadecimal, over the bytes of the files one after the other. */
async function sha256Of(paths: readonly string[], { onProgress, signal }: Watch = {}): Promise<string> {
  const total = totalBytes(await statesOf(paths));
  const hash = createHash('sha256');
  let doneBytes = 0;
  for (const path of paths) {
    const stream = createReadStream(path, { highWaterMark: 4 * 1024 * 1024 });
    for await (const chunk of stream) {
      signal?.throwIfAborted();
      hash.update(chunk);
      doneBytes += chunk.length;
      onProgress?.({ step: 'hash', doneBytes, totalBytes: total });
    }
  }
  return hash.digest('hex');
}

function statesOf(paths: readonly string[]): Promise<FileState[]> {
  return Promise.all(
    paths.map(async (path) => {
      const { size, mtimeMs } = await stat(path);
      return { bytes: size, mtimeMs };
    }),
  );
}

function totalBytes(parts: readonly FileState[]): number {
  return parts.reduce((sum, { bytes }) => sum + bytes, 0);
}

function sameParts(a: readonly FileState[], b: readonly FileState[]): boolean {
  return (
    a.length === b.length &&
    a.every((part, i) => part.bytes === b[i]?.bytes && part.mtimeMs === b[i]?.mtimeMs)
  );
}

/** A record that is missing or unreadable counts as never written. */
async function readRecord(path: string): Promise<HashRecord | undefined> {
  try {
    const record = JSON.parse(await readFile(path, 'utf8'));
    return typeof record.sha256 === 'string' && Array.isArray(record.parts) ? record : undefined;
  } catch {
    return undefined;
  }
}

/** Readers and other writers see the old text or the new one, never a mixture. */
async function writeAtomically(path: string, text: string): Promise<void> {
  const temporary = `${path}.${randomUUID()}.tmp`;
  await mkdir(dirname(path), { recursive: true });
  try {
    await writeFile(temporary, text, { flush: true });
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}
