/** Layers that are patched together with the target layer of a cell. */
import { PatchscopeError } from '../errors.js';
import type { Site, Window } from '../patchscope.js';
import type { Place } from '../places.js';

const windowSites: readonly Site[] = ['resid_mid', 'attn_out', 'mlp_out', 'resid_out'];

/**
 * Source and target place of each layer of the window but the cell's own.
 *
 * @param layerCounts of the two sides that the places count in.
 * @throws PatchscopeError `bad_input` where a place is in no window.
 */
export function windowAround(
  window: Window,
  [source, target]: readonly [Place, Place],
  layerCounts: readonly [source: number, target: number],
): [source: Place, target: Place][] {
  const [from, to] = [layerOf(source), layerOf(target)];
  const first = window === 'onward' ? 0 : -Math.floor(window / 2);
  const count = window === 'onward' ? layerCounts[1] - to : window;
  const offsets = Array.from({ length: count }, (_, i) => first + i);
  const isThere = (layer: number, layerCount: number) => layer >= 0 && layer < layerCount;
  return offsets
    .filter((by) => by !== 0 && isThere(from + by, layerCounts[0]) && isThere(to + by, layerCounts[1]))
    .map((by) => [
      { site: source.site, layer: from + by },
      { site: target.site, layer: to + by },
    ]);
}

function layerOf({ site, layer }: Place): number {
  if (layer !== 'embed' && windowSites.includes(site)) return layer;
  throw new PatchscopeError(
    'bad_input',
    `A window is of the layers from 0 on, at the sites ${windowSites.join(', ')}, and ${site === 'final_norm' ? site : 'embed'} is in none: choose others, or leave out window.`,
  );
}
