/** What keeps a vector from being put where it is to go, said before anything is run. */
import { PatchscopeError } from '../errors.js';
import { allFinite } from '../floats.js';
import type { EditOp, FileVector } from '../patchscope.js';
import type { Place } from '../places.js';
import type { Grid } from './arrange.js';
import type { Pair, PlannedModels } from './pairs.js';
import { isLayered, isVector, type ResolvedVector, vectorText } from './sources.js';

/** The variants whose states come from vectors, and whether these are another one at each layer. */
export class VectorVariants {
  readonly #layered = new Map<string, boolean>();
  readonly #vectors = new Set<string>();

  /** @throws PatchscopeError `bad_input` where the samples of a variant differ in it. */
  constructor(pairs: readonly Pair[]) {
    for (const { variant, source } of pairs) {
      const layered = isLayered(source);
      if ((this.#layered.get(variant) ?? layered) !== layered) {
        throw bad(
          `In the variant '${variant}' the sources of some samples have layers and those of others have none: make variants of them.`,
        );
      }
      this.#layered.set(variant, layered);
      if (isVector(source)) this.#vectors.add(variant);
    }
  }

  isLayered(variant: string): boolean {
    return this.#layered.get(variant)!;
  }

  /** @throws PatchscopeError `bad_input` where there is one. */
  refuse(why: string): void {
    const [variant] = this.#vectors;
    if (variant !== undefined) throw bad(`The source of the variant '${variant}' is a vector, and ${why}.`);
  }
}

/** @throws PatchscopeError `bad_input` for the first vector that can't be put where a cell or an edit wants it. */
export function checkVectors(
  pairs: readonly Pair[],
  grids: ReadonlyMap<string, Grid>,
  places: readonly Place[],
  { source: { record: ofSource }, target: { record: ofTarget } }: PlannedModels,
): void {
  const seen = new Map<ResolvedVector, Set<string>>();
  const check = (vector: ResolvedVector, place: Place, width: number, op: EditOp) => {
    const known = seen.get(vector) ?? new Set<string>();
    seen.set(vector, known);
    const key = `${place.site} ${place.layer} ${width} ${op}`;
    if (!known.has(key)) checkVector(vector, place, width, op);
    known.add(key);
  };
  for (const { variant, source, patch, ownEdits = [] } of pairs) {
    if (isVector(source) && patch.op !== 'scale') {
      const wanted = new Set(grids.get(variant)!.map(([from]) => from));
      for (const from of wanted) check(source, places[from]!, ofSource.embeddingSize, patch.op);
    }
    for (const { vector, places, op } of ownEdits) {
      if (vector) for (const place of places) check(vector, place, ofTarget.embeddingSize, op);
    }
  }
}

function checkVector(vector: ResolvedVector, place: Place, width: number, op: EditOp): void {
  const name = `The vector ${vectorText(vector)}`;
  if (vector.kind === 'noise' && vector.of !== undefined && vector.deviation === undefined) {
    throw bad(`${name} is still to be measured: openVectors does that before the plan.`);
  }
  if (vector.kind === 'noise' && !(vector.sigma >= 0 && Number.isFinite(vector.sigma))) {
    throw bad(`${name} needs a sigma of at least 0.`);
  }
  if (vector.kind === 'random' && !(vector.norm > 0 && Number.isFinite(vector.norm))) {
    throw bad(`${name} needs a norm above 0.`);
  }
  const values = vector.kind === 'file' ? fileValues(vector, place, name) : undefined;
  if (values !== undefined && values.length !== width) {
    throw bad(
      `${name} has ${values.length} floats where the model's states have ${width}: take one that was made for this model.`,
    );
  }
  if (values !== undefined && !allFinite(values)) throw bad(`${name} holds NaN or infinity.`);
  const isZero =
    vector.kind === 'zero' ||
    (vector.kind === 'noise' && vector.sigma * (vector.deviation ?? 1) === 0) ||
    values?.every((value) => value === 0);
  if (isZero && op === 'norm-matched-add') {
    throw bad(`${name} is zero and has no direction, which norm-matched-add needs: take another op.`);
  }
}

function fileValues({ read }: FileVector, { layer }: Place, name: string): Float32Array {
  if (read === undefined) throw bad(`${name} is still to be read: openVectors does that before the plan.`);
  if (read.values instanceof Float32Array) return read.values;
  const values = layer === 'embed' ? undefined : read.values[layer];
  if (values !== undefined) return values;
  const layers = Object.keys(read.values).map(Number);
  throw bad(
    `${name} has no direction for ${layer === 'embed' ? 'embed' : `layer ${layer}`}: it has some for the layers ${Math.min(...layers)} to ${Math.max(...layers)}; name those that it has.`,
  );
}

function bad(message: string): PatchscopeError {
  return new PatchscopeError('bad_input', message);
}
