import { PatchscopeError } from '../errors.js';

/** What SQLite's and the file system's codes mean to the owner of a results file; the first match counts. */
const sentences: readonly (readonly [RegExp, (path: string) => string])[] = [
  [
    /^SQLITE_(BUSY|LOCKED)/,
    (path) => `${path} is locked by another process; wait until that ends or name another file`,
  ],
  [
    /^(SQLITE_FULL$|ENOSPC$|EDQUOT$)/,
    (path) => `The disk is full: nothing more fits into ${path}; what was stored before is intact`,
  ],
  [/^SQLITE_NOTADB/, (path) => `${path} is not a SQLite database; name a results file or a new one`],
  [
    /^SQLITE_CORRUPT/,
    (path) => `${path} is damaged; save what is left with sqlite3's .recover and name another file`,
  ],
  [
    /^SQLITE_READONLY_(ROLLBACK|RECOVERY)/,
    (path) => `${path} was left in the middle of a write; the next run into it repairs it`,
  ],
  [
    /^(SQLITE_(READONLY|CANTOPEN|PERM|AUTH)|EACCES$|EPERM$|EROFS$)/,
    (path) =>
      `${path} cannot be opened: SQLite must be allowed to write to it and to its folder; change the permissions or name another file`,
  ],
  [
    /^(ENOTDIR|EEXIST|ENOENT|ENAMETOOLONG|ELOOP)$/,
    (path) => `The folder of ${path} cannot be made; name another file`,
  ],
  [
    /^(MODULE_NOT_FOUND|ERR_DLOPEN_FAILED)$/,
    (path) =>
      `${path} cannot be opened: better-sqlite3 is not installed for this version of Node; run npm install again, with optional dependencies`,
  ],
  [/^SQLITE_IOERR/, (path) => `Reading or writing ${path} failed; check its disk`],
];

/** A failure of SQLite or the file system, told as ours; anything else passes unchanged. */
export function storeError(error: unknown, path: string): unknown {
  if (error instanceof PatchscopeError || !(error instanceof Error)) return error;
  // better-sqlite3 says it of a value that is an array or another object
  if (error instanceof RangeError) return new TypeError(`A value is not one to be stored: ${error.message}.`);
  const { code } = error as { code?: unknown };
  if (typeof code !== 'string') return error;
  const sentence = sentences.find(([pattern]) => pattern.test(code))?.[1];
  if (sentence !== undefined) return new PatchscopeError('store', sentence(path), { cause: error });
  return code.startsWith('SQLITE_')
    ? new PatchscopeError('store', `SQLite refused work on ${path}: ${error.message}`, {
        cause: error,
      })
    : error;
}
