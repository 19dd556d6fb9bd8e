/** The engine over the addon: checks what it is given, then keeps one model and one context. */

import { type Devices, type GpuChoice, loadedLibrary, openDevices, resolveGpuLayers } from '../devices.js';
import type {
  CapturePoint,
  CaptureRequest,
  CaptureResult,
  Edit,
  Engine,
  EngineRecord,
  LensReading,
  LensResult,
  PatchRow,
  RowReading,
  RowResult,
} from '../engine.js';
import { asPatchscopeError, PatchscopeError } from '../errors.js';
import { checkResolved, type ResolvedModel } from '../models/resolve.js';
import type { NativeModel, NativeModelInfo } from '../native.js';
import { packageVersion } from '../package-version.js';
import { defaultThreads } from '../threads.js';
import { captureStates } from './capture.js';
import { ContextPool } from './context-pool.js';
import { LensReader } from './lens.js';
import { type LimitOptions, Limits } from './limits.js';
import { Patcher } from './patch.js';
import { LlamaTokenizer } from './tokenizer.js';

export interface EngineOptions extends LimitOptions {
  readonly gpu?: GpuChoice;
  /** Blocks on GPU devices; default: all where there is one. */
  readonly gpuLayers?: number;
  /** Default: the least of physical cores, CPU affinity and container quota. */
  readonly threads?: number;
  readonly flashAttention?: boolean;
  /** K/V types as llama.cpp writes them: f16 (default), f32, bf16, q8_0, ... */
  readonly typeK?: string;
  readonly typeV?: string;
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
  const devices = openDevices(gpu);
  const gpuLayers = resolveGpuLayers(options.gpuLayers, devices, gpu);
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
  if (options.exact && (!settings.flashAttention || gpuLayers > 0)) {
    throw new PatchscopeError(
      'bad_input',
      'Exact mode was only seen to hold with flash attention on the CPU: leave --exact out, or use -fa on and -ngl 0.',
    );
  }
  let model: NativeModel | undefined;
  try {
    await devices.addon.check(file.parts);
    model = await devices.addon.load(file.path, gpuLayers);
    const info = model.describe();
    checkModel(info);
    const pool = await ContextPool.open(model, settings, gpuLayers === 0);
    const limits = new Limits(info, pool.bytesPerCell, options);
    const record: EngineRecord = {
      path: file.path,
      sha256: file.sha256,
      bytes: file.bytes,
      architecture: info.architecture,
      name: info.name,
      quantization: info.quantization,
      layerCount: info.layerCount,
      embeddingSize: info.embeddingSize,
      vocabularySize: info.vocabularySize,
      trainedContext: info.trainedContext,
      llamaCpp: devices.addon.llamaCpp,
      packageVersion,
      backend: devices.addon.variant,
      devices: usedDevices(devices, gpuLayers),
      gpuLayers: Math.min(gpuLayers, info.layerCount + 1),
      ...settings,
      exact: limits.exact,
      batchTokens: limits.batchTokens,
      batchRows: limits.batchRows,
      batchOutputs: limits.outputs,
      cacheLayout: 'unified',
      promptTokens: limits.promptTokens,
    };
    return new LlamaEngine(model, pool, limits, record);
  } catch (error) {
    model?.close();
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
  #last: Promise<unknown> = Promise.resolve();
  #closed = false;

  constructor(model: NativeModel, pool: ContextPool, limits: Limits, record: EngineRecord) {
    this.record = record;
    this.tokenizer = new LlamaTokenizer(model);
    this.#model = model;
    this.#pool = pool;
    this.#limits = limits;
    this.#patcher = new Patcher(pool, limits, this.tokenizer);
    this.#lens = new LensReader(pool, limits, this.#patcher, record);
  }

  async capture(requests: readonly CaptureRequest[]): Promise<CaptureResult[]> {
    for (const { tokenIds, points } of requests) {
      this.#checkPrompt(tokenIds, 0);
      for (const point of points) this.#checkPoint(point, tokenIds.length);
    }
    return this.#alone(() => captureStates(requests, this.#pool, this.#limits));
  }

  async patch(rows: readonly PatchRow[], reading: RowReading): Promise<RowResult[]> {
    checkReading(reading);
    for (const { tokenIds, edits } of rows) {
      this.#checkPrompt(tokenIds, reading.maxTokens);
      const places = new Set<string>();
      for (const edit of edits) {
        this.#checkPoint(edit, tokenIds.length);
        this.#checkVector(edit);
        const place = `${edit.site} ${edit.layer} ${edit.tokenIndex}`;
        if (places.has(place)) {
          throw new PatchscopeError('bad_input', `Two edits of one row write the same state (${place}).`);
        }
        places.add(place);
      }
      for (const tokenIndex of reading.tokenIndexes ?? []) checkTokenIndex(tokenIndex, tokenIds.length);
    }
    this.#checkTokens(reading.trackedTokens ?? []);
    return this.#alone(() => this.#patcher.patch(rows, this.#bounded(reading)));
  }

  async lens(states: Float32Array, reading: LensReading): Promise<LensResult[]> {
    if (!(states instanceof Float32Array)) throw new TypeError('Expected states to be a Float32Array.');
    const width = this.record.embeddingSize;
    if (states.length === 0 || states.length % width !== 0) {
      throw new PatchscopeError(
        'bad_input',
        `States for this model are ${width} floats each, not ${states.length} in all.`,
      );
    }
    checkReading({ ...reading, maxTokens: 0 });
    this.#checkTokens(reading.trackedTokens ?? []);
    return this.#alone(() => this.#lens.read(states, this.#bounded(reading)));
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#pool.end(); // a decode under way ends with code `closed`
    await this.#last.catch(() => undefined);
    this.#model.close();
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

  #checkPrompt(tokenIds: readonly number[], maxTokens: number): void {
    if (!Array.isArray(tokenIds)) throw new TypeError('Expected tokenIds to be an array of numbers.');
    if (tokenIds.length === 0) {
      throw new PatchscopeError('bad_input', 'The prompt is empty: it needs at least one token.');
    }
    this.#checkTokens(tokenIds);
    const { promptTokens } = this.#limits;
    if (tokenIds.length + Math.max(0, maxTokens - 1) > promptTokens) {
      throw new PatchscopeError(
        'bad_input',
        `The prompt of ${tokenIds.length} tokens${maxTokens > 1 ? ` with ${maxTokens} more` : ''} is longer than the context of ${promptTokens}: shorten it${promptTokens < this.record.trainedContext ? ', or use a larger -c' : ''}.`,
      );
    }
  }

  #checkTokens(tokenIds: readonly number[]): void {
    for (const tokenId of tokenIds) {
      if (!Number.isInteger(tokenId) || tokenId < 0 || tokenId >= this.record.vocabularySize) {
        throw new PatchscopeError(
          'bad_input',
          `Token id ${tokenId} is outside the vocabulary, whose ids are 0 to ${this.record.vocabularySize - 1}.`,
        );
      }
    }
  }

