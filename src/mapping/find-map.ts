/** Which map of a file serves a patch. */
import { PatchscopeError } from '../errors.js';
import type { FileMapping, MappedModel, MappingRecord, MapRecord, Side } from '../patchscope.js';
import type { Place } from '../places.js';

/**
 * The map from one place to another. One to `final_norm`, which is never written, serves the last layer's
 * `resid_out`: the final norm is then applied to what was fitted to its output, as in the paper's released code.
 */
export function findMap({ maps }: MappingRecord, source: Place, target: Place): MapRecord | undefined {
  const from = maps.filter((map) => isSame(map.source, source));
  return (
    from.find((map) => isSame(map.target, target)) ??
    from.find(
      (map) =>
        map.target.site === 'final_norm' && target.site === 'resid_out' && map.target.layer === target.layer,
    )
  );
}

/** What a mapping is used on. */
export interface MappedUse {
  readonly source: Omit<MappedModel, 'side'>;
  readonly target: Omit<MappedModel, 'side'>;
  readonly sourceSide: Side | undefined;
  readonly targetSide: Side | undefined;
  readonly places: readonly (readonly [source: Place, target: Place])[];
}

/** @throws PatchscopeError `bad_input` where a mapping is of other models or sides, or lacks a map. */
export function checkMapping({ path, record }: FileMapping, use: MappedUse): void {
  const bad = (what: string) => new PatchscopeError('bad_input', `The mapping ${path} ${what}`);
  for (const [which, side] of [
    ['source', use.sourceSide],
    ['target', use.targetSide],
  ] as const) {
    const [fitted, model] = [record[which], use[which]];
    if (fitted.width !== model.width) {
      throw bad(
        `was fitted to ${which} states of ${fitted.width} floats, and those of this model have ${model.width}: fit one to it with patchscopes fit.`,
      );
    }
    if (fitted.sha256 !== model.sha256) {
      throw bad(
        `was fitted to another ${which} model (sha256 ${fitted.sha256.slice(0, 12)}, this one is ${model.sha256.slice(0, 12)}): fit one to it with patchscopes fit.`,
      );
    }
    if ((fitted.side ?? 'decoder') !== (side ?? 'decoder')) {
      throw bad(
        `was fitted to the ${fitted.side ?? 'decoder'} on the ${which} side, not to the ${side ?? 'decoder'}.`,
      );
    }
  }
  const missing = use.places.find(([source, target]) => findMap(record, source, target) === undefined);
  if (missing !== undefined) {
    const [source, target] = missing.map(placeText);
    throw bad(
      `has no map from ${source} to ${target}: it has ${record.maps.length}, the first from ${placeText(record.maps[0]!.source)} to ${placeText(record.maps[0]!.target)}.`,
    );
  }
}

function isSame(a: Place, b: Place): boolean {
  return a.site === b.site && a.layer === b.layer;
}

function placeText({ site, layer }: Place): string {
  return layer === 'embed' ? 'embed' : `${site} of layer ${layer}`;
}
