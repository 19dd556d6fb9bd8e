/** Which maps of which files serve a patch. */
import { PatchscopeError } from '../errors.js';
import type {
  FileMapping,
  FittedMapping,
  MappedModel,
  MappingRecord,
  MapRecord,
  Side,
} from '../patchscope.js';
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

/** A map of a file. */
export interface Step {
  readonly mapping: FileMapping;
  readonly map: MapRecord;
}

export function linksOf(mapping: FittedMapping): readonly FileMapping[] {
  return mapping.kind === 'chain' ? mapping.links : [mapping];
}

/** Every way from one place to another, one map of each link after the other. */
export function waysOf([first, ...rest]: readonly FileMapping[], source: Place, target: Place): Step[][] {
  if (first === undefined) return [];
  if (rest.length === 0) {
    const map = findMap(first.record, source, target);
    return map === undefined ? [] : [[{ mapping: first, map }]];
  }
  return first.record.maps
    .filter((map) => isSame(map.source, source))
    .flatMap((map) => waysOf(rest, map.target, target).map((way) => [{ mapping: first, map }, ...way]));
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
export function checkMapping(mapping: FittedMapping, use: MappedUse): void {
  const links = linksOf(mapping);
  const [first, last] = [links[0]!, links.at(-1)!];
  checkJoints(links);
  for (const [which, side] of [
    ['source', use.sourceSide],
    ['target', use.targetSide],
  ] as const) {
    const link = which === 'source' ? first : last;
    const [fitted, model] = [link.record[which], use[which]];
    const bad = (what: string) => new PatchscopeError('bad_input', `The mapping ${link.path} ${what}`);
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
  for (const [source, target] of use.places) {
    const ways = waysOf(links, source, target);
    if (ways.length === 1) continue;
    const [from, to] = [placeText(source), placeText(target)];
    if (ways.length > 1) {
      const through = ways.slice(0, 2).map((way) => placeText(way[0]!.map.target));
      throw new PatchscopeError(
        'bad_input',
        `The mappings ${namesOf(links)} lead from ${from} to ${to} in ${ways.length} ways, by ${through.join(' and by ')}: fit them so that there is one.`,
      );
    }
    if (links.length > 1) {
      throw new PatchscopeError(
        'bad_input',
        `The mappings ${namesOf(links)} do not lead from ${from} to ${to}: each must have a map from where a map of the one before ends.`,
      );
    }
    const { maps } = first.record;
    throw new PatchscopeError(
      'bad_input',
      `The mapping ${first.path} has no map from ${from} to ${to}: it has ${maps.length}, the first from ${placeText(maps[0]!.source)} to ${placeText(maps[0]!.target)}.`,
    );
  }
}

/** What one link gives must be what the next one takes. */
function checkJoints(links: readonly FileMapping[]): void {
  links.slice(1).forEach((link, i) => {
    const [before, after] = [links[i]!.record.target, link.record.source];
    const keys = [before, after].map(({ sha256, width, side }) => [sha256, width, side ?? 'decoder'].join());
    if (keys[0] === keys[1]) return;
    const text = ({ sha256, width }: MappedModel) => `${width} floats of model ${sha256.slice(0, 12)}`;
    throw new PatchscopeError(
      'bad_input',
      `The mapping ${links[i]!.path} gives states of ${text(before)}, and ${link.path}, which follows it, takes ${text(after)}: chain mappings of which each takes what the one before gives.`,
    );
  });
}

function namesOf(links: readonly FileMapping[]): string {
  return links.map(({ name }) => name).join(', ');
}

function isSame(a: Place, b: Place): boolean {
  return a.site === b.site && a.layer === b.layer;
}

function placeText({ site, layer }: Place): string {
  return layer === 'embed' ? 'embed' : `${site} of layer ${layer}`;
}
