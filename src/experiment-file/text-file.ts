import fs from 'node:fs';
import { PatchscopeError } from '../errors.js';

/**
 * The text of a file in UTF-8, without a byte order mark.
 *
 * @param what the sentence begins with it.
 * @throws PatchscopeError `bad_input`
 */
export function readText(file: string, mostMib: number, what: string): string {
  const bad = (fault: string) => new PatchscopeError('bad_input', `${what} is '${file}', which ${fault}.`);
  const stat = attempt(() => fs.statSync(file), bad);
  if (!stat.isFile()) throw bad('is no file');
  if (stat.size > mostMib * 2 ** 20) throw bad(`is larger than ${mostMib} MiB`);
  const bytes = attempt(() => fs.readFileSync(file), bad);
  const text = decoded(bytes);
  // UTF-16 of plain English is UTF-8 too, with a zero behind each letter
  if (text === undefined || text.includes('\0')) throw bad('is not text in UTF-8: save it in that encoding');
  return text;
}

function attempt<T>(work: () => T, bad: (fault: string) => PatchscopeError): T {
  try {
    return work();
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? (cause as Error).message;
    throw bad(code === 'ENOENT' ? 'does not exist' : `can't be read (${code})`);
  }
}

function decoded(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    return undefined;
  }
}
