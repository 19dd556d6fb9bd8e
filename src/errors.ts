/** What went wrong, in one word; stable, so that programs may branch on it. */
export type ErrorCode =
  | 'bad_input'
  | 'bad_model'
  | 'no_site'
  | 'out_of_memory'
  | 'no_device'
  | 'no_addon'
  | 'context_full'
  | 'edit_mismatch'
  | 'not_finite'
  | 'closed'
  | 'busy'
  | 'engine'
  | 'download'
  | 'store';

/**
 * Every failure this package reports. Misuse of the API (a wrong type, a
 * missing argument) is a `TypeError` instead.
 *
 * `message` is one sentence: what, where and what would be right.
 */
export class PatchscopeError extends Error {
  override readonly name = 'PatchscopeError';

  constructor(
    readonly code: ErrorCode,
    message: string,
    options?: { readonly cause?: unknown },
  ) {
    super(/[.?!]$/.test(message) ? message : `${message}.`, options);
  }
}

/** The one place where the addon's coded errors become ours; anything else passes unchanged. */
export function asPatchscopeError(error: unknown): unknown {
  if (error instanceof PatchscopeError || !(error instanceof Error)) return error;
  const { code } = error as { code?: unknown };
  return typeof code === 'string' && nativeCodes.has(code)
    ? new PatchscopeError(code as ErrorCode, error.message, { cause: error })
    : error;
}

const nativeCodes: ReadonlySet<string> = new Set<ErrorCode>([
  'bad_input',
  'bad_model',
  'no_site',
  'out_of_memory',
  'no_device',
  'context_full',
  'edit_mismatch',
  'not_finite',
  'closed',
  'busy',
  'engine',
]);
