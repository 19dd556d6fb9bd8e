/** Where a list of tokens is cut into decodes. */
import type { CacheLayout } from '../engine.js';

export interface BatchLimits {
  readonly tokens: number;
  readonly outputs: number;
  readonly layout: CacheLayout;
}

interface Tokens {
  /** Of each token. */
  readonly sequences: readonly number[];
  readonly outputs: readonly boolean[];
  /** Goes through one decode with the token before it; so many together fit the limits. */
  readonly joined: readonly boolean[];
}

/** The first token of each decode and the one after its last. */
export function cutsOf(tokens: Tokens, limits: BatchLimits): [number, number][] {
  const cuts: [number, number][] = [];
  const endFrom = limits.layout === 'streams' ? endOfStreams : endOfTokens;
  for (let begin = 0; begin < tokens.sequences.length; ) {
    const end = endFrom(begin, tokens, limits);
    cuts.push([begin, end]);
    begin = end;
  }
  return cuts;
}

/** As many tokens as the limits allow. */
function endOfTokens(begin: number, { outputs, joined }: Tokens, limits: BatchLimits): number {
  let end = begin;
  let wanted = 0;
  while (end < outputs.length && end - begin < limits.tokens) {
    wanted += outputs[end] ? 1 : 0;
    if (wanted > limits.outputs) break;
    end++;
  }
  while (joined[end]) end--;
  return end;
}

/** One sequence, and as many of the neighbouring ones after it as have the same number of tokens. */
function endOfStreams(begin: number, tokens: Tokens, limits: BatchLimits): number {
  const { sequences } = tokens;
  const most = endOfTokens(begin, tokens, limits);
  const length = lengthFrom(begin, sequences);
  if (begin + length > most) return most;
  let end = begin + length;
  while (
    end + length <= most &&
    sequences[end] === sequences[end - 1]! + 1 &&
    lengthFrom(end, sequences) === length
  ) {
    end += length;
  }
  return end;
}

/** Tokens of one sequence, which lie side by side. */
function lengthFrom(begin: number, sequences: readonly number[]): number {
  let end = begin;
  while (sequences[end] === sequences[begin]) end++;
  return end - begin;
}
