/** The mappings of a plan's variants, checked against the model and every cell. */
import { PatchscopeError } from '../errors.js';
import { checkMapping } from '../mapping/find-map.js';
import type { Experiment, FittedMapping, Mapping, Settings } from '../patchscope.js';
import type { Place } from '../places.js';
import type { Grid } from './arrange.js';
import type { ModelShape, VariantSettings } from './pairs.js';

/**
 * Those other than the identity, by the variant's name.
 *
 * @throws PatchscopeError `bad_input` where one does not serve the model, or some cell of its variant.
 */
export function mappingsOf(
  variants: readonly VariantSettings[],
  grids: ReadonlyMap<string, Grid>,
  places: readonly Place[],
  { sha256, embeddingSize: width }: ModelShape,
): ReadonlyMap<string, FittedMapping> {
  const mapped = new Map<string, FittedMapping>();
  for (const { name, mapping, sourceSide, targetSide } of variants) {
    if (mapping.kind === 'identity') continue;
    if (mapping.kind === 'unfitted') {
      throw new PatchscopeError(
        'bad_input',
        `The mapping of the variant '${name}' is still to be fitted: fitMappings does that before the plan.`,
      );
    }
    const pairs = grids.get(name)!.map(([source, target]) => [places[source]!, places[target]!] as const);
    checkMapping(mapping, { model: { sha256, width }, sourceSide, targetSide, places: pairs });
    mapped.set(name, mapping);
  }
  return mapped;
}

/** Settings as they are kept with a run: where a mapping lies, and how it was fitted, is no part of what is asked. */
export function keptSettings<T extends Partial<Settings> & Pick<Experiment, 'variants'>>(
  settings: T,
): object {
  const { mapping, variants } = settings;
  return {
    ...settings,
    ...(mapping && { mapping: kept(mapping) }),
    ...(variants && {
      variants: variants.map((variant) => ({
        ...variant,
        ...(variant.mapping && { mapping: kept(variant.mapping) }),
      })),
    }),
  };
}

function kept(mapping: Mapping): object {
  if (mapping.kind === 'identity' || mapping.kind === 'unfitted') return mapping;
  const { kind, name, sha256 } = mapping;
  return { kind, name, sha256, ...(kind === 'chain' && { links: mapping.links.map(kept) }) };
}
