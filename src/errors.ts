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
  | 'engine_died'
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
    const line = oneLine(message);
    super(/[.?!]$/.test(line) ? line : `${line}.`, options);
  }
}

/** What was typed may hold line breaks and signs that steer a terminal: they are written as codes. */
function oneLine(message: string): string {
  return message.replace(/\p{Cc}/gu, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, '0')}`);
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
