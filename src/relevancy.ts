/** How much each token of a continuation depends on the patch: its probability beside the one without the patch. */
import type { CapturePoint, Edit, Engine, PatchRow, RowResult, WorkOptions } from './engine.js';
import type { TokenRelevancy } from './observation.js';

/** Or why it could not be read. */
export type Relevancy = readonly TokenRelevancy[] | Extract<RowResult, { readonly status: 'failed' }>;

/**
 * The continuations of rows, scored once more behind the same prompts with nothing patched. These rows go through
 * batches of the same shapes, so that where the patch does nothing no bit differs.
 *
 * @returns one for each row; undefined where it has no result.
 */
export async function relevancies(
  engine: Pick<Engine, 'patch'>,
  rows: readonly PatchRow[],
  results: readonly RowResult[],
  options: WorkOptions,
): Promise<(Relevancy | undefined)[]> {
  const read = results.flatMap((result, k) => (result.status === 'ok' ? [{ row: rows[k]!, k, result }] : []));
  const unpatched = read.map(
    ({ row: { until, ...row }, result: { tokenIds } }): PatchRow => ({
      ...row,
      edits: row.edits.map(leftAsItIs),
      continuation: tokenIds,
    }),
  );
  const scored = await engine.patch(unpatched, { topK: 0, maxTokens: 0 }, options);
  const found = new Array<Relevancy | undefined>(rows.length);
  read.forEach(({ k, result }, i) => {
    const other = scored[i]!;
    found[k] =
      other.status === 'failed'
        ? other
        : result.steps.map(({ chosen: { tokenId, logprob } }, step) => ({
            tokenId,
            probability: Math.exp(logprob),
            unpatched: Math.exp(other.steps[step]!.chosen.logprob),
          }));
  });
  return found;
}

/** An edit that leaves its state as it is, so that its row goes along with those that are patched there. */
export function leftAsItIs({ side, site, layer, tokenIndex }: CapturePoint): Edit {
  return { ...(side && { side }), site, layer, tokenIndex, op: 'scale', alpha: 1 };
}
