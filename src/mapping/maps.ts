/** Maps of rows: what they are made of, where they lie in a file, and what they make of rows. */
import { loadAddon, loadedVariant } from '../native.js';
import type { MappingKind, MappingRecord, MapRecord } from '../patchscope.js';
import type { TensorShape } from '../safetensors.js';

/** Tensors of one map by the last part of their names, such as `weight` (outputs, inputs) and `bias`. */
export type FittedMap = Readonly<Record<string, Float32Array>>;

/** What a map's tensors, and what becomes of rows, depend on. */
export type MapKind = Pick<MappingRecord, 'kind' | 'options'>;

export type MapPlaces = Pick<MapRecord, 'source' | 'target'>;

/** Names and shapes of the tensors of one map, as `resid_out.3->resid_out.29.weight`. */
export function tensorShapes(map: MapKind & Widths, places: MapPlaces): TensorShape[] {
  return Object.entries(partsOf(map)).map(([part, shape]) => ({ name: tensorName(places, part), shape }));
}

function partsOf({ kind, options = {}, source, target }: MapKind & Widths): Parts {
  const [from, to] = [source.width, target.width];
  const { rank = 0, features = 0, hidden = 0 } = options;
  const shapes: Readonly<Record<MappingKind, Parts>> = {
    identity: {},
    scale: { factor: [1] },
    'mean-difference': { bias: [to] },
    'low-rank': { down: [rank, from], up: [to, rank], bias: [to] },
    linear: { weight: [to, from] },
    affine: { weight: [to, from], bias: [to] },
    kernel: { frequencies: [features, from], phases: [features], weight: [to, features], bias: [to] },
    mlp: { hidden_weight: [hidden, from], hidden_bias: [hidden], weight: [to, hidden], bias: [to] },
  };
  return shapes[kind];
}

type Parts = Readonly<Record<string, readonly number[]>>;

/** How many numbers of a map follow from the pairs; those of a kernel's waves are drawn. */
export function parameterCount(map: MapKind & Widths): number {
  const { frequencies, phases, ...fitted } = partsOf(map);
  return Object.values(fitted).reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0);
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
  { kind, options }: MapKind,
  map: FittedMap,
  rows: Float32Array,
  width: number,
  threads: number,
): Promise<Float32Array> {
  const affine = (x: Float32Array, inputs: number, weight: Float32Array, bias?: Float32Array) =>
    matrices().applyAffine(weight, bias ?? new Float32Array(), x, inputs, threads);
  switch (kind) {
    case 'identity':
      return rows;
    case 'scale':
      return rows.map((value) => value * map.factor![0]!);
    case 'mean-difference':
      return rows.map((value, i) => value + map.bias![i % width]!);
    case 'linear':
    case 'affine':
      return affine(rows, width, map.weight!, map.bias);
    case 'low-rank': {
      const down = await affine(rows, width, map.down!);
      return affine(down, map.down!.length / width, map.up!, map.bias);
    }
    case 'kernel': {
      const waves = await wavesOf(map, rows, width, threads);
      return affine(waves, map.phases!.length, map.weight!, map.bias);
    }
    case 'mlp': {
      const hidden = await affine(rows, width, map.hidden_weight!, map.hidden_bias);
      const active = hidden.map(options?.activation === 'relu' ? relu : silu);
      return affine(active, map.hidden_bias!.length, map.weight!, map.bias);
    }
  }
}

/** Random Fourier features of rows. */
export function wavesOf(
  { frequencies, phases }: FittedMap,
  rows: Float32Array,
  width: number,
  threads: number,
): Promise<Float32Array> {
  return matrices().applyWaves(frequencies!, phases!, rows, width, threads);
}

const relu = (value: number) => Math.max(value, 0);
const silu = (value: number) => value / (1 + Math.exp(-value));

/** Matrices do not depend on the variant: the one that is there serves. */
export function matrices() {
  return loadAddon(loadedVariant() ?? 'cpu');
}
