/** The edits that a target's own states have in every cell, as token indexes and places. */
import { PatchscopeError } from '../errors.js';
import type { OwnEdit, Vector } from '../patchscope.js';
import { type Place, parsePlaces } from '../places.js';
import { resolveSpan } from '../positions.js';
import { positionTokens, type ResolvedPrompt, writtenBytes } from '../prompts.js';
import { filledPatch, type PlannedModel, type PlannedPatch } from './pairs.js';
import type { ResolvedVector } from './sources.js';

export interface ResolvedEdit extends PlannedPatch {
  /** Indexes, ascending. Of them the last stands for the generated tokens, too, where these are edited. */
  readonly tokens: readonly number[];
  readonly places: readonly Place[];
  readonly vector?: ResolvedVector;
}

/** @throws PatchscopeError `bad_input` where tokens or places are not there, or one state would be edited twice. */
export function resolveEdits(
  edits: readonly OwnEdit[],
  target: ResolvedPrompt,
  { tokenizer, record }: PlannedModel,
  vectorOf: (vector: Vector) => ResolvedVector,
): ResolvedEdit[] {
  const bytes = writtenBytes(positionTokens(target), target.text, tokenizer);
  const layerCount = target.side === 'encoder' ? (record.encoderLayerCount ?? 0) : record.layerCount;
  const written = new Set<string>();
  return edits.map(({ at, layers, site, vector, ...patch }) => {
    const tokens = new Set(at.flatMap((span) => resolveSpan(span, bytes, 'target')));
    const places = parsePlaces(layers, layerCount, site);
    const own = filledPatch(patch);
    const resolved = vector && vectorOf(vector);
    check(own, resolved, target, places);
    for (const { site, layer } of places) {
      for (const token of [...tokens, ...(own.atGenerated ? ['generated'] : [])]) {
        const place = `${site} ${layer} ${token}`;
        if (written.has(place)) {
          throw bad(
            `Two of the target's own edits are of the same state (${site}${layer === 'embed' ? '' : `, layer ${layer}`}, ${token === 'generated' ? 'generated tokens' : `token ${token}`}): one edit a state.`,
          );
        }
        written.add(place);
      }
    }
    return {
      ...{ tokens: [...tokens].sort((a, b) => a - b), places },
      ...own,
      ...(resolved && { vector: resolved }),
    };
  });
}

function check(
  { op, atGenerated }: PlannedPatch,
  vector: ResolvedVector | undefined,
  { side }: ResolvedPrompt,
  places: readonly Place[],
): void {
  if (op === 'scale' && vector !== undefined) {
    throw bad("One of the target's own edits scales, which takes no vector: leave the vector out.");
  }
  if (op !== 'scale' && vector === undefined) {
    throw bad(`One of the target's own edits is to ${op} and has no vector: give it one, or op: scale.`);
  }
  if (side === 'encoder' && atGenerated) {
    throw bad("An encoder reads no generated tokens: leave at-generated out of the target's own edits.");
  }
  if (side !== 'encoder' && places.some(({ site }) => site === 'final_norm')) {
    throw bad("The site final_norm is read, not written: let the target's own edits be of the last layer.");
  }
}

/** The first token that is edited; infinity where none is. */
export function earliestEdit(edits: readonly ResolvedEdit[]): number {
  return Math.min(...edits.flatMap(({ tokens }) => tokens[0] ?? []));
}

function bad(message: string): PatchscopeError {
  return new PatchscopeError('bad_input', message);
}
