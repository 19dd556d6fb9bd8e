/** What the model itself says next at a source's position: the distribution that readings of its states are compared with. */

export interface OwnReading {
  /** The most probable token. */
  readonly tokenId: number;
  /** Natural, of any token. */
  logprob(tokenId: number): number;
}

/** @param logits of the whole vocabulary; `top` is the most probable token under them. */
export function ownReading(
  logits: Float32Array,
  top: { readonly tokenId: number; readonly logprob: number },
): OwnReading {
  const logTotal = logits[top.tokenId]! - top.logprob;
  return { tokenId: top.tokenId, logprob: (tokenId) => logits[tokenId]! - logTotal };
}
