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

/**
 * The same listeners, called from wherever the work is: what one of them throws aborts the work with it,
 * instead of ending a process from some timer or child's message.
 */
export function sheltered<T extends Watch>(watch: T): T & { readonly signal: AbortSignal } {
  const controller = new AbortController();
  const shelter =
    <V>(listen: ((value: V) => void) | undefined) =>
    (value: V): void => {
      try {
        listen?.(value);
      } catch (error) {
        controller.abort(error);
      }
    };
  return {
    ...watch,
    signal: AbortSignal.any([controller.signal, ...(watch.signal ? [watch.signal] : [])]),
    onProgress: shelter(watch.onProgress),
    onNote: shelter(watch.onNote),
  };
}

/** An error as part of one sentence: one line, no full stop. */
export function reason(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.replace(/\s+/g, ' ').trim().replace(/\.$/, '');
}
