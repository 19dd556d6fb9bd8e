/** Maps of rows: what they are made of, where they lie in a file, and what they make of rows. */
import { loadAddon, loadedVariant } from '../native.js';
import type { MappingKind, MappingRecord, MapRecord } from '../patchscope.js';
import type { TensorShape } from '../safetensors.js';

/** Tensors of one map by the last part of their names: `factor`, or `weight` (outputs, inputs) and `bias`. */
export type FittedMap = Readonly<Record<string, Float32Array>>;

export type MapPlaces = Pick<MapRecord, 'source' | 'target'>;

/** Names and shapes of the tensors of one map, as `resid_out.3->resid_out.29.weight`. */
export function tensorShapes(
  { kind, source, target }: Pick<MappingRecord, 'kind'> & Widths,
  places: MapPlaces,
): TensorShape[] {
  const shapes: Readonly<Record<MappingKind, Readonly<Record<string, readonly number[]>>>> = {
    identity: {},
    scale: { factor: [1] },
    linear: { weight: [target.width, source.width] },
    affine: { weight: [target.width, source.width], bias: [target.width] },
  };
  return Object.entries(shapes[kind]).map(([part, shape]) => ({ name: tensorName(places, part), shape }));
}

export interface Widths {
  readonly source: { readonly width: number };
  readonly target: { readonly width: number };
}

export function tensorName({ source, target }: MapPlaces, part: string): string {
  return `${placeName(source)}->${placeName(target)}.${part}`;
}

function placeName({ site, layer }: MapPlaces['source']): string {
  return layer === 'embed' ? site : `${site}.${layer}`;
}

/** Some rows of one width -> as many rows. The bits of a row do not depend on the others. */
export async function applyMap(
  { factor, weight, bias }: FittedMap,
  rows: Float32Array,
  width: number,
  threads: number,
): Promise<Float32Array> {
  if (factor !== undefined) return rows.map((value) => value * factor[0]!);
  if (weight === undefined) return rows;
  return matrices().applyAffine(weight, bias ?? new Float32Array(), rows, width, threads);
}

/** Matrices do not depend on the variant: the one that is there serves. */
export function matrices() {
  return loadAddon(loadedVariant() ?? 'cpu');
}
