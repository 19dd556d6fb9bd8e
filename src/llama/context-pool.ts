/** One context at a time, as large as the work at hand asks for. */
import os from 'node:os';
import { PatchscopeError } from '../errors.js';
import type { NativeContext, NativeContextOptions, NativeModel } from '../native.js';

export type ContextSize = Pick<NativeContextOptions, 'cells' | 'batchTokens' | 'sequences' | 'outputs'>;
export type ContextSettings = Omit<NativeContextOptions, keyof ContextSize>;

export class ContextPool {
  readonly #model: NativeModel;
  readonly #settings: ContextSettings;
  readonly #bytesPerCell: number;
  readonly #onHost: boolean;
  readonly #vocabularySize: number;
  #size: ContextSize = { cells: 0, batchTokens: 0, sequences: 0, outputs: 0 };
  #context: NativeContext | undefined;

  private constructor(
    model: NativeModel,
    settings: ContextSettings,
    bytesPerCell: number,
    onHost: boolean,
    vocabularySize: number,
  ) {
    this.#model = model;
    this.#settings = settings;
    this.#bytesPerCell = bytesPerCell;
    this.#onHost = onHost;
    this.#vocabularySize = vocabularySize;
  }

  /**
   * Makes a small context once: it finds the sites, or says why there are none, and tells what a cell takes.
   *
   * @param onHost the K/V cache lies in this machine's own memory.
   */
  static async open(model: NativeModel, settings: ContextSettings, onHost: boolean): Promise<ContextPool> {
    const cells = 256;
    const probe = await model.createContext({
      ...settings,
      cells,
      batchTokens: 8,
      sequences: 1,
      outputs: 2,
    });
    const bytesPerCell = probe.describe().memoryBytes / cells;
    probe.close();
    return new ContextPool(model, settings, bytesPerCell, onHost, model.describe().vocabularySize);
  }

  get bytesPerCell(): number {
    return this.#bytesPerCell;
  }

  /** An empty context of at least this size; the last one is closed if it is too small. */
  async take(needed: ContextSize): Promise<NativeContext> {
    if (this.#context === undefined || exceeds(needed, this.#size)) {
      this.close();
      const size = largest(needed, this.#size);
      this.#checkMemory(size);
      this.#context = await this.#model.createContext({
        ...this.#settings,
        ...size,
      });
      this.#size = size;
    }
    this.#context.clear();
    return this.#context;
  }

  close(): void {
    this.#context?.close();
    this.#context = undefined;
  }

  #checkMemory({ cells, outputs }: ContextSize): void {
    if (!this.#onHost) return; // a device refuses by itself
    const wanted = cells * this.#bytesPerCell + 2 * outputs * this.#vocabularySize * 4;
    const available = process.availableMemory?.() ?? os.freemem();
    if (wanted > available) {
      throw new PatchscopeError(
        'out_of_memory',
        `A context of ${cells} cells takes ${gigabytes(wanted)} GB where ${gigabytes(available)} GB are free: use a smaller -c, or -ctk and -ctv q8_0.`,
      );
    }
  }
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
