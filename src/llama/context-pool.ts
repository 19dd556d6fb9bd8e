/** One context of each layout at a time, as large as the work at hand asks for. */
import os from 'node:os';
import type { CacheLayout } from '../engine.js';
import { PatchscopeError } from '../errors.js';
import type { NativeContext, NativeContextOptions, NativeModel, NativeSites } from '../native.js';
import type { Side } from '../patchscope.js';

export type ContextSize = Pick<NativeContextOptions, 'cells' | 'batchTokens' | 'sequences' | 'outputs'>;
export type ContextSettings = Omit<NativeContextOptions, keyof ContextSize | 'streams'>;

/** A process that ends waits for a decode under way: these are told to stop. */
const live = new Set<ContextPool>();
process.on('exit', () => {
  for (const pool of live) pool.end();
});

interface Facts {
  readonly bytesPerCell: number;
  /** The K/V cache lies in this machine's own memory. */
  readonly onHost: boolean;
  readonly vocabularySize: number;
  readonly sites: Readonly<Partial<Record<Side, NativeSites>>>;
  readonly uncuttable: readonly (string | null)[];
}

export class ContextPool {
  readonly #model: NativeModel;
  readonly #settings: ContextSettings;
  readonly #facts: Facts;
  readonly #kept: Record<CacheLayout, Kept> = { unified: nothing(), streams: nothing() };
  #ended = false;

  private constructor(model: NativeModel, settings: ContextSettings, facts: Facts) {
    this.#model = model;
    this.#settings = settings;
    this.#facts = facts;
    live.add(this);
  }

  /**
   * Makes a small context once: it finds the sites, or says why there are none, and tells what a cell takes.
   *
   * @param onHost the K/V cache lies in this machine's own memory.
   */
  static async open(model: NativeModel, settings: ContextSettings, onHost: boolean): Promise<ContextPool> {
    const cells = 256;
    const probe = await model
      .createContext({ ...settings, cells, batchTokens: 8, sequences: 1, outputs: 2 })
      .catch((error: Error & { code?: string }) => {
        const isPlain = settings.typeK === 'f16' && settings.typeV === 'f16';
        if (error.code !== 'out_of_memory' || isPlain) throw error;
        throw new PatchscopeError(
          'bad_input',
          `This model can't have a K/V cache of types ${settings.typeK} and ${settings.typeV} (${error.message.replace(/\.$/, '')}): use f16.`,
          { cause: error },
        );
      });
    const { memoryBytes, sites: decoder, encoderSites: encoder, uncuttable } = probe.describe();
    probe.close();
    const { vocabularySize } = model.describe();
    return new ContextPool(model, settings, {
      bytesPerCell: memoryBytes / cells,
      onHost,
      vocabularySize,
      sites: { decoder, ...(encoder && { encoder }) },
      uncuttable,
    });
  }

  get bytesPerCell(): number {
    return this.#facts.bytesPerCell;
  }

  get sites(): Facts['sites'] {
    return this.#facts.sites;
  }

  /** For each block why no edge of its attention can be cut, or null. */
  get uncuttable(): Facts['uncuttable'] {
    return this.#facts.uncuttable;
  }

  /** An empty context of at least this size; the last one of the layout is closed if it is too small. */
  async take(needed: ContextSize, layout: CacheLayout = 'unified'): Promise<NativeContext> {
    const kept = this.#kept[layout];
    if (kept.context === undefined || exceeds(needed, kept.size)) {
      close(kept);
      const size = grown(needed, kept.size, layout);
      this.#checkMemory(size, layout);
      const context = await this.#model.createContext({
        ...this.#settings,
        ...size,
        streams: layout === 'streams',
      });
      if (this.#ended) {
        context.close();
        throw new PatchscopeError('closed', 'The engine was closed.');
      }
      Object.assign(kept, { context, size });
    }
    kept.context!.clear();
    return kept.context!;
  }

  /** Closes the contexts. NaN in their cells would spoil what is computed beside them, masked or not. */
  discard(): void {
    for (const kept of Object.values(this.#kept)) close(kept);
  }

  /** A decode under way ends with code `closed`, and no other context is made. */
  end(): void {
    this.#ended = true;
    live.delete(this);
    this.discard();
  }

  #checkMemory(size: ContextSize, layout: CacheLayout): void {
    if (!this.#facts.onHost) return; // a device refuses by itself
    const { outputs } = size;
    const cells = allCells(size, layout);
    const wanted = cells * this.#facts.bytesPerCell + 2 * outputs * this.#facts.vocabularySize * 4;
    const available = process.availableMemory?.() ?? os.freemem();
    if (wanted > available) {
      throw new PatchscopeError(
        'out_of_memory',
        `A context of ${cells} cells takes ${gigabytes(wanted)} GB where ${gigabytes(available)} GB are free: use a smaller -c, or -ctk and -ctv q8_0.`,
      );
    }
  }
}

interface Kept {
  context: NativeContext | undefined;
  size: ContextSize;
}

function nothing(): Kept {
  return { context: undefined, size: { cells: 0, batchTokens: 0, sequences: 0, outputs: 0 } };
}

function close(kept: Kept): void {
  kept.context?.close();
  kept.context = undefined;
}

function allCells({ cells, sequences }: ContextSize, layout: CacheLayout): number {
  return layout === 'streams' ? cells * sequences : cells;
}

/** At least what is needed; no more cells than were asked for at any time, though many streams may grow long. */
function grown(needed: ContextSize, last: ContextSize, layout: CacheLayout): ContextSize {
  const both = largest(needed, last);
  const most = Math.max(allCells(needed, layout), allCells(last, layout));
  return allCells(both, layout) <= most ? both : needed;
}

function exceeds(a: ContextSize, b: ContextSize): boolean {
  return (
    a.cells > b.cells || a.batchTokens > b.batchTokens || a.sequences > b.sequences || a.outputs > b.outputs
  );
}

function largest(a: ContextSize, b: ContextSize): ContextSize {
  return {
    cells: Math.max(a.cells, b.cells),
    batchTokens: Math.max(a.batchTokens, b.batchTokens),
    sequences: Math.max(a.sequences, b.sequences),
    outputs: Math.max(a.outputs, b.outputs),
  };
}

function gigabytes(bytes: number): string {
  return (bytes / 1e9).toFixed(1);
}
