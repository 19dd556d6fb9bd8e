/** The edges of attention that a target cuts, as token indexes and layers. */
import { earliestCut } from '../edges.js';
import type { AttentionCut, Tokenizer } from '../engine.js';
import { PatchscopeError } from '../errors.js';
import { parseLayers } from '../layers.js';
import type { Cut, Span } from '../patchscope.js';
import { resolveSpan } from '../positions.js';
import { positionTokens, type ResolvedPrompt, writtenBytes } from '../prompts.js';

/** @throws PatchscopeError `bad_input` where tokens or layers are not there, or nothing would be cut. */
export function resolveCuts(
  cuts: readonly Cut[],
  target: ResolvedPrompt,
  tokenizer: Tokenizer,
  layerCount: number,
): AttentionCut[] {
  if (cuts.length > 0 && target.side === 'encoder') {
    throw bad('The attention of an encoder is not cut: take a target on the side of the decoder.');
  }
  const tokens = positionTokens(target);
  const bytes = writtenBytes(tokens, target.text, tokenizer);
  const indexes = (spans: readonly Span[]) => [
    ...new Set(spans.flatMap((span) => resolveSpan(span, bytes, 'target'))),
  ];
  return cuts.map(({ from, to, layers, atGenerated = false }) => {
    const own = parseLayers(layers, layerCount);
    if (own.includes('embed')) throw bad('The embedding has no attention to cut: name layers from 0 on.');
    const cut = { from: indexes(from), to: indexes(to), layers: own as number[], atGenerated };
    if (!atGenerated && earliestCut([cut]) >= tokens.length) {
      throw bad(
        'A cut of the target prompt has no edge: none of its tokens from comes after one of its tokens to.',
      );
    }
    return cut;
  });
}

function bad(message: string): PatchscopeError {
  return new PatchscopeError('bad_input', message);
}
