/** What is read of a distribution: as it is asked of the addon, and as it is handed on. */
import type { RowReading, TokenReading } from '../engine.js';
import type { NativeReadings } from '../native.js';
import type { RawReading } from './batch.js';

type Asked = Pick<RowReading, 'topK' | 'trackedTokens' | 'logits' | 'sampling'>;

/** The most probable token is always read, whatever is kept: greedy generation needs it. */
export function nativeReadings({ topK, trackedTokens, logits, sampling }: Asked): NativeReadings {
  return {
    topK: Math.max(1, topK),
    tracked: Int32Array.from(trackedTokens ?? []),
    logits: logits ?? false,
    temperature: sampling?.temperature ?? 0,
    sampledTopK: sampling?.topK ?? 0,
    sampledTopP: sampling?.topP ?? 1,
  };
}

export function tokenReading(raw: RawReading, { topK, trackedTokens }: Asked): TokenReading {
  const top = Array.from(raw.topIds.slice(0, topK), (tokenId, i) => ({
    tokenId,
    logprob: raw.topLogprobs[i]!,
  }));
  return {
    top: top.filter(({ logprob }) => logprob > Number.NEGATIVE_INFINITY),
    tracked: raw.finite
      ? (trackedTokens ?? []).map((tokenId, i) => ({
          tokenId,
          logprob: raw.trackedLogprobs[i]!,
          rank: raw.trackedRanks[i]!,
        }))
      : [],
    ...(raw.logits && { logits: raw.logits }),
  };
}
