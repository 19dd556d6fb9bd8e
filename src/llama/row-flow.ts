/**
 * One context whose sequences all begin with the prefix of a group: rows take a slot each, are patched,
 * generate, and leave it to the next row. Which row is decoded when follows from the rows alone.
 */
import type { CacheLayout, RowReading, RowResult, StepReading, TokenReading } from '../engine.js';
import type { NativeContext, NativeReadings } from '../native.js';
import { Batch, type OwnReading, type RawReading } from './batch.js';
import type { ContextPool } from './context-pool.js';
import type { BatchLimits } from './cuts.js';
import { encode, ofSide } from './encode.js';
import type { Limits } from './limits.js';
import { nativeReadings, tokenReading } from './readings.js';
import type { GroupRow, RowGroup } from './row-group.js';
import { type Continuation, TextStop } from './text-stop.js';
import type { LlamaTokenizer } from './tokenizer.js';

/** A row in its slot. */
interface Run {
  readonly row: GroupRow;
  readonly steps: StepReading[];
  readonly continuation: Continuation;
  positions: readonly TokenReading[];
}

/** What the flows of one call share. */
export interface FlowWork {
  readonly pool: ContextPool;
  readonly reading: RowReading;
  readonly layout: CacheLayout;
  readonly limits: Limits;
  readonly tokenizer: LlamaTokenizer;
}

type Finish = (row: GroupRow, result: RowResult) => void;

export class RowFlow {
  readonly #context: NativeContext;
  readonly #group: RowGroup;
  readonly #reading: RowReading;
  readonly #layout: CacheLayout;
  readonly #limits: Limits;
  readonly #asked: NativeReadings;
  readonly #stop: TextStop;
  readonly #runs: (Run | undefined)[];
  /** Tokens of each slot's sequence so far. */
  readonly #lengths: number[];

  private constructor(
    context: NativeContext,
    group: RowGroup,
    slots: number,
    { reading, layout, limits, tokenizer }: FlowWork,
  ) {
    this.#context = context;
    this.#group = group;
    this.#reading = reading;
    this.#layout = layout;
    this.#limits = limits;
    this.#asked = nativeReadings(reading);
    this.#stop = new TextStop(tokenizer, reading);
    this.#runs = new Array<Run | undefined>(slots);
    this.#lengths = new Array<number>(slots).fill(group.prefix.length);
  }

