/** What the model itself says next at a source's position: the distribution that readings of its states are compared with. */

export interface OwnReading {
  /** The most probable token. */
  readonly tokenId: number;
  /** Natural, of any token. */
  logprob(tokenId: number): number;
}

/** @param logits of the whole vocabulary. */
export function ownReading(logits: Float32Array): OwnReading {
  let tokenId = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i]! > logits[tokenId]!) tokenId = i;
  const largest = logits[tokenId]!;
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - largest);
  const total = largest + Math.log(sum);
  return { tokenId, logprob: (token) => logits[token]! - total };
}
