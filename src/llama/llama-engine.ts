/** The engine over the addon: checks what it is given, then keeps one model and one context. */

import { blockDevices, checkSplitMode, type GpuChoice, loadedLibrary, openDevices } from '../devices.js';
import type {
  CacheLayout,
  CaptureRequest,
  CaptureResult,
  Engine,
  EngineRecord,
  LensReading,
  LensResult,
  PatchRow,
  RowReading,
  RowResult,
  WorkOptions,
} from '../engine.js';
import { asPatchscopeError, PatchscopeError } from '../errors.js';
import { type GpuLayers, resolveGpuLayers } from '../gpu-layers/resolve.js';
import { checkResolved, type ResolvedModel } from '../models/resolve.js';
import type { NativeDevice, NativeModel, NativeModelInfo, SplitMode } from '../native.js';
import { packageVersion } from '../package-version.js';
import type { Adapter } from '../patchscope.js';
import { defaultThreads } from '../threads.js';
import { connectWorkers, type Workers } from '../workers.js';
import { loadAdapters } from './adapters.js';
import { captureStates } from './capture.js';
import { Checks, checkReading } from './checks.js';
import { provePermutable, tolerance } from './company.js';
import { ContextPool } from './context-pool.js';
import { keptTolerance } from './kept-tolerance.js';
import { LensReader } from './lens.js';
import { cacheBounds, type LimitOptions, Limits } from './limits.js';
import { Patcher } from './patch.js';
import { LlamaTokenizer } from './tokenizer.js';

export interface EngineOptions extends LimitOptions {
  readonly gpu?: GpuChoice;
  /** Blocks on GPU devices; default: `auto`, as many as fit. */
  readonly gpuLayers?: GpuLayers;
  /** Workers, HOST:PORT each, whose devices take blocks like GPUs. */
  readonly rpc?: readonly string[];
  /** How blocks are shared out where there are several GPU devices; default: `layer`. */
  readonly splitMode?: SplitMode;
  /** Default: the least of physical cores, CPU affinity and container quota. */
  readonly threads?: number;
  readonly flashAttention?: boolean;
  /** K/V types as llama.cpp writes them: f16 (default), f32, bf16, q8_0, ... */
  readonly typeK?: string;
  readonly typeV?: string;
  /** That prompts may be read with, one at a time. */
  readonly adapters?: readonly Adapter[];
  /** One line for a person, such as how many layers fit the GPU. */
  readonly onNote?: (line: string) => void;
}

/**
 * Loads a model.
 *
 * @throws PatchscopeError `bad_model` for a file that is no usable model, `no_site` for an architecture
 *   without a plain residual stream, `no_device` for a device that is not there, `out_of_memory`.
 */
