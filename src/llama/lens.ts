/** What the model makes of a state after the last block: by the end of its graph alone, or by a whole run. */
import type { EngineRecord, LensReading, LensResult } from '../engine.js';
import { concatenate } from '../floats.js';
import { splitReadings } from './batch.js';
import { captureStates } from './capture.js';
import type { ContextPool } from './context-pool.js';
import type { Limits } from './limits.js';
import type { Patcher } from './patch.js';
import { nativeReadings, tokenReading } from './readings.js';

/** Normalized mean squared error of logits up to which two ways of computing them count as one. */
const SAME_LOGITS = 1e-4;

export class LensReader {
  readonly #pool: ContextPool;
  readonly #limits: Limits;
  readonly #patcher: Patcher;
  readonly #record: EngineRecord;
  /** By adapter. */
  readonly #fastIsRight = new Map<string | undefined, Promise<boolean>>();

  constructor(pool: ContextPool, limits: Limits, patcher: Patcher, record: EngineRecord) {
    this.#pool = pool;
    this.#limits = limits;
    this.#patcher = patcher;
    this.#record = record;
  }

  /** The fast way if it was seen to agree with the slow way on this model, else the slow way. */
  async read(states: Float32Array, reading: LensReading, signal?: AbortSignal): Promise<LensResult[]> {
    if (reading.way === 'fast') return this.#fast(states, reading, signal);
    if (reading.way === 'slow') return this.#slow(states, reading, signal);
    return (await this.isFast(reading.adapter))
      ? this.#fast(states, reading, signal)
      : this.#slow(states, reading, signal);
  }

  /** Whether the end of the model's graph alone was seen to give what a whole run gives. */
  isFast(adapter?: string): Promise<boolean> {
    let isRight = this.#fastIsRight.get(adapter);
    if (isRight === undefined) {
      isRight = this.#compare(adapter).catch((error: unknown) => {
        this.#fastIsRight.delete(adapter);
        throw error;
      });
      this.#fastIsRight.set(adapter, isRight);
    }
    return isRight;
  }

  async #compare(adapter: string | undefined): Promise<boolean> {
    const layers = [Math.floor(this.#record.layerCount / 2), this.#record.layerCount - 1];
    const points = layers.map((layer) => ({
      site: 'resid_out' as const,
      layer,
      tokenIndex: 1,
    }));
    const request = {
      tokenIds: [1, 2],
      ...this.#encoderInput,
      points,
      ...(adapter !== undefined && { adapter }),
    };
    const [captured] = await captureStates([request], this.#pool, this.#limits);
    if (captured?.status !== 'ok') return false;
    const states = concatenate(captured.states);
    const reading = { topK: 0, logits: true, adapter };
    try {
      const fast = await this.#fast(states, reading);
      const slow = await this.#slow(states, reading);
      return fast.every((result, i) => {
        const other = slow[i]!;
        return (
          result.status === 'ok' &&
          other.status === 'ok' &&
          difference(result.logits!, other.logits!) <= SAME_LOGITS
        );
      });
    } catch (error) {
      if ((error as { code?: unknown }).code === 'no_site') return false;
      throw error;
    }
  }

  async #fast(states: Float32Array, reading: LensReading, signal?: AbortSignal): Promise<LensResult[]> {
    const width = this.#record.embeddingSize;
    const count = states.length / width;
    const batch = Math.min(this.#limits.exact ? this.#limits.batchRows : count, this.#limits.outputs);
    const context = await this.#pool.take(
      { cells: batch, batchTokens: batch, sequences: 1, outputs: batch },
      { adapter: reading.adapter },
    );
    const asked = nativeReadings(reading);
    const results: LensResult[] = [];
    for (let begin = 0; begin < states.length; begin += batch * width) {
      signal?.throwIfAborted();
      let part = states.subarray(begin, begin + batch * width);
      const rows = part.length / width;
      if (this.#limits.exact) part = padded(part, batch * width);
      const read = await context.lens(part, asked, part.length / width);
      const tracked = new Array<number>(part.length / width).fill(asked.tracked.length);
      for (const raw of splitReadings(read, tracked).slice(0, rows)) {
        results.push(
          raw.finite
            ? { status: 'ok', ...tokenReading(raw, reading) }
            : {
                status: 'failed',
                code: 'not_finite',
                error: 'The logits of the state hold NaN or infinity.',
              },
        );
      }
    }
    return results;
  }

  /** What the encoder reads makes no difference after the last block. */
  get #encoderInput() {
    return this.#record.encoderLayerCount > 0 ? { encoderTokenIds: [0] } : {};
  }

  /** Always right: the state replaces the last block's output in a run of one token. */
  async #slow(states: Float32Array, reading: LensReading, signal?: AbortSignal): Promise<LensResult[]> {
    const width = this.#record.embeddingSize;
    const layer = this.#record.layerCount - 1;
    const rows = Array.from({ length: states.length / width }, (_, i) => ({
      tokenIds: [0],
      ...this.#encoderInput,
      ...(reading.adapter !== undefined && { adapter: reading.adapter }),
      edits: [
        {
          site: 'resid_out' as const,
          layer,
          tokenIndex: 0,
          vector: states.slice(i * width, (i + 1) * width),
        },
      ],
    }));
    const results = await this.#patcher.patch(rows, { ...reading, maxTokens: 1 }, { signal });
    return results.map((result) => (result.status === 'ok' ? { status: 'ok', ...result.steps[0]! } : result));
  }
}

/** One shape for every batch, where a state's reading must not depend on its company. */
function padded(states: Float32Array, length: number): Float32Array {
  const all = new Float32Array(length).fill(1);
  all.set(states);
  return all;
}

function difference(a: Float32Array, b: Float32Array): number {
  let error = 0;
  let scale = 0;
  for (let i = 0; i < a.length; i++) {
    error += (a[i]! - b[i]!) ** 2;
    scale += b[i]! ** 2;
  }
  return error / scale;
}
