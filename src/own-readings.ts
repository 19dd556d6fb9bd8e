/** What the model itself says behind a source's position, token by token: distributions that readings of its states are compared with. */
import type { Translation } from './vocabulary.js';

/** As it was read, in the source model's vocabulary. */
export interface NextToken {
  /** Of the whole vocabulary. */
  readonly logits: Float32Array;
  /** The most probable token. */
  readonly top: { readonly tokenId: number; readonly logprob: number };
}

/** Seen from the target model's vocabulary, where a token is the same if its text is. */
export interface OwnReading {
  /** The tokens that are the most probable one; none where its text is no token of the target. */
  readonly tokenIds: readonly number[];
  /** Natural, of a token of the target, by the likeliest token of its text; undefined where the source has none. */
  logprob(tokenId: number): number | undefined;
}

/** @param toSource from the target's vocabulary, and `toTarget` from the source's. */
export function ownReading(
  { logits, top }: NextToken,
  { toSource, toTarget }: { readonly toSource: Translation; readonly toTarget: Translation },
): OwnReading {
  const logTotal = logits[top.tokenId]! - top.logprob;
  return {
    tokenIds: toTarget.tokens(top.tokenId),
    logprob: (tokenId) => {
      const same = toSource.tokens(tokenId);
      return same.length === 0 ? undefined : Math.max(...same.map((id) => logits[id]!)) - logTotal;
    },
  };
}
