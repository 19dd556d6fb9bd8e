/** One question put to an engine, and its answer. */

export interface SelfCheck {
  readonly check: string;
  readonly status: 'ok' | 'failed' | 'skipped';
  /** What was measured, in words. */
  readonly text: string;
  /** Null where nothing could be measured. */
  readonly measured: number | null;
  readonly relation: 'at most' | 'more than' | 'at least';
  readonly bound: number | null;
}

type Relation = SelfCheck['relation'];

const holds: Readonly<Record<Relation, (measured: number, bound: number) => boolean>> = {
  'at most': (measured, bound) => measured <= bound,
  'more than': (measured, bound) => measured > bound,
  'at least': (measured, bound) => measured >= bound,
};

/** No number keeps no bound. */
export function judged(
  check: string,
  text: string,
  measured: number,
  relation: Relation,
  bound: number,
): SelfCheck {
  const status = holds[relation](measured, bound) ? 'ok' : 'failed';
  return { check, status, text, measured, relation, bound };
}

export function unmeasured(check: string, status: 'failed' | 'skipped', text: string): SelfCheck {
  return { check, status, text, measured: null, relation: 'at most', bound: null };
}

/** The engine gave no result where one is needed. */
export class NoResult extends Error {}

export function needOk<Result extends { readonly status: 'ok' | 'failed' }>(
  result: Result | undefined,
): Extract<Result, { readonly status: 'ok' }> {
  if (result?.status === 'ok') return result as Extract<Result, { readonly status: 'ok' }>;
  throw new NoResult(result === undefined ? 'there is none' : (result as unknown as { error: string }).error);
}
