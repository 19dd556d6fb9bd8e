/** One context of each layout and adapter at a time, as large as the work at hand asks for. */
import os from 'node:os';
import type { CacheLayout } from '../engine.js';
import { PatchscopeError } from '../errors.js';
import type { NativeContext, NativeContextOptions, NativeModel } from '../native.js';
import type { GraphFacts } from './checks.js';

export type ContextSize = Pick<NativeContextOptions, 'cells' | 'batchTokens' | 'sequences' | 'outputs'>;
export type ContextSettings = Omit<NativeContextOptions, keyof ContextSize | 'streams' | 'adapter'>;
/** By name. */
export type LoadedAdapters = ReadonlyMap<string, NonNullable<NativeContextOptions['adapter']>>;

/** What a context is for life. */
export interface ContextKind {
  /** Default: `unified`. */
  readonly layout?: CacheLayout;
  /** Name of the one that all is read with. Default: none. */
  readonly adapter?: string | undefined;
}

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
  readonly adapters: LoadedAdapters;
  /** By adapter. */
  readonly graphs: ReadonlyMap<string | undefined, GraphFacts>;
}

export class ContextPool {
  readonly #model: NativeModel;
  readonly #settings: ContextSettings;
  readonly #facts: Facts;
  readonly #kept = new Map<string, Kept>();
  #ended = false;

  private constructor(model: NativeModel, settings: ContextSettings, facts: Facts) {
    this.#model = model;
    this.#settings = settings;
    this.#facts = facts;
    live.add(this);
  }

  /**
   * Makes a small context once, and one with each adapter: it finds the sites, or says why there are none, and
   * tells what a cell takes.
   *
   * @param onHost the K/V cache lies in this machine's own memory.
   */
  static async open(
    model: NativeModel,
    settings: ContextSettings,
    onHost: boolean,
    adapters: LoadedAdapters,
  ): Promise<ContextPool> {
    const graphs = new Map<string | undefined, GraphFacts>();
    let bytesPerCell = 0;
    for (const [name, adapter] of [[undefined, undefined] as const, ...adapters]) {
      const probe = await probeContext(model, { ...settings, ...(adapter && { adapter }) });
      const { memoryBytes, sites: decoder, encoderSites: encoder, uncuttable } = probe.describe();
      probe.close();
      bytesPerCell = memoryBytes / PROBE_CELLS;
      graphs.set(name, { sites: { decoder, ...(encoder && { encoder }) }, uncuttable });
    }
    const { vocabularySize } = model.describe();
    return new ContextPool(model, settings, { bytesPerCell, onHost, vocabularySize, adapters, graphs });
  }

  get bytesPerCell(): number {
    return this.#facts.bytesPerCell;
  }

  /** What is known of the graph with an adapter, or with none. */
  graph(adapter: string | undefined): GraphFacts {
    return this.#facts.graphs.get(adapter)!;
  }

  /** An empty context of at least this size; the last one of its kind is closed if it is too small. */
  async take(needed: ContextSize, { layout = 'unified', adapter }: ContextKind = {}): Promise<NativeContext> {
    const key = JSON.stringify([layout, adapter]);
    const kept = this.#kept.get(key) ?? nothing();
    this.#kept.set(key, kept);
    if (kept.context === undefined || exceeds(needed, kept.size)) {
      close(kept);
      const size = grown(needed, kept.size, layout);
      this.#checkMemory(size, layout);
      const context = await this.#model.createContext({
        ...this.#settings,
        ...size,
        streams: layout === 'streams',
        ...(adapter !== undefined && { adapter: this.#facts.adapters.get(adapter)! }),
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
    for (const kept of this.#kept.values()) close(kept);
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

const PROBE_CELLS = 256;

async function probeContext(
  model: NativeModel,
  settings: ContextSettings & Pick<NativeContextOptions, 'adapter'>,
): Promise<NativeContext> {
  const size = { cells: PROBE_CELLS, batchTokens: 8, sequences: 1, outputs: 2 };
  return model.createContext({ ...settings, ...size }).catch((error: Error & { code?: string }) => {
    const isPlain = settings.typeK === 'f16' && settings.typeV === 'f16';
    if (error.code !== 'out_of_memory' || isPlain) throw error;
    throw new PatchscopeError(
      'bad_input',
      `This model can't have a K/V cache of types ${settings.typeK} and ${settings.typeV} (${error.message.replace(/\.$/, '')}): use f16.`,
      { cause: error },
    );
  });
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
