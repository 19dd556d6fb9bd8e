/**
 * Which layout of the K/V cache suits the shape of the work, by what was measured on CPUs: with unified cells
 * the kernel for many rows compares each token with the cells of all rows beside it, but cell for cell it is
 * faster than the one that goes through a stream; and a stream is begun by a copy of all its cells.
 */
import type { CacheLayout } from './engine.js';

export interface WorkShape {
  /** Tokens that the rows of one target prompt share. */
  readonly prefixTokens: number;
  /** Tokens of the prompt after those. */
  readonly rowTokens: number;
  /** Tokens generated for each row. */
  readonly generatedTokens: number;
  /** Rows of one target prompt. */
  readonly rows: number;
  /** Most rows in one batch. */
  readonly batchRows: number;
}

/** llama.cpp gives each stream a multiple of this many cells. */
const STREAM_CELLS = 256;
/** What one token takes for a cell of its own stream, and the copy of a cell, counted in unified cells. */
const OWN_COST = 7;
const COPY_COST = 2;
/** Streams take many times the memory: below this gain, a few hundredths of the time, they are not worth it. */
const LEAST_GAIN = 4;

/** Cells of the K/V cache for so many rows beside each other. */
export function cacheCells(
  layout: CacheLayout,
  { prefixTokens, tokensOfRow, rows }: Readonly<Record<'prefixTokens' | 'tokensOfRow' | 'rows', number>>,
): number {
  return layout === 'unified'
    ? prefixTokens + rows * tokensOfRow
    : rows * Math.ceil((prefixTokens + tokensOfRow) / STREAM_CELLS) * STREAM_CELLS;
}

export function chooseCacheLayout(shape: WorkShape): CacheLayout {
  const { prefixTokens, rowTokens, generatedTokens, rows, batchRows } = shape;
  const together = Math.min(rows, batchRows);
  const tokens = rowTokens + Math.max(0, generatedTokens - 1);
  const meanTokens = (rowTokens + tokens) / 2; // of a row while it grows
  const unifiedCells = prefixTokens + together * meanTokens;
  const ownCells = prefixTokens + meanTokens;
  const copiedCells = together * Math.ceil((prefixTokens + tokens) / STREAM_CELLS) * STREAM_CELLS;
  if (unifiedCells < LEAST_GAIN * OWN_COST * ownCells) return 'unified';
  const spared = (unifiedCells - OWN_COST * ownCells) * tokens * rows;
  return spared > COPY_COST * copiedCells ? 'streams' : 'unified';
}