export async function openEngine(file: ResolvedModel, options: EngineOptions = {}): Promise<Engine> {
  checkResolved(file);
  checkOptions(options);
  const gpu = options.gpu ?? 'auto';
  const splitMode = checkSplitMode(options.splitMode ?? 'layer');
  const settings = {
    threads: options.threads ?? defaultThreads(),
    flashAttention: options.flashAttention ?? true,
    typeK: options.typeK ?? 'f16',
    typeV: options.typeV ?? 'f16',
  };
  if (!settings.flashAttention && /^q|^iq/.test(settings.typeV)) {
    throw new PatchscopeError(
      'bad_input',
      `A V cache of type ${settings.typeV} needs flash attention: use -fa on.`,
    );
  }
  const own = openDevices(gpu);
  const workers = await connectWorkers(own.addon, options.rpc ?? []);
  let model: NativeModel | undefined;
  try {
    const devices = { ...own, gpus: [...workers.devices, ...own.gpus] };
    await devices.addon.check(file.parts);
    const candidates = blockDevices(devices, splitMode);
    const gpuLayers = await resolveGpuLayers({
      asked: options.gpuLayers ?? 'auto',
      freeBytes: candidates.map(({ freeBytes }) => freeBytes),
      gpusAreOff: gpu === 'off' && workers.devices.length === 0,
      task: { path: file.path, ...cacheBounds(options), ...settings },
      onNote: options.onNote,
    });
    const gpus = gpuLayers > 0 ? candidates : [];
    model = await devices.addon.load(file.path, {
      gpuLayers,
      devices: gpus.map(({ name }) => name),
      splitMode,
    });
    const info = model.describe();
    checkModel(info);
    const adapters = await loadAdapters(model, file, options.adapters ?? []);
    const pool = await ContextPool.open(model, settings, gpuLayers === 0, adapters.loaded);
    const limits = new Limits(info, pool.bytesPerCell, options);
    const record: EngineRecord = {
      path: file.path,
      sha256: file.sha256,
      bytes: file.bytes,
      architecture: info.architecture,
      name: info.name,
      quantization: info.quantization,
      layerCount: info.layerCount,
      encoderLayerCount: info.encoderLayerCount,
      embeddingSize: info.embeddingSize,
      vocabularySize: info.vocabularySize,
      trainedContext: info.trainedContext,
      llamaCpp: devices.addon.llamaCpp,
      packageVersion,
      addon: devices.addon.sha256.slice(0, 12),
      backend: devices.addon.variant,
      devices: [devices.cpu, ...gpus].map(describeDevice),
      gpuLayers: Math.min(gpuLayers, Math.max(info.layerCount, info.encoderLayerCount) + 1),
      splitMode,
      ...(adapters.records.length > 0 && { adapters: adapters.records }),
      ...settings,
      exact: limits.exact,
      batchTokens: limits.batchTokens,
      batchRows: limits.batchRows,
      batchOutputs: limits.outputs,
      cacheTokenBytes: pool.bytesPerCell,
      noStreams: limits.noStreams,
      promptTokens: limits.promptTokens,
    };
    const engine = new LlamaEngine(model, pool, limits, record, workers);
    if (limits.exact) {
      await provePermutable(engine).catch(async (error: unknown) => {
        await engine.close();
        throw error;
      });
    }
    return engine;
  } catch (error) {
    model?.close();
    workers.release();
    throw asPatchscopeError(error);
  }
}

class LlamaEngine implements Engine {
  readonly record: EngineRecord;
  readonly tokenizer: LlamaTokenizer;
  readonly #model: NativeModel;
  readonly #pool: ContextPool;
  readonly #limits: Limits;
  readonly #patcher: Patcher;
  readonly #lens: LensReader;
  readonly #checks: Checks;
  readonly #workers: Workers;
  #last: Promise<unknown> = Promise.resolve();
  #closed = false;

  constructor(model: NativeModel, pool: ContextPool, limits: Limits, record: EngineRecord, workers: Workers) {
    this.record = record;
    this.tokenizer = new LlamaTokenizer(model);
    this.#model = model;
    this.#pool = pool;
    this.#limits = limits;
    this.#patcher = new Patcher(pool, limits, this.tokenizer);
    this.#lens = new LensReader(pool, limits, this.#patcher, record);
    this.#checks = new Checks(record, (adapter) => pool.graph(adapter));
    this.#workers = workers;
  }

  async capture(requests: readonly CaptureRequest[], options: WorkOptions = {}): Promise<CaptureResult[]> {
    this.#checks.cacheLayout(options.cacheLayout);
    for (const request of requests) {
      this.#checks.input(request, 0);
      for (const point of request.points) this.#checks.point(point, request);
    }
    return this.#alone(() => captureStates(requests, this.#pool, this.#limits, options));
  }

