/** What one case is to a child process: it runs, and says how it ended. */
import type { Random } from './random.js';

/** What a case promises: it worked, or was refused in one sentence; `wrong` is a fault that was found. */
export interface Outcome {
  readonly kind: 'accepted' | 'refused' | 'wrong';
  readonly detail: string;
}

export interface Part {
  /** Says what is done, then does it; `folder` is the child's own. */
  run(random: Random, folder: string, tell: (what: string) => void): Promise<Outcome>;
}

export type PartName = 'headers' | 'tensors' | 'arguments' | 'api' | 'experiments';

/** To a child. */
export interface Order {
  readonly part: PartName;
  readonly seed: number;
  readonly index: number;
}

/** From a child. */
export type Message =
  | { readonly kind: 'ready' }
  | { readonly kind: 'what'; readonly what: string }
  | { readonly kind: 'done'; readonly outcome: Outcome; readonly bytes: number };

const kinds = new Set(['PatchscopeError', 'TypeError']);

/** An error that nobody has to be ashamed of: one of ours or of misuse, one sentence on one line. */
export function judged(error: unknown): Outcome {
  if (!(error instanceof Error) || !kinds.has(error.name)) {
    return { kind: 'wrong', detail: `not an error of ours: ${(error as Error)?.stack ?? String(error)}` };
  }
  // the language's own errors of misuse have no full stop
  if (error.name === 'PatchscopeError' && !isSentence(error.message))
    return { kind: 'wrong', detail: `not one sentence: ${error.message}` };
  return { kind: 'refused', detail: `${error.name} ${error.message}` };
}

export function isSentence(message: string): boolean {
  return /^\S[^\n]*[.]$/.test(message);
}
