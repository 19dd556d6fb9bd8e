/** What the encoder of an encoder-decoder model reads, and its way through a context. */
import type { CapturePoint } from '../engine.js';
import type { NativeContext } from '../native.js';
import { rowEdit, StateRows, type TurnedEdit } from './state-rows.js';

export interface EncoderPrompt {
  readonly tokenIds: readonly number[];
  readonly points?: readonly CapturePoint[];
  readonly edits?: readonly TurnedEdit[];
}

/**
 * Runs the encoder once: what the decoder reads in the first `sequences` sequences attends to its output.
 *
 * @returns the state at each point, or null where it is not finite.
 */
export async function encode(
  context: NativeContext,
  { tokenIds, points = [], edits = [] }: EncoderPrompt,
  sequences: number,
): Promise<(Float32Array | null)[]> {
  const captures = points.map(({ site, layer, tokenIndex: row }) => ({ site, layer, row }));
  const work = new StateRows(
    captures,
    edits.map((edit) => rowEdit(edit.tokenIndex, edit)),
    0,
  );
  const results = await context.encode({
    tokens: Int32Array.from(tokenIds),
    sequences: Int32Array.from({ length: sequences }, (_, sequence) => sequence),
    ...work.native,
  });
  const states = work.states(results);
  return captures.map((capture) => states.get(capture)!);
}
