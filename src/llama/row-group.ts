/**
 * Rows of the same tokens, which share what comes before the first of them that is patched, read or cut off
 * from another, and what their encoder gives.
 */
import { earliestCut } from '../edges.js';
import type { CacheLayout, PatchRow, RowReading } from '../engine.js';
import { type EncoderPrompt, ofSide } from './encode.js';
import type { Limits } from './limits.js';

export interface GroupRow {
  readonly row: PatchRow;
  /** Its place in the list. */
  readonly index: number;
}

export interface RowGroup {
  /** In an encoder-decoder model. */
  readonly encoder: EncoderPrompt | undefined;
  /** Tokens that are neither patched nor read nor cut off from others. */
  readonly prefix: readonly number[];
  /** The rest of the prompt. */
  readonly rest: readonly number[];
  readonly rows: readonly GroupRow[];
  /** Cells of the K/V cache that a row needs beside the prefix. */
  readonly cellsPerRow: number;
}

export function groupRows(rows: readonly PatchRow[], reading: RowReading): RowGroup[] {
  const groups = new Map<string, { prefixLength: number; rows: GroupRow[] }>();
  rows.forEach((row, index) => {
    const prefixLength = Math.min(
      row.tokenIds.length - 1,
      ...ofSide(row.edits, 'decoder').map(({ tokenIndex }) => tokenIndex),
      ...(reading.tokenIndexes ?? []),
      earliestCut(row.cuts ?? []),
    );
    const key = `${prefixLength}:${row.tokenIds.join(',')}:${encoderKey(row)}`;
    const group = groups.get(key);
    if (group === undefined) groups.set(key, { prefixLength, rows: [{ row, index }] });
    else group.rows.push({ row, index });
  });
  return [...groups.values()].map(({ prefixLength, rows: own }) => {
    const { tokenIds, encoderTokenIds, edits } = own[0]!.row;
    const encoder = encoderTokenIds && { tokenIds: encoderTokenIds, edits: ofSide(edits, 'encoder') };
    const rest = tokenIds.slice(prefixLength);
    const steps = Math.max(
      ...own.map(({ row }) => row.continuation?.length ?? row.maxTokens ?? reading.maxTokens),
    );
    const cellsPerRow = rest.length + Math.max(0, steps - 1);
    return { encoder, prefix: tokenIds.slice(0, prefixLength), rest, rows: own, cellsPerRow };
  });
}

/** The same for rows whose encoder does the same. */
function encoderKey({ encoderTokenIds = [], edits }: PatchRow): string {
  const written = ofSide(edits, 'encoder').map(
    ({ site, layer, tokenIndex, op = 'replace', alpha = 1, vector = new Float32Array() }) =>
      [
        site,
        layer,
        tokenIndex,
        op,
        alpha,
        Buffer.from(new Float32Array(vector).buffer).toString('base64'),
      ].join(' '),
  );
  return [encoderTokenIds.join(','), ...written.sort()].join(';');
}

/** As many rows as batch and cache hold; the same for the same group and limits. */
export function rowsAtOnce(
  { prefix, rest, cellsPerRow }: RowGroup,
  limits: Limits,
  layout: CacheLayout,
): number {
  const rowsInCache =
    layout === 'streams'
      ? limits.cells / limits.streamCells(prefix.length + cellsPerRow)
      : (limits.cells - prefix.length) / cellsPerRow;
  return Math.max(
    1,
    Math.min(
      limits.batchRows,
      Math.floor(limits.batchTokens / rest.length),
      Math.floor(rowsInCache),
      // a recurrent state takes in a sequence whole: its tokens may not be cut apart by what is read
      limits.isRecurrent ? Math.floor(limits.outputs / rest.length) : limits.batchRows,
    ),
  );
}
