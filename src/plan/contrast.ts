/** What the readings of a variant are contrasted with, in the target model's layers. */
import type { LayerContrast, StreamContrast } from '../engine.js';
import { PatchscopeError } from '../errors.js';
import { parseLayers } from '../layers.js';
import { type LogitContrast, noDecay, type Patch, type Side } from '../patchscope.js';

/** As the engine takes it, but for the edits of the other run, which are none. */
export type PlannedContrast = Omit<StreamContrast, 'edits'> | LayerContrast;

/** Runs of the target side by side, of each cell. */
export function sequencesOf({ contrast }: { readonly contrast?: PlannedContrast }): number {
  return contrast !== undefined && 'alpha' in contrast ? 2 : 1;
}

export interface ContrastedVariant {
  readonly name: string;
  readonly patch?: Patch;
  readonly targetSide?: Side;
}

/** @throws PatchscopeError `bad_input` where it means nothing, or layers are not there. */
export function resolveContrast(
  contrast: LogitContrast,
  { name, patch = {}, targetSide }: ContrastedVariant,
  layerCount: number,
): PlannedContrast {
  const { cutoff } = contrast;
  const ofVariant = `of the variant '${name}'`;
  if (!(cutoff >= 0 && cutoff <= 1)) {
    throw bad(`The cutoff of the contrast ${ofVariant} is ${cutoff} where a number from 0 to 1 is needed.`);
  }
  if (contrast.with === 'unpatched') {
    const { alpha } = contrast;
    if (!Number.isFinite(Math.fround(alpha))) {
      throw bad(`The alpha ${alpha} of the contrast ${ofVariant} is no number.`);
    }
    if (patch.op === 'scale' && (patch.alpha ?? 1) === 1) {
      throw bad(
        `The variant '${name}' patches nothing, so there is nothing to contrast with the unpatched target: leave its contrast out.`,
      );
    }
    if (targetSide === 'encoder') {
      throw bad(
        `The variant '${name}' patches an encoder, whose output is the same in both runs of a contrast: leave its contrast out.`,
      );
    }
    return { alpha, cutoff };
  }
  const layers = parseLayers(contrast.with.layers, layerCount);
  if (layers.includes(layerCount - 1)) {
    throw bad(
      `The contrast ${ofVariant} names layer ${layerCount - 1}, which is the last and compared with the others: take layers before it.`,
    );
  }
  return { layers, cutoff };
}

/** @throws PatchscopeError `bad_input` where alpha can't decay. */
export function checkDecay({ name, patch = {} }: ContrastedVariant): void {
  const { decay, op = 'replace', atGenerated = false } = patch;
  if (decay === undefined) return;
  if (!(decay >= 0 && decay <= 1)) {
    throw bad(`The decay of the variant '${name}' is ${decay} where a number from 0 to 1 is needed.`);
  }
  if (!atGenerated) {
    throw bad(
      `The decay of the variant '${name}' is of generated tokens, which it does not patch: patch them too (at-generated), or leave it out.`,
    );
  }
  const reason = noDecay(op, decay);
  if (reason !== null) throw bad(`In the variant '${name}' ${reason}.`);
}

function bad(message: string): PatchscopeError {
  return new PatchscopeError('bad_input', message);
}
