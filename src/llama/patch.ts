/** Patched runs: the prefix that rows share is computed once, then all rows of a batch go on together. */
import type { PatchRow, RowReading, RowResult, TokenReading } from '../engine.js';
import type { NativeContext, NativeReadings } from '../native.js';
import { Batch, type RawReading } from './batch.js';
import type { ContextPool } from './context-pool.js';
import { isolateBroken } from './isolate.js';
import { type Limits, localFailure } from './limits.js';
import { type Continuation, TextStop } from './text-stop.js';
import type { LlamaTokenizer } from './tokenizer.js';

/** Rows with the same tokens, of which the first `prefixLength` are neither patched nor read. */
interface Group {
  readonly tokenIds: readonly number[];
  readonly prefixLength: number;
  readonly rows: GroupRow[];
}

interface GroupRow {
  readonly row: PatchRow;
  readonly index: number;
}

/** A row under way. */
interface Run {
  readonly index: number;
  readonly steps: TokenReading[];
  readonly positions: readonly TokenReading[];
  readonly continuation: Continuation;
}

export class Patcher {
  readonly #pool: ContextPool;
  readonly #limits: Limits;
  readonly #tokenizer: LlamaTokenizer;

  constructor(pool: ContextPool, limits: Limits, tokenizer: LlamaTokenizer) {
    this.#pool = pool;
    this.#limits = limits;
    this.#tokenizer = tokenizer;
  }