  #checkPoint({ site, layer, tokenIndex }: CapturePoint, tokens: number): void {
    if (site !== 'embed' && site !== 'resid_out') {
      throw new PatchscopeError('bad_input', `There is no site '${site}': take embed or resid_out.`);
    }
    if ((site === 'embed') !== (layer === 'embed')) {
      throw new PatchscopeError('bad_input', `The site ${site} has no layer '${layer}'.`);
    }
    const last = this.record.layerCount - 1;
    if (layer !== 'embed' && (!Number.isInteger(layer) || layer < 0 || layer > last)) {
      throw new PatchscopeError(
        'bad_input',
        `Layer ${layer} is not in the model, whose layers are 0 to ${last}.`,
      );
    }
    checkTokenIndex(tokenIndex, tokens);
  }

  #checkVector({ vector, site, layer }: Edit): void {
    if (!(vector instanceof Float32Array)) throw new TypeError('Expected vector to be a Float32Array.');
    const width = this.record.embeddingSize;
    if (vector.length !== width) {
      throw new PatchscopeError(
        'bad_input',
        `The vector for ${site === 'embed' ? 'embed' : `layer ${layer}`} has ${vector.length} numbers where the model's states have ${width}.`,
      );
    }
    if (!vector.every(Number.isFinite)) {
      throw new PatchscopeError(
        'bad_input',
        `The vector for ${site === 'embed' ? 'embed' : `layer ${layer}`} holds NaN or infinity.`,
      );
    }
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
  const { gpuLayers } = options;
  if (gpuLayers !== undefined && (!Number.isInteger(gpuLayers) || gpuLayers < 0)) {
    throw new PatchscopeError(
      'bad_input',
      `gpuLayers is ${gpuLayers} where a whole number of at least 0 is needed.`,
    );
  }
}

function checkModel(info: NativeModelInfo): void {
  if (info.hasEncoder || !info.hasDecoder || info.isDiffusion) {
    throw new PatchscopeError(
      'bad_model',
      `The architecture ${info.architecture} is not a decoder that reads from left to right: take a causal language model.`,
    );
  }
}

function checkReading({ topK, maxTokens }: Pick<RowReading, 'topK' | 'maxTokens'>): void {
  for (const [name, value] of Object.entries({ topK, maxTokens })) {
    if (!Number.isInteger(value) || value < 0) {
      throw new PatchscopeError(
        'bad_input',
        `${name} is ${value} where a whole number of at least 0 is needed.`,
      );
    }
  }
}

function checkTokenIndex(tokenIndex: number, tokens: number): void {
  if (!Number.isInteger(tokenIndex) || tokenIndex < 0 || tokenIndex >= tokens) {
    throw new PatchscopeError(
      'bad_input',
      `Token index ${tokenIndex} is outside the prompt, whose ${tokens} tokens are 0 to ${tokens - 1}.`,
    );
  }
}

function usedDevices({ cpu, gpus }: Devices, gpuLayers: number) {
  return [cpu, ...(gpuLayers > 0 ? gpus : [])].map(({ name, description, registry }) => ({
    name,
    description,
    library: loadedLibrary(registry),
  }));
}
