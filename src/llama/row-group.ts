/** Rows of the same tokens, which share what comes before the first of them that is patched or read. */
import type { PatchRow, RowReading } from '../engine.js';
import type { Limits } from './limits.js';

export interface GroupRow {
  readonly row: PatchRow;
  /** Its place in the list. */
  readonly index: number;
}

export interface RowGroup {
  /** Tokens that are neither patched nor read. */
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
      ...row.edits.map(({ tokenIndex }) => tokenIndex),
      ...(reading.tokenIndexes ?? []),
    );
    const key = `${prefixLength}:${row.tokenIds.join(',')}`;
    const group = groups.get(key);
    if (group === undefined) groups.set(key, { prefixLength, rows: [{ row, index }] });
    else group.rows.push({ row, index });
  });
  return [...groups.values()].map(({ prefixLength, rows: own }) => {
    const { tokenIds } = own[0]!.row;
    const rest = tokenIds.slice(prefixLength);
    const steps = Math.max(...own.map(({ row }) => row.continuation?.length ?? reading.maxTokens));
    const cellsPerRow = rest.length + Math.max(0, steps - 1);
    return { prefix: tokenIds.slice(0, prefixLength), rest, rows: own, cellsPerRow };
  });
}

/** As many rows as batch and cache hold; the same for the same group and limits. */
export function rowsAtOnce({ prefix, rest, cellsPerRow }: RowGroup, limits: Limits): number {
  return Math.max(
    1,
    Math.min(
      limits.batchRows,
      Math.floor(limits.batchTokens / rest.length),
      Math.floor((limits.cells - prefix.length) / cellsPerRow),
      // a recurrent state takes in a sequence whole: its tokens may not be cut apart by what is read
      limits.isRecurrent ? Math.floor(limits.outputs / rest.length) : limits.batchRows,
    ),
  );
}