  /** Takes a context for `slots` rows, runs the encoder where there is one, and decodes the prefix. */
  static async begin(group: RowGroup, slots: number, work: FlowWork): Promise<RowFlow> {
    const { pool, reading, layout, limits } = work;
    const { encoder, prefix, rest, cellsPerRow } = group;
    const reads = 1 + (reading.tokenIndexes?.length ?? 0);
    const size = {
      cells:
        layout === 'streams'
          ? limits.streamCells(prefix.length + cellsPerRow)
          : Math.max(encoder?.tokenIds.length ?? 0, prefix.length + slots * cellsPerRow),
      batchTokens: Math.max(
        encoder?.tokenIds.length ?? 0,
        Math.min(limits.batchTokens, Math.max(slots * rest.length, prefix.length)),
      ),
      sequences: slots + (limits.isRecurrent ? 1 : 0),
      outputs: Math.min(limits.outputs, Math.max(slots * Math.max(reads, rest.length), prefix.length)),
    };
    const context = await pool.take(size, layout);
    const flow = new RowFlow(context, group, slots, work);
    if (encoder !== undefined) await encode(context, encoder, slots);
    if (prefix.length > 0) {
      const batch = new Batch();
      prefix.forEach((tokenId, i) => {
        batch.add(tokenId, i, 0);
      });
      await batch.decode(context, nativeReadings({ topK: 1 }), flow.#batchLimits);
      for (let slot = 0; slot < slots; slot++) {
        if (flow.#sequence(slot) !== 0) context.copySequence(0, flow.#sequence(slot));
      }
    }
    return flow;
  }

  /** Rows whose slots a failed decode left behind. */
  get inFlight(): readonly GroupRow[] {
    return this.#runs.flatMap((run) => run?.row ?? []);
  }

  /**
   * Runs rows until none is left. Once one comes out broken no other begins, since it may have spoilt the
   * cache.
   *
   * @param waiting rows in their order; those begun are taken off its front.
   * @returns rows whose logits were not finite.
   */
  async run(waiting: GroupRow[], finish: Finish, signal: AbortSignal | undefined): Promise<GroupRow[]> {
    const broken: GroupRow[] = [];
    while (true) {
      signal?.throwIfAborted();
      const batch = new Batch({ allOutputs: this.#limits.exact });
      if (this.#layout === 'streams') this.#closeGaps();
      const going = [...this.#runs.keys()].filter((slot) => this.#runs[slot] !== undefined);
      for (const slot of going) this.#addToken(batch, slot);
      const begun = broken.length === 0 ? this.#admit(batch, waiting, going.length) : [];
      if (going.length + begun.length === 0) return broken;
      if (this.#limits.exact) this.#pad(batch, begun.length > 0);
      const { readings } = await batch.decode(this.#context, this.#asked, this.#batchLimits);
      const next = readings.values();
      for (const slot of [...going, ...begun]) {
        const run = this.#runs[slot]!;
        const positions = begun.includes(slot)
          ? (this.#reading.tokenIndexes ?? []).map(() => next.next().value!)
          : [];
        const last = next.next().value!;
        run.positions = [...run.positions, ...positions.map((raw) => this.#readingOf(run, raw))];
        if (![...positions, last].every(({ finite }) => finite)) broken.push(run.row);
        else if (this.#advance(run, last)) continue;
        else finish(run.row, resultOf(run));
        this.#runs[slot] = undefined;
        if (!this.#limits.exact) this.#reset(slot);
      }
      if (this.#limits.exact && this.inFlight.length === 0) this.#resetAll();
    }
  }

  /** The token that a row chose last, to be read on. */
  #addToken(batch: Batch, slot: number): void {
    const run = this.#runs[slot]!;
    const row = batch.add(run.continuation.tokenIds.at(-1)!, this.#lengths[slot]!++, this.#sequence(slot));
    for (const edit of ofSide(run.row.row.edits, 'decoder')) {
      if (edit.atGenerated) batch.edit(row, edit, this.#limits.needsOutput(edit));
    }
    for (const cut of run.row.row.cuts ?? []) {
      if (cut.atGenerated) batch.cut(row, cut);
    }
    batch.read(row, ownReading(run));
  }

  /** Puts waiting rows into free slots. @returns those slots. */
  #admit(batch: Batch, waiting: GroupRow[], going: number): number[] {
    if (this.#limits.oneLength && going > 0) return [];
    const begun: number[] = [];
    for (let slot = 0; slot < this.#runs.length && waiting.length > 0; slot++) {
      if (this.#runs[slot] !== undefined) continue;
      const row = waiting.shift()!;
      const run: Run = { row, steps: [], positions: [], continuation: { tokenIds: [], text: '' } };
      this.#runs[slot] = run;
      begun.push(slot);
      const first = this.#group.prefix.length;
      const rows = this.#addRest(batch, slot);
      for (const edit of ofSide(row.row.edits, 'decoder')) {
        batch.edit(rows[edit.tokenIndex - first]!, edit, this.#limits.needsOutput(edit));
      }
      for (const cut of row.row.cuts ?? []) {
        for (const tokenIndex of cut.from) {
          const to = cut.to.filter((key) => key < tokenIndex);
          if (to.length > 0) batch.cut(rows[tokenIndex - first]!, { to, layers: cut.layers });
        }
      }
      for (const tokenIndex of this.#reading.tokenIndexes ?? []) {
        batch.read(rows[tokenIndex - first]!, { tracked: row.row.trackedTokens });
      }
      batch.read(rows.at(-1)!, ownReading(run));
    }
    return begun;
  }

  #addRest(batch: Batch, slot: number): number[] {
    return this.#group.rest.map((id) => batch.add(id, this.#lengths[slot]!++, this.#sequence(slot)));
  }

  /** Slots without a row go along unpatched and unread, so that the batch keeps its shape. */
  #pad(batch: Batch, isPrompt: boolean): void {
    for (const slot of this.#runs.keys()) {
      if (this.#runs[slot] !== undefined) continue;
      if (isPrompt) this.#addRest(batch, slot);
      else batch.add(this.#group.rest.at(-1)!, this.#lengths[slot]!++, this.#sequence(slot));
    }
  }

  /** Takes the chosen token in. @returns whether the row goes on. */
  #advance(run: Run, raw: RawReading): boolean {
    const { continuation: given, maxTokens = this.#reading.maxTokens } = run.row.row;
    if ((given?.length ?? maxTokens) === 0) return false;
    const chosen = raw.chosen!;
    run.steps.push({ ...this.#readingOf(run, raw), chosen });
    return this.#stop.push(run.continuation, chosen.tokenId, run.row.row);
  }

  #readingOf({ row: { row } }: Run, raw: RawReading): TokenReading {
    const { trackedTokens = [] } = this.#reading;
    const tracked = [...trackedTokens, ...(row.trackedTokens ?? [])];
    return tokenReading(raw, { ...this.#reading, trackedTokens: tracked });
  }

  /** Moves the last rows into free slots: streams that are not neighbours would not be decoded together. */
  #closeGaps(): void {
    const runs = this.#runs;
    for (const slot of runs.keys()) {
      const last = runs.findLastIndex((run) => run !== undefined);
      if (last < slot) return;
      if (runs[slot] !== undefined) continue;
      this.#context.copySequence(last, slot);
      [runs[slot], runs[last]] = [runs[last], undefined];
      this.#lengths[slot] = this.#lengths[last]!;
      this.#reset(last);
    }
  }

  /** Cuts a slot's sequence back to the prefix. */
  #reset(slot: number): void {
    const sequence = this.#sequence(slot);
    if (this.#limits.isRecurrent) {
      this.#context.removeSequence(sequence, 0);
      if (this.#group.prefix.length > 0) this.#context.copySequence(0, sequence);
    } else {
      this.#context.removeSequence(sequence, this.#group.prefix.length);
    }
    this.#lengths[slot] = this.#group.prefix.length;
  }

  #resetAll(): void {
    for (const slot of this.#runs.keys()) this.#reset(slot);
  }

  /** The first row goes on in the prefix's own sequence where that can be cut back afterwards. */
  #sequence(slot: number): number {
    return this.#limits.isRecurrent ? slot + 1 : slot;
  }

  get #batchLimits(): BatchLimits {
    return { tokens: this.#limits.batchTokens, outputs: this.#limits.outputs, layout: this.#layout };
  }
}

function ownReading({ row: { row, index }, steps }: Run): OwnReading {
  const seed = mixed(row.seed ?? index, steps.length);
  return { given: row.continuation?.[steps.length], seed, tracked: row.trackedTokens };
}

/** A number below 2^31 that looks unlike those of neighbouring seeds and steps (murmur3's finalizer). */
function mixed(seed: number, step: number): number {
  let hash = Math.imul(seed | 0, 0x9e3779b1) ^ Math.imul(step + 1, 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 1;
}

function resultOf({ steps, positions, continuation: { tokenIds, text } }: Run): RowResult {
  return { status: 'ok', tokenIds, text, steps, positions };
}
