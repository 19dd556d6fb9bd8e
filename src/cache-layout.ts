/**
 * Which layout of the K/V cache suits the shape of the work. With unified cells each token of a row is compared
 * with the cells of all rows beside it; a stream for each row spares that, but the prefix is copied into each.
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

/** Cells of the K/V cache for so many rows beside each other. */
export function cacheCells(
  layout: CacheLayout,
  { prefixTokens, tokensOfRow, rows }: Readonly<Record<'prefixTokens' | 'tokensOfRow' | 'rows', number>>,
): number {
  return layout === 'unified'
    ? prefixTokens + rows * tokensOfRow
    : rows * Math.ceil((prefixTokens + tokensOfRow) / STREAM_CELLS) * STREAM_CELLS;
}

/** What the copy of one cell costs, in cells that one token is compared with; see the bench's measures of layouts. */
const COPY_COST = 10;

export function chooseCacheLayout(shape: WorkShape): CacheLayout {
  const { prefixTokens, rowTokens, generatedTokens, rows, batchRows } = shape;
  const together = Math.min(rows, batchRows);
  const tokensOfRow = rowTokens + Math.max(0, generatedTokens - 1);
  // while rows grow to their full length half of it is there on average
  const unifiedCells = prefixTokens + (together * (rowTokens + tokensOfRow)) / 2;
  const streamCells = Math.ceil((prefixTokens + tokensOfRow) / STREAM_CELLS) * STREAM_CELLS;
  const spared = (unifiedCells - streamCells) * tokensOfRow * rows;
  return spared > COPY_COST * streamCells * together ? 'streams' : 'unified';
}
