/** How far one step of getting or checking a model has come. */
export interface Progress {
  readonly step: 'download' | 'unpack' | 'hash';
  readonly doneBytes: number;
  /** Unknown while a source has not told it. */
  readonly totalBytes: number | undefined;
}

/** What a caller may listen to, and how it may stop the work. */
export interface Watch {
  readonly onProgress?: ((progress: Progress) => void) | undefined;
  /** One line for a person, such as why a source was left. */
  readonly onNote?: ((line: string) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** An error as part of one sentence: one line, no full stop. */
export function reason(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.replace(/\s+/g, ' ').trim().replace(/\.$/, '');
}
