/** What a person should know of a plan between two models. */
import { Translation } from '../vocabulary.js';
import type { PlannedModels } from './pairs.js';
import type { Plan } from './plan.js';

/** Nothing where both are one. */
export function modelNotes(plan: Plan, { source, target }: PlannedModels): string[] {
  if (source.record.sha256 === target.record.sha256) return [];
  const notes: string[] = [];
  if (plan.pairs.some(({ variant, patch }) => patch.op !== 'scale' && !plan.mappings.has(variant))) {
    notes.push('mapping none: states of one model are patched into the other as they are');
  }
  if (plan.ownPlace !== undefined) {
    const { tokenizer: own } = source;
    const toTarget = new Translation(own, target.tokenizer);
    let shared = 0;
    for (let tokenId = 0; tokenId < own.vocabularySize; tokenId++) {
      if (toTarget.tokens(tokenId).length > 0) shared++;
    }
    if (shared < own.vocabularySize) {
      notes.push(
        `vocabularies differ: tokens are compared by their text, which ${shared} of the source's ${own.vocabularySize} share with one of the target's; a cell without such a token has no precision-at-1 or surprisal, and the column n of the table metric counts those that have`,
      );
    }
  }
  return notes;
}
