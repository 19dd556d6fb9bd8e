/** The mappings of a plan's variants, checked against the models and every cell. */
import { PatchscopeError } from '../errors.js';
import { checkMapping, type MappedUse } from '../mapping/find-map.js';
import type { Experiment, FittedMapping, Mapping, Settings } from '../patchscope.js';
import type { Place } from '../places.js';
import type { Grid } from './arrange.js';
import type { PlannedModels, VariantSettings } from './pairs.js';

/**
 * Those other than the identity, by the variant's name.
 *
 * @throws PatchscopeError `bad_input` where one does not serve the models, or some cell of its variant, or where
 *   states are as wide as those of the other model only by a mapping and there is none.
 */
export function mappingsOf(
  variants: readonly VariantSettings[],
  grids: ReadonlyMap<string, Grid>,
  places: readonly Place[],
  models: PlannedModels,
): ReadonlyMap<string, FittedMapping> {
  const mapped = new Map<string, FittedMapping>();
  const [source, target] = [models.source.record, models.target.record].map(
    ({ sha256, embeddingSize: width }) => ({ sha256, width }),
  ) as [MappedUse['source'], MappedUse['target']];
  for (const { name, mapping, patch, sourceSide, targetSide } of variants) {
    if (mapping.kind === 'identity') {
      if (source.width === target.width || patch?.op === 'scale') continue;
      throw new PatchscopeError(
        'bad_input',
        `The source's states have ${source.width} floats and the target's ${target.width}, so they need a mapping: the key mapping with samples has a run fit one, and patchscopes fit with the same two models makes a file for that key or --mapping.`,
      );
    }
    if (mapping.kind === 'unfitted') {
      throw new PatchscopeError(
        'bad_input',
        `The mapping of the variant '${name}' is still to be fitted: fitMappings does that before the plan.`,
      );
    }
    const pairs = grids.get(name)!.map(([source, target]) => [places[source]!, places[target]!] as const);
    checkMapping(mapping, { source, target, sourceSide, targetSide, places: pairs });
    mapped.set(name, mapping);
  }
  return mapped;
}

/** Settings as they are kept with a run: where a mapping or an adapter lies, and how it was fitted, is no part of what is asked. */
export function keptSettings<T extends Partial<Settings> & Pick<Experiment, 'variants'>>(
  settings: T,
): object {
  const { variants } = settings;
  return {
    ...settings,
    ...withoutPaths(settings),
    ...(variants && { variants: variants.map((variant) => ({ ...variant, ...withoutPaths(variant) })) }),
  };
}

function withoutPaths({ mapping, sourceAdapter, targetAdapter }: Partial<Settings>): object {
  return {
    ...(mapping && { mapping: kept(mapping) }),
    ...(typeof sourceAdapter === 'object' && { sourceAdapter: { ...sourceAdapter, path: undefined } }),
    ...(typeof targetAdapter === 'object' && { targetAdapter: { ...targetAdapter, path: undefined } }),
  };
}

function kept(mapping: Mapping): object {
  if (mapping.kind === 'identity' || mapping.kind === 'unfitted') return mapping;
  const { kind, name, sha256 } = mapping;
  return { kind, name, sha256, ...(kind === 'chain' && { links: mapping.links.map(kept) }) };
}
