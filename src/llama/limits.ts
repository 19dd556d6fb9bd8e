/** How much goes into one decode. Fixed when the engine is opened, so that the same plan gets the same batches. */
import { asPatchscopeError, PatchscopeError } from '../errors.js';
import type { NativeModelInfo } from '../native.js';
import type { SitePoint } from './state-rows.js';

/** llama.cpp's own bound on sequences. */
export const MAX_SEQUENCES = 256;
/** From 64 rows on another attention kernel runs; in batches of one shape up to here, rows do not change each other's bits on the CPU. */
const EXACT_TOKENS = 32;
const LOGIT_BYTES = 128 * 2 ** 20;
const CACHE_BYTES = 2 * 2 ** 30;
const BATCH_TOKENS = 512;
const BATCH_ROWS = 128;
const TYPICAL_ROW_TOKENS = 128;
/** llama.cpp gives each stream a multiple of this many cells. */
const STREAM_CELLS = 256;

export interface LimitOptions {
  readonly batchTokens?: number;
  readonly batchRows?: number;
  readonly contextSize?: number;
  readonly exact?: boolean;
}

/** The largest K/V cache that work without long prompts asks for, known before the model is loaded. */
export function cacheBounds({ contextSize, batchRows, batchTokens }: LimitOptions) {
  return {
    cells: contextSize ?? (batchRows ?? BATCH_ROWS) * TYPICAL_ROW_TOKENS,
    cacheBytes: contextSize === undefined ? CACHE_BYTES : Number.MAX_SAFE_INTEGER,
    batchTokens: batchTokens ?? BATCH_TOKENS,
  };
}

export class Limits {
  readonly exact: boolean;
  /** Tokens of one decode. */
  readonly batchTokens: number;
  /** Patched rows of one decode. */
  readonly batchRows: number;
  /** Tokens of one decode whose logits are computed: they are kept in memory twice. */
  readonly outputs: number;
  /** Cells of the K/V cache that rows are batched for; a row that needs more is decoded alone. */
  readonly cells: number;
  /** Tokens of one prompt and its continuation. */
  readonly promptTokens: number;
  readonly promptsPerPack: number;
  readonly #lastBlock: number;
  /** A recurrent state can't be cut back to the prefix, so the prefix keeps a sequence of its own. */
  readonly isRecurrent: boolean;
  /** Why no row can have a stream of its own, as a clause; null where it can. */
  readonly noStreams: string | null;
  /**
   * Rows begin together, so that each adds the same number of tokens to a decode: in exact mode for the
   * batch's shape, with a recurrent state because llama.cpp cuts a batch where lengths differ.
   */
  readonly oneLength: boolean;

  constructor(model: NativeModelInfo, bytesPerCell: number, options: LimitOptions) {
    this.exact = options.exact ?? false;
    this.batchTokens = Math.min(
      options.batchTokens ?? BATCH_TOKENS,
      this.exact ? EXACT_TOKENS : Number.POSITIVE_INFINITY,
    );
    this.outputs = Math.max(
      1,
      Math.min(this.batchTokens, Math.floor(LOGIT_BYTES / (4 * model.vocabularySize))),
    );
    this.isRecurrent = model.isRecurrent;
    this.oneLength = this.exact || this.isRecurrent;
    this.noStreams = this.exact
      ? 'exact mode holds for unified cells alone'
      : this.isRecurrent
        ? 'the model has a recurrent state'
        : model.hasEncoder
          ? 'the model has an encoder'
          : null;
    this.batchRows = Math.min(
      options.batchRows ?? BATCH_ROWS,
      MAX_SEQUENCES - (this.isRecurrent ? 1 : 0),
      this.exact ? EXACT_TOKENS : MAX_SEQUENCES,
    );
    this.promptTokens = model.hasPositionTable
      ? Math.min(options.contextSize ?? model.trainedContext, model.trainedContext)
      : (options.contextSize ?? model.trainedContext);
    this.cells = options.contextSize ?? Math.max(1, Math.floor(CACHE_BYTES / bytesPerCell));
    // an encoder's output is kept for one prompt at a time
    this.promptsPerPack = model.isRecurrent || model.hasEncoder || this.exact ? 1 : MAX_SEQUENCES;
    this.#lastBlock = model.layerCount - 1;
  }

  /** Cells that a stream for so many tokens takes. */
  streamCells(tokens: number): number {
    return Math.ceil(tokens / STREAM_CELLS) * STREAM_CELLS;
  }

  /** Tokens of prompts that are decoded together; a longer prompt is decoded alone. */
  get packTokens(): number {
    return Math.min(this.batchTokens, this.cells);
  }

  /** The last block and the final norm keep a row only where its output is computed. */
  needsOutput({ layer }: SitePoint): boolean {
    return layer === this.#lastBlock;
  }
}

/** Codes of failures that concern the rows of one decode only, so that others may go on. */
const localCodes: ReadonlySet<string> = new Set(['edit_mismatch', 'not_finite', 'engine', 'context_full']);

/** The failure of one decode, for the cells in it; any other error is thrown on. */
export function localFailure(error: unknown): { status: 'failed'; code: string; error: string } {
  const known = asPatchscopeError(error);
  if (known instanceof PatchscopeError && localCodes.has(known.code)) {
    return { status: 'failed', code: known.code, error: known.message };
  }
  throw known;
}
