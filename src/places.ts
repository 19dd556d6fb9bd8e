/** Places of states, site and layer, from selectors as people write them. */
import { PatchscopeError } from './errors.js';
import { parseLayers } from './layers.js';
import type { Layer, Site } from './patchscope.js';

export interface Place {
  readonly site: Site;
  /** `embed` for the site of that name, the last layer for `final_norm`. */
  readonly layer: Layer;
}

/** Sites that every block may have. */
export type BlockSite = Exclude<Site, 'embed' | 'final_norm'>;

/**
 * Reads a list of layers as `parseLayers` does, at one site, and among them places by the names of other
 * libraries: `blocks.5.hook_resid_pre`, `_mid` or `_post`, `blocks.5.hook_attn_out`, `blocks.5.hook_mlp_out`
 * (TransformerLens) and `hidden_states[5]` (transformers, where 0 is the embedding and the last one lies
 * behind the final norm).
 *
 * @param site of the layers; `embed` keeps its own.
 * @returns distinct places in the order they were named.
 * @throws PatchscopeError `bad_input` as `parseLayers`, or where the site has no such layer.
 */
export function parsePlaces(selector: string, layerCount: number, site: Site = 'resid_out'): Place[] {
  const places = selector.split(',').flatMap((part): Place[] => {
    const named = foreignPlace(part.trim(), layerCount);
    if (named !== undefined) return [named];
    return parseLayers(part, layerCount).map((layer) => placeAt(layer, layerCount, site));
  });
  const seen = new Map(places.map((place) => [`${place.site} ${place.layer}`, place]));
  return [...seen.values()];
}

/** The place at a layer; `embed` is a place of its own, whatever the site. */
export function placeAt(layer: Layer, layerCount: number, site: Site = 'resid_out'): Place {
  if (layer === 'embed') return { site: 'embed', layer };
  if (site === 'embed') {
    throw new PatchscopeError('bad_input', `The site embed has no layer ${layer}: write the layer as embed.`);
  }
  if (site === 'final_norm' && layer !== layerCount - 1) {
    throw new PatchscopeError(
      'bad_input',
      `The site final_norm comes after the last layer: write -1 instead of layer ${layer}.`,
    );
  }
  return { site, layer };
}

const hooks: Readonly<Record<string, BlockSite>> = {
  resid_mid: 'resid_mid',
  resid_post: 'resid_out',
  attn_out: 'attn_out',
  mlp_out: 'mlp_out',
};

function foreignPlace(name: string, layerCount: number): Place | undefined {
  const [, block, hook] = /^blocks\.(\d+)\.hook_(resid_(?:pre|mid|post)|attn_out|mlp_out)$/.exec(name) ?? [];
  if (block !== undefined) {
    const layer = existing(Number(block), layerCount - 1, name);
    return hook === 'resid_pre' ? inputOf(layer) : { site: hooks[hook!]!, layer };
  }
  const [, state] = /^hidden_states\[(\d+)\]$/.exec(name) ?? [];
  if (state === undefined) return undefined;
  const index = existing(Number(state), layerCount, name);
  return index === layerCount ? { site: 'final_norm', layer: layerCount - 1 } : inputOf(index);
}

function inputOf(layer: number): Place {
  return layer === 0 ? { site: 'embed', layer: 'embed' } : { site: 'resid_out', layer: layer - 1 };
}

function existing(index: number, last: number, name: string): number {
  if (index > last) {
    throw new PatchscopeError(
      'bad_input',
      `${name} is not in the model, where the number goes from 0 to ${last}.`,
    );
  }
  return index;
}