  async patch(
    rows: readonly PatchRow[],
    reading: RowReading,
    options: WorkOptions = {},
  ): Promise<RowResult[]> {
    this.#checks.cacheLayout(options.cacheLayout);
    checkReading(reading);
    for (const row of rows) this.#checks.row(row, reading);
    this.#checks.tokens(reading.trackedTokens ?? []);
    return this.#alone(async () => {
      const contrasted = rows.filter(({ contrast }) => contrast && 'layers' in contrast);
      for (const adapter of new Set(contrasted.map((row) => row.adapter))) {
        if (await this.#lens.isFast(adapter)) continue;
        throw new PatchscopeError(
          'no_site',
          "The layers of this model can't be contrasted: the end of its graph does not run on its own.",
        );
      }
      return this.#patcher.patch(rows, this.#bounded(reading), options);
    });
  }

  async lens(
    states: Float32Array,
    reading: LensReading,
    { signal }: Pick<WorkOptions, 'signal'> = {},
  ): Promise<LensResult[]> {
    if (!(states instanceof Float32Array)) throw new TypeError('Expected states to be a Float32Array.');
    const width = this.record.embeddingSize;
    if (states.length === 0 || states.length % width !== 0) {
      throw new PatchscopeError(
        'bad_input',
        `States for this model are ${width} floats each, not ${states.length} in all.`,
      );
    }
    this.#checks.adapter(reading.adapter);
    checkReading({ ...reading, maxTokens: 0 });
    this.#checks.tokens(reading.trackedTokens ?? []);
    return this.#alone(() => this.#lens.read(states, this.#bounded(reading), signal));
  }

  async tolerance(rows: number, cacheLayout: CacheLayout = 'unified'): Promise<number | null> {
    this.#checks.cacheLayout(cacheLayout);
    return tolerance(this, Math.min(rows, this.record.batchRows), cacheLayout, keptTolerance);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#pool.end(); // a decode under way ends with code `closed`
    await this.#last.catch(() => undefined);
    this.#model.close();
    this.#workers.release();
  }

  /** One thing at a time: there is one context. */
  #alone<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#last
      .catch(() => undefined)
      .then(async () => {
        if (this.#closed) throw new PatchscopeError('closed', 'The engine was closed.');
        try {
          return await work();
        } catch (error) {
          throw asPatchscopeError(error);
        }
      });
    this.#last = turn;
    return turn;
  }

  /** More tokens than there are can't be the most probable ones. */
  #bounded<T extends { readonly topK: number }>(reading: T): T {
    return { ...reading, topK: Math.min(reading.topK, this.record.vocabularySize) };
  }
}

/** ggml's own bound. */
const MAX_THREADS = 512;

function checkOptions(options: EngineOptions): void {
  for (const key of ['threads', 'contextSize', 'batchTokens', 'batchRows'] as const) {
    const value = options[key];
    if (value !== undefined && (!Number.isInteger(value) || value < 1 || value > 2 ** 31 - 1)) {
      throw new PatchscopeError(
        'bad_input',
        `${key} is ${value} where a whole number of at least 1 is needed.`,
      );
    }
  }
  if ((options.threads ?? 1) > MAX_THREADS) {
    throw new PatchscopeError(
      'bad_input',
      `threads is ${options.threads} where at most ${MAX_THREADS} can be used.`,
    );
  }
  const { gpuLayers = 'auto' } = options;
  if (gpuLayers !== 'auto' && gpuLayers !== 'all' && (!Number.isInteger(gpuLayers) || gpuLayers < 0)) {
    throw new PatchscopeError(
      'bad_input',
      `gpuLayers is ${gpuLayers} where auto, all or a whole number of at least 0 is needed.`,
    );
  }
}

/** @throws PatchscopeError `bad_model` for a model that does not read from left to right. */
export function checkModel(info: NativeModelInfo): void {
  if (!info.hasDecoder || info.isDiffusion) {
    throw new PatchscopeError(
      'bad_model',
      `The architecture ${info.architecture} is not a decoder that reads from left to right: take a causal language model.`,
    );
  }
  if (info.hasEncoder && info.decoderStartToken < 0) {
    throw new PatchscopeError(
      'bad_model',
      `The architecture ${info.architecture} has an encoder, and the file does not say which token its decoder starts from (${info.architecture}.decoder_start_token_id).`,
    );
  }
}

function describeDevice({ name, description, registry }: NativeDevice) {
  return { name, description, library: loadedLibrary(registry) };
}
