/** One line of the doctor's report. */
export interface Check {
  readonly check: string;
  readonly status: 'ok' | 'warning' | 'missing';
  readonly text: string;
  /** What to do about it, a sentence without its full stop; null where nothing has to be done. */
  readonly advice: string | null;
}

export const ok = (check: string, text: string): Check => ({ check, status: 'ok', text, advice: null });

export const warning = (check: string, text: string, advice: string): Check => ({
  check,
  status: 'warning',
  text,
  advice,
});

export function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(1)} GB`;
}