  async patch(rows: readonly PatchRow[], reading: RowReading): Promise<RowResult[]> {
    const results = new Array<RowResult>(rows.length);
    for (const group of groupRows(rows, reading)) {
      const size = this.#rowsPerBatch(group, reading);
      let context: NativeContext | undefined;
      const attempt = async (part: readonly GroupRow[]): Promise<GroupRow[]> => {
        try {
          // where rows must not depend on their company, every batch has the same shape
          const slots = this.#limits.exact ? size : part.length;
          context ??= await this.#prefill(group, Math.max(slots, Math.min(size, group.rows.length)), reading);
          const runs = await this.#run(context, group, part, slots, reading);
          this.#rewind(context, group, slots);
          const broken = part.filter((_, k) => runs[k]!.continuation.failed);
          if (broken.length > 0) context = undefined;
          part.forEach(({ index }, k) => {
            results[index] = this.#result(runs[k]!);
          });
          return broken;
        } catch (error) {
          const failed = localFailure(error);
          context = undefined; // what it holds is unknown: begin anew
          for (const { index } of part) results[index] = failed;
          return [];
        }
      };
      await isolateBroken(chunks(group.rows, size), this.#pool, attempt, ({ index }) => {
        results[index] = {
          status: 'failed',
          code: 'not_finite',
          error: 'The logits after the patch hold NaN or infinity.',
        };
      });
    }
    return results;
  }

  /** As many rows as batch and cache hold; the same for the same group and limits. */
  #rowsPerBatch(group: Group, reading: RowReading): number {
    const rest = group.tokenIds.length - group.prefixLength;
    const cellsPerRow = rest + Math.max(0, reading.maxTokens - 1);
    return Math.max(
      1,
      Math.min(
        this.#limits.batchRows,
        Math.floor(this.#limits.batchTokens / rest),
        Math.floor((this.#limits.cells - group.prefixLength) / cellsPerRow),
        // a recurrent state takes in a sequence whole: its tokens may not be cut apart by what is read
        this.#limits.prefixOwnsSequence ? Math.floor(this.#limits.outputs / rest) : this.#limits.batchRows,
      ),
    );
  }

  /** A context that holds the prefix, with room for `rows` rows. */
  async #prefill(group: Group, rows: number, reading: RowReading): Promise<NativeContext> {
    const rest = group.tokenIds.length - group.prefixLength;
    const perRow = rest + Math.max(0, reading.maxTokens - 1);
    const reads = 1 + (reading.tokenIndexes?.length ?? 0);
    const context = await this.#pool.take({
      cells: group.prefixLength + rows * perRow,
      batchTokens: Math.min(this.#limits.batchTokens, Math.max(rows * rest, group.prefixLength)),
      sequences: rows + this.#firstSequence,
      outputs: Math.min(this.#limits.outputs, Math.max(rows * Math.max(reads, rest), group.prefixLength)),
    });
    if (group.prefixLength > 0) {
      const batch = new Batch();
      for (let i = 0; i < group.prefixLength; i++) batch.add(group.tokenIds[i]!, i, 0);
      await batch.decode(context, nativeReadings({ topK: 0 }), this.#batchLimits);
    }
    return context;
  }

  /** Slots without a row run the prompt unpatched and are not read. */
  async #run(
    context: NativeContext,
    group: Group,
    rows: readonly GroupRow[],
    slots: number,
    reading: RowReading,
  ): Promise<Run[]> {
    const batch = new Batch({ allOutputs: this.#limits.exact });
    const first = group.prefixLength;
    for (let slot = 0; slot < slots; slot++) {
      const sequence = this.#firstSequence + slot;
      if (sequence > 0 && first > 0) context.copySequence(0, sequence);
      const batchRows = group.tokenIds.slice(first).map((id, i) => batch.add(id, first + i, sequence));
      const row = rows[slot]?.row;
      if (row === undefined) continue;
      for (const edit of row.edits) {
        batch.edit(batchRows[edit.tokenIndex - first]!, edit, edit.vector, this.#limits.isLastBlock(edit));
      }
      for (const tokenIndex of reading.tokenIndexes ?? []) batch.read(batchRows[tokenIndex - first]!);
      batch.read(batchRows.at(-1)!);
    }
    const { readings: read } = await batch.decode(context, nativeReadings(reading), this.#batchLimits);
    const perRow = 1 + (reading.tokenIndexes?.length ?? 0);
    const stop = new TextStop(this.#tokenizer, reading);
    const runs = rows.map(({ index }, k): Run => {
      const own = read.slice(k * perRow, (k + 1) * perRow);
      return {
        index,
        steps: [],
        positions: own.slice(0, -1).map((raw) => tokenReading(raw, reading)),
        continuation: { tokenIds: [], text: '', failed: own.some(({ finite }) => !finite) },
      };
    });
    const active = new Set<number>();
    runs.forEach((run, slot) => {
      if (this.#advance(run, read[slot * perRow + perRow - 1]!, reading, stop)) active.add(slot);
    });
    for (let position = group.tokenIds.length; active.size > 0; position++) {
      const next = new Batch({ allOutputs: this.#limits.exact });
      const going = [...active];
      const decoded = this.#limits.exact ? Array.from({ length: slots }, (_, slot) => slot) : going;
      for (const slot of decoded) {
        const tokenId = runs[slot]?.continuation.tokenIds.at(-1) ?? group.tokenIds.at(-1)!;
        const row = next.add(tokenId, position, this.#firstSequence + slot);
        if (active.has(slot)) next.read(row);
      }
      const { readings: step } = await next.decode(context, nativeReadings(reading), this.#batchLimits);
      going.forEach((slot, k) => {
        if (!this.#advance(runs[slot]!, step[k]!, reading, stop)) active.delete(slot);
      });
    }
    return runs;
  }

  /** Takes the most probable token. @returns whether the row goes on. */
  #advance(run: Run, raw: RawReading, reading: RowReading, stop: TextStop): boolean {
    if (!raw.finite) run.continuation.failed = true;
    if (run.continuation.failed || reading.maxTokens === 0) return false;
    run.steps.push(tokenReading(raw, reading));
    return stop.push(run.continuation, raw.topIds[0]!);
  }

  #result({ continuation, steps, positions }: Run): RowResult {
    return {
      status: 'ok',
      tokenIds: continuation.tokenIds,
      text: continuation.text,
      steps,
      positions,
    };
  }

  /** Leaves the prefix alone in the context. */
  #rewind(context: NativeContext, group: Group, rows: number): void {
    for (let k = 0; k < rows; k++) {
      const sequence = this.#firstSequence + k;
      context.removeSequence(sequence, sequence === 0 ? group.prefixLength : 0);
    }
  }

  /** The first row goes on in the prefix's own sequence where that can be cut back afterwards. */
  get #firstSequence(): number {
    return this.#limits.prefixOwnsSequence ? 1 : 0;
  }

  get #batchLimits() {
    return { tokens: this.#limits.batchTokens, outputs: this.#limits.outputs };
  }
}

function groupRows(rows: readonly PatchRow[], reading: RowReading): Group[] {
  const groups = new Map<string, Group>();
  rows.forEach((row, index) => {
    const prefixLength = Math.min(
      row.tokenIds.length - 1,
      ...row.edits.map(({ tokenIndex }) => tokenIndex),
      ...(reading.tokenIndexes ?? []),
    );
    const key = `${prefixLength}:${row.tokenIds.join(',')}`;
    const group = groups.get(key);
    if (group === undefined)
      groups.set(key, {
        tokenIds: row.tokenIds,
        prefixLength,
        rows: [{ row, index }],
      });
    else group.rows.push({ row, index });
  });
  return [...groups.values()];
}

/** What is asked of the addon. Greedy generation needs the most probable token, whatever is kept. */
export function nativeReadings({
  topK,
  trackedTokens,
  logits,
}: Pick<RowReading, 'topK' | 'trackedTokens' | 'logits'>): NativeReadings {
  return { topK: Math.max(1, topK), tracked: Int32Array.from(trackedTokens ?? []), logits: logits ?? false };
}

export function tokenReading(
  raw: RawReading,
  { topK, trackedTokens }: Pick<RowReading, 'topK' | 'trackedTokens'>,
): TokenReading {
  return {
    top: Array.from(raw.topIds.slice(0, topK), (tokenId, i) => ({
      tokenId,
      logprob: raw.topLogprobs[i]!,
    })),
    tracked: raw.finite
      ? (trackedTokens ?? []).map((tokenId, i) => ({
          tokenId,
          logprob: raw.trackedLogprobs[i]!,
          rank: raw.trackedRanks[i]!,
        }))
      : [],
    ...(raw.logits && { logits: raw.logits }),
  };
}

function chunks<T>(list: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(list.length / size) }, (_, i) =>
    list.slice(i * size, (i + 1) * size),
  );
}
