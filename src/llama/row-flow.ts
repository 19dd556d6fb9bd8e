/**
 * One context whose sequences all begin with the prefix of a group: rows take a slot each, are patched,
 * generate, and leave it to the next row. Which row is decoded when follows from the rows alone.
 */
import type { CacheLayout, RowReading, RowResult, StepReading, TokenReading } from '../engine.js';
import type { NativeContext, NativeReadings } from '../native.js';
import { Batch, type OwnReading, type RawReading, type RowContrast } from './batch.js';
import type { ContextPool } from './context-pool.js';
import type { BatchLimits } from './cuts.js';
import { encode } from './encode.js';
import type { Limits } from './limits.js';
import { nativeReadings, tokenReading } from './readings.js';
import { editsOfStreams, type GroupRow, type RowGroup, tokensTogether } from './row-group.js';
import type { TurnedEdit } from './state-rows.js';
import { type Continuation, TextStop } from './text-stop.js';
import type { LlamaTokenizer } from './tokenizer.js';

/** A row in its slot. */
interface Run {
  readonly row: GroupRow;
  /** Of each sequence, on the decoder's side. */
  readonly edits: readonly (readonly TurnedEdit[])[];
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
  /** Tokens of each sequence of a slot so far. */
  readonly #lengths: number[];
  readonly #together: number;

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
    this.#together = tokensTogether(group, readsOf(reading), limits);
  }

  /** Takes a context for `slots` rows, runs the encoder where there is one, and decodes the prefix. */
  static async begin(group: RowGroup, slots: number, work: FlowWork): Promise<RowFlow> {
    const { pool, reading, layout, limits } = work;
    const { adapter, encoder, prefix, rest, streams, cellsPerRow } = group;
    const sequences = slots * streams;
    const size = {
      cells:
        layout === 'streams'
          ? limits.streamCells(prefix.length + cellsPerRow)
          : Math.max(encoder?.tokenIds.length ?? 0, prefix.length + sequences * cellsPerRow),
      batchTokens: Math.max(
        encoder?.tokenIds.length ?? 0,
        Math.min(limits.batchTokens, Math.max(sequences * rest.length, prefix.length)),
      ),
      sequences: sequences + (limits.isRecurrent ? 1 : 0),
      outputs: Math.min(
        limits.outputs,
        Math.max(sequences * Math.max(readsOf(reading), rest.length), prefix.length),
      ),
    };
    const context = await pool.take(size, { layout, adapter });
    const flow = new RowFlow(context, group, slots, work);
    if (encoder !== undefined) await encode(context, encoder, sequences);
    if (prefix.length > 0) {
      const batch = new Batch();
      prefix.forEach((tokenId, i) => {
        batch.add(tokenId, i, 0);
      });
      await batch.decode(context, nativeReadings({ topK: 1 }), flow.#batchLimits);
      for (let slot = 0; slot < slots; slot++) {
        for (const sequence of flow.#sequences(slot)) {
          if (sequence !== 0) context.copySequence(0, sequence);
        }
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
    const rows = this.#addNext(batch, slot, run.continuation.tokenIds.at(-1)!);
    for (const [stream, edits] of run.edits.entries()) {
      const row = rows[stream]!;
      for (const edit of edits) {
        const decayed = atGenerated(edit, run.steps.length);
        if (decayed !== undefined) batch.edit(row, decayed, this.#limits.needsOutput(edit));
      }
      for (const cut of run.row.row.cuts ?? []) {
        if (cut.atGenerated) batch.cut(row, cut);
      }
    }
    batch.read(rows[0]!, { ...ownReading(run), contrast: contrastOf(run.row, rows[1]) });
  }

  /** Puts waiting rows into free slots. @returns those slots. */
  #admit(batch: Batch, waiting: GroupRow[], going: number): number[] {
    if (this.#limits.oneLength && going > 0) return [];
    const begun: number[] = [];
    for (let slot = 0; slot < this.#runs.length && waiting.length > 0; slot++) {
      if (this.#runs[slot] !== undefined) continue;
      const row = waiting.shift()!;
      const edits = editsOfStreams(row.row);
      const run: Run = { row, edits, steps: [], positions: [], continuation: { tokenIds: [], text: '' } };
      this.#runs[slot] = run;
      begun.push(slot);
      const first = this.#group.prefix.length;
      const streams = this.#addRest(batch, slot);
      for (const [stream, own] of edits.entries()) {
        const rows = streams[stream]!;
        for (const edit of own) {
          batch.edit(rows[edit.tokenIndex - first]!, edit, this.#limits.needsOutput(edit));
        }
        for (const cut of row.row.cuts ?? []) {
          for (const tokenIndex of cut.from) {
            const to = cut.to.filter((key) => key < tokenIndex);
            if (to.length > 0) batch.cut(rows[tokenIndex - first]!, { to, layers: cut.layers });
          }
        }
      }
      const [own, other] = streams;
      for (const tokenIndex of this.#reading.tokenIndexes ?? []) {
        batch.read(own![tokenIndex - first]!, {
          tracked: row.row.trackedTokens,
          contrast: contrastOf(row, other?.[tokenIndex - first]),
        });
      }
      batch.read(own!.at(-1)!, { ...ownReading(run), contrast: contrastOf(row, other?.at(-1)) });
    }
    return begun;
  }

  /** @returns the rows of each sequence. */
  #addRest(batch: Batch, slot: number): readonly (readonly number[])[] {
    const { rest } = this.#group;
    const first = this.#lengths[slot]!;
    const added = this.#sequences(slot).map((sequence) => ({ sequence, rows: [] as number[] }));
    for (let begin = 0; begin < rest.length; begin += this.#together) {
      for (const [stream, { sequence, rows }] of added.entries()) {
        rest.slice(begin, begin + this.#together).forEach((id, i) => {
          const isJoined = added.length > 1 && stream + i > 0;
          rows.push(batch.add(id, first + begin + i, sequence, isJoined));
        });
      }
    }
    this.#lengths[slot] = first + rest.length;
    return added.map(({ rows }) => rows);
  }

  /** One more token of each sequence. @returns its rows. */
  #addNext(batch: Batch, slot: number, tokenId: number): number[] {
    const position = this.#lengths[slot]!++;
    return this.#sequences(slot).map((sequence, stream) =>
      batch.add(tokenId, position, sequence, stream > 0),
    );
  }

  /** Slots without a row go along unpatched and unread, so that the batch keeps its shape. */
  #pad(batch: Batch, isPrompt: boolean): void {
    for (const slot of this.#runs.keys()) {
      if (this.#runs[slot] !== undefined) continue;
      if (isPrompt) this.#addRest(batch, slot);
      else this.#addNext(batch, slot, this.#group.rest.at(-1)!);
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
      const to = this.#sequences(slot);
      for (const [stream, from] of this.#sequences(last).entries()) {
        this.#context.copySequence(from, to[stream]!);
      }
      [runs[slot], runs[last]] = [runs[last], undefined];
      this.#lengths[slot] = this.#lengths[last]!;
      this.#reset(last);
    }
  }

  /** Cuts a slot's sequences back to the prefix. */
  #reset(slot: number): void {
    const prefix = this.#group.prefix.length;
    for (const sequence of this.#sequences(slot)) {
      if (this.#limits.isRecurrent) {
        this.#context.removeSequence(sequence, 0);
        if (prefix > 0) this.#context.copySequence(0, sequence);
      } else {
        this.#context.removeSequence(sequence, prefix);
      }
    }
    this.#lengths[slot] = prefix;
  }

  #resetAll(): void {
    for (const slot of this.#runs.keys()) this.#reset(slot);
  }

  /** The first one goes on in the prefix's own sequence where that can be cut back afterwards. */
  #sequences(slot: number): number[] {
    const { streams } = this.#group;
    const first = slot * streams + (this.#limits.isRecurrent ? 1 : 0);
    return Array.from({ length: streams }, (_, stream) => first + stream);
  }

  get #batchLimits(): BatchLimits {
    return { tokens: this.#limits.batchTokens, outputs: this.#limits.outputs, layout: this.#layout };
  }
}

/** Positions of a prompt that are read. */
function readsOf({ tokenIndexes = [] }: RowReading): number {
  return 1 + tokenIndexes.length;
}

/** What is done at the k-th generated token, counted from 1. */
function atGenerated(edit: TurnedEdit, k: number): TurnedEdit | undefined {
  const { atGenerated = false, alpha = 1, decay = 1 } = edit;
  return atGenerated && decay > 0 ? { ...edit, alpha: alpha * decay ** k } : undefined;
}

/** @param other where the row's other sequence is read. */
function contrastOf({ row: { contrast } }: GroupRow, other: number | undefined): RowContrast | undefined {
  if (contrast === undefined) return undefined;
  const { cutoff } = contrast;
  if ('edits' in contrast) return { own: 1, difference: contrast.alpha, cutoff, row: other! };
  const states = contrast.layers.map((layer) => ({
    site: layer === 'embed' ? ('embed' as const) : ('resid_out' as const),
    layer,
  }));
  return { own: 0, difference: 1, cutoff, states };
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
