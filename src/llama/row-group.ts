/**
 * Rows of the same tokens, which share what comes before the first of them that is patched, read or cut off
 * from another, what their encoder gives, and the adapter that they are read with.
 */
import { earliestCut } from '../edges.js';
import type { CacheLayout, PatchRow, RowReading } from '../engine.js';
import type { EncoderPrompt } from './encode.js';
import type { Limits } from './limits.js';
import { type TurnedEdit, turnedEdits } from './state-rows.js';

export interface GroupRow {
  readonly row: PatchRow;
  /** Its place in the list. */
  readonly index: number;
}

export interface RowGroup {
  readonly adapter: string | undefined;
  /** In an encoder-decoder model. */
  readonly encoder: EncoderPrompt | undefined;
  /** Tokens that are neither patched nor read nor cut off from others. */
  readonly prefix: readonly number[];
  /** The rest of the prompt. */
  readonly rest: readonly number[];
  readonly rows: readonly GroupRow[];
  /** Sequences of each row: its own, and where it is contrasted with other edits one for these. */
  readonly streams: number;
  /** Cells of the K/V cache that a sequence of a row needs beside the prefix. */
  readonly cellsPerRow: number;
}

/** The decoder's edits of each sequence of a row. */
export function editsOfStreams(row: PatchRow): readonly (readonly TurnedEdit[])[] {
  const own = turnedEdits(row, 'decoder');
  return row.contrast && 'edits' in row.contrast
    ? [own, turnedEdits({ ...row, edits: row.contrast.edits }, 'decoder')]
    : [own];
}

export function groupRows(rows: readonly PatchRow[], reading: RowReading): RowGroup[] {
  const groups = new Map<string, { prefixLength: number; rows: GroupRow[] }>();
  rows.forEach((row, index) => {
    const streams = editsOfStreams(row);
    const prefixLength = Math.min(
      row.tokenIds.length - 1,
      ...streams.flat().map(({ tokenIndex }) => tokenIndex),
      ...(reading.tokenIndexes ?? []),
      earliestCut(row.cuts ?? []),
    );
    const key = JSON.stringify([
      streams.length,
      prefixLength,
      row.adapter,
      row.tokenIds.join(','),
      encoderKey(row),
    ]);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, { prefixLength, rows: [{ row, index }] });
    else group.rows.push({ row, index });
  });
  return [...groups.values()].map(({ prefixLength, rows: own }) => {
    const { row } = own[0]!;
    const { tokenIds, encoderTokenIds, adapter } = row;
    const encoder = encoderTokenIds && { tokenIds: encoderTokenIds, edits: turnedEdits(row, 'encoder') };
    const rest = tokenIds.slice(prefixLength);
    const steps = Math.max(
      ...own.map(({ row }) => row.continuation?.length ?? row.maxTokens ?? reading.maxTokens),
    );
    const cellsPerRow = rest.length + Math.max(0, steps - 1);
    const prefix = tokenIds.slice(0, prefixLength);
    return { adapter, encoder, prefix, rest, rows: own, streams: editsOfStreams(row).length, cellsPerRow };
  });
}

/** The same for rows whose encoder does the same. */
function encoderKey(row: PatchRow): string {
  const { encoderTokenIds = [] } = row;
  const written = turnedEdits(row, 'encoder').map(
    ({ turn, site, layer, tokenIndex, op = 'replace', alpha = 1, vector = new Float32Array() }) =>
      [
        turn,
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
  { prefix, rest, streams, cellsPerRow }: RowGroup,
  limits: Limits,
  layout: CacheLayout,
): number {
  const inCache =
    layout === 'streams'
      ? limits.cells / limits.streamCells(prefix.length + cellsPerRow)
      : (limits.cells - prefix.length) / cellsPerRow;
  const sequences = Math.min(
    limits.batchRows,
    limits.batchTokens / rest.length,
    inCache,
    // a recurrent state takes in a sequence whole: its tokens may not be cut apart by what is read
    limits.isRecurrent ? limits.outputs / rest.length : limits.batchRows,
  );
  return Math.max(1, Math.floor(sequences / streams));
}

/**
 * Tokens of each sequence of a row that go through one decode with those of its other sequence, so that what is
 * read of both is there together.
 */
export function tokensTogether({ rest, rows, streams }: RowGroup, reads: number, limits: Limits): number {
  if (streams === 1) return rest.length;
  const edits = Math.max(...rows.map(({ row }) => editsOfStreams(row).flat().length));
  const outputs = limits.exact || limits.isRecurrent ? rest.length : Math.min(rest.length, reads + edits);
  return streams * rest.length <= limits.batchTokens && streams * outputs <= limits.outputs
    ? rest.length
    : Math.floor(Math.min(limits.batchTokens, limits.outputs) / streams);
}
