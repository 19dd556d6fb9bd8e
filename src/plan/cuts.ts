/** The edges of attention that a target cuts, as token indexes and layers. */
import { earliestCut } from '../edges.js';
import type { AttentionCut, Tokenizer } from '../engine.js';
import { PatchscopeError } from '../errors.js';
import { parseLayers } from '../layers.js';
import type { Cut, CutWindow, Layer, Span } from '../patchscope.js';
import { resolveSpan } from '../positions.js';
import { positionTokens, type ResolvedPrompt, writtenBytes } from '../prompts.js';

/** Its layers may follow the layer that a cell patches. */
export interface PlannedCut extends Omit<AttentionCut, 'layers'> {
  readonly layers: readonly number[] | CutWindow;
}

/** Those of a cell; where nothing is patched there is no layer to follow, and such a cut is left out. */
export function cutsAt(
  cuts: readonly PlannedCut[],
  layer: Layer | undefined,
  layerCount: number,
): AttentionCut[] {
  return cuts.flatMap((cut): AttentionCut[] => {
    const { layers } = cut;
    if (!('around' in layers)) return [{ ...cut, layers }];
    return typeof layer === 'number' ? [{ ...cut, layers: windowAt(layer, layers, layerCount) }] : [];
  });
}

/** What of the window lies in the model; of an even number of layers one more comes after the layer. */
function windowAt(layer: number, { around }: CutWindow, layerCount: number): number[] {
  const first = Math.max(0, layer - Math.floor((around - 1) / 2));
  const last = Math.min(layerCount - 1, layer + Math.floor(around / 2));
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}

/** @throws PatchscopeError `bad_input` where tokens or layers are not there, or nothing would be cut. */
export function resolveCuts(
  cuts: readonly Cut[],
  target: ResolvedPrompt,
  tokenizer: Tokenizer,
  layerCount: number,
): PlannedCut[] {
  if (cuts.length > 0 && target.side === 'encoder') {
    throw bad('The attention of an encoder is not cut: take a target on the side of the decoder.');
  }
  const tokens = positionTokens(target);
  const bytes = writtenBytes(tokens, target.text, tokenizer);
  const indexes = (spans: readonly Span[]) => [
    ...new Set(spans.flatMap((span) => resolveSpan(span, bytes, 'target'))),
  ];
  return cuts.map(({ from, to, layers, atGenerated = false }) => {
    const own = typeof layers === 'string' ? parseLayers(layers, layerCount) : layers;
    if ('includes' in own && own.includes('embed')) {
      throw bad('The embedding has no attention to cut: name layers from 0 on.');
    }
    const cut = { from: indexes(from), to: indexes(to), layers: own as PlannedCut['layers'], atGenerated };
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
