import { PatchscopeError } from './errors.js';
import type { Layer } from './patchscope.js';

/**
 * Reads a layer selector: `12`, `-1` (the last), `0..9` (both ends included), `embed`, lists of these
 * (`embed,0..5,-1`) and `all` (every block, without `embed`).
 *
 * @returns distinct layers in the order they were named.
 * @throws PatchscopeError `bad_input` for a layer the model does not have, or a word that is no selector.
 */
export function parseLayers(selector: string, layerCount: number): Layer[] {
  const layers: Layer[] = [];
  for (const part of selector.split(',').map((piece) => piece.trim())) {
    if (part === 'all') {
      layers.push(...range(0, layerCount - 1));
    } else if (part === 'embed') {
      layers.push('embed');
    } else {
      const [, from, to] = /^(-?\d+)(?:\.\.(-?\d+))?$/.exec(part) ?? [];
      if (from === undefined) {
        throw new PatchscopeError(
          'bad_input',
          `'${part}' is not a layer: write a number, a range such as 0..9, embed, all, or a list of these.`,
        );
      }
      const first = resolveLayer(Number(from), layerCount);
      const last = to === undefined ? first : resolveLayer(Number(to), layerCount);
      if (first > last) {
        throw new PatchscopeError(
          'bad_input',
          `The layer range '${part}' runs backwards: write ${last}..${first}.`,
        );
      }
      layers.push(...range(first, last));
    }
  }
  return [...new Set(layers)];
}

function resolveLayer(layer: number, layerCount: number): number {
  const index = layer < 0 ? layer + layerCount : layer;
  if (index < 0 || index >= layerCount) {
    throw new PatchscopeError(
      'bad_input',
      `Layer ${layer} is not in the model, whose ${layerCount} layers are 0 to ${layerCount - 1} (-1 is the last).`,
    );
  }
  return index;
}

function range(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, i) => first + i);
}
