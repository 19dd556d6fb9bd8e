/** The engines of two models, the source's and the target's: both in memory, or one after the other. */
import { distinct } from '../adapters.js';
import { openDevices } from '../devices.js';
import type { Engine, EngineRecord, Tokenizer } from '../engine.js';
import { PatchscopeError } from '../errors.js';
import type { ResolvedModel } from '../models/resolve.js';
import { type EngineOptions, openEngine } from './llama-engine.js';
import { LlamaTokenizer } from './tokenizer.js';

/** `auto`: together where both fit into memory. */
export const modelsChoices = ['auto', 'together', 'in-turn'] as const;
export type ModelsChoice = (typeof modelsChoices)[number];

export interface PairOptions extends EngineOptions {
  /** Default: `auto`. */
  readonly models?: ModelsChoice;
  /** As `gpuLayers`, for the source's model. Default: the same. */
  readonly sourceGpuLayers?: EngineOptions['gpuLayers'];
  /** As `adapters`, for the source's model. Default: none. */
  readonly sourceAdapters?: EngineOptions['adapters'];
}

export interface EnginePair {
  readonly source: Engine;
  /** The same one where both models are one file. */
  readonly target: Engine;
  /** Whether work of one closes the other. */
  readonly areInTurn: boolean;
  /** Idempotent. */
  close(): Promise<void>;
}

export interface Openers {
  readonly openEngine: typeof openEngine;
  readonly openTokenizer: typeof openTokenizer;
}

/** @throws PatchscopeError as `openEngine` does. */
export async function openPair(
  source: ResolvedModel,
  target: ResolvedModel,
  { models = 'auto', sourceGpuLayers, sourceAdapters = [], ...options }: PairOptions = {},
  openers: Openers = { openEngine, openTokenizer },
): Promise<EnginePair> {
  const { gpuLayers } = options;
  const ofSource = {
    ...options,
    adapters: sourceAdapters,
    ...((sourceGpuLayers ?? gpuLayers) !== undefined && { gpuLayers: sourceGpuLayers ?? gpuLayers! }),
  };
  if (source.sha256 === target.sha256) {
    const adapters = distinct([...sourceAdapters, ...(options.adapters ?? [])]);
    const engine = await openers.openEngine(target, { ...options, adapters });
    return { source: engine, target: engine, areInTurn: false, close: () => engine.close() };
  }
  if (models === 'in-turn' || (models === 'auto' && !fitTogether(source, target, options))) {
    return openInTurn(source, target, ofSource, options, openers);
  }
  const first = await openers.openEngine(source, ofSource);
  try {
    const second = await openers.openEngine(target, options);
    return {
      source: first,
      target: second,
      areInTurn: false,
      close: async () => void (await Promise.all([first.close(), second.close()])),
    };
  } catch (error) {
    await first.close();
    if (!(error instanceof PatchscopeError && error.code === 'out_of_memory')) throw error;
    throw new PatchscopeError(
      'out_of_memory',
      `Both models do not fit into memory together (${error.message.replace(/[.]$/, '')}): use --models in-turn.`,
      { cause: error },
    );
  }
}

/** Beside the weights there are the K/V caches, and what is computed in. */
const BESIDE_WEIGHTS = 1.3;

function fitTogether(source: ResolvedModel, target: ResolvedModel, { onNote }: EngineOptions): boolean {
  const needed = BESIDE_WEIGHTS * (source.bytes + target.bytes);
  const free = process.availableMemory?.();
  if (free === undefined || needed <= free) return true;
  const [need, have] = [needed, free].map((bytes) => (bytes / 1e9).toFixed(1));
  onNote?.(
    `Both models would need about ${need} GB where ${have} GB are free: they are loaded one after the other (--models together says otherwise).`,
  );
  return false;
}

/** The vocabulary of a model whose weights are not in memory. */
export async function openTokenizer(
  file: ResolvedModel,
  { gpu = 'auto' }: Pick<EngineOptions, 'gpu'>,
  decoderStartToken: number | undefined,
): Promise<{ readonly tokenizer: Tokenizer; close(): void }> {
  const { addon } = openDevices(gpu);
  const model = await addon.load(file.path, {
    ...{ gpuLayers: 0, devices: [], splitMode: 'layer', vocabularyOnly: true },
  });
  // it is one of the sizes that are not read
  const info = { ...model.describe(), decoderStartToken: decoderStartToken ?? -1 };
  return { tokenizer: new LlamaTokenizer(model, info), close: () => model.close() };
}

async function openInTurn(
  source: ResolvedModel,
  target: ResolvedModel,
  ofSource: EngineOptions,
  ofTarget: EngineOptions,
  openers: Openers,
): Promise<EnginePair> {
  const turns = new Turns();
  const closers: (() => void)[] = [];
  const close = async () => {
    await turns.close();
    for (const one of closers.splice(0)) one();
  };
  const prepare = async (file: ResolvedModel, options: EngineOptions): Promise<Engine> => {
    const engine = await openers.openEngine(file, options);
    try {
      const { record } = engine;
      const vocabulary = await openers.openTokenizer(file, options, engine.tokenizer.decoderStartToken);
      closers.push(() => vocabulary.close());
      // not anew what fits: what is opened again must compute the same
      const again = { ...options, gpuLayers: record.gpuLayers, onNote: () => undefined };
      return new EngineInTurn(record, vocabulary.tokenizer, turns, () => openers.openEngine(file, again));
    } finally {
      await engine.close();
    }
  };
  try {
    return {
      target: await prepare(target, ofTarget),
      source: await prepare(source, ofSource),
      areInTurn: true,
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** One engine is open at most, and what is asked of any of them is done one after the other. */
class Turns {
  #open: { readonly by: object; readonly engine: Engine } | undefined;
  #last: Promise<unknown> = Promise.resolve();
  #closed = false;

  take<T>(by: object, open: () => Promise<Engine>, work: (engine: Engine) => Promise<T>): Promise<T> {
    const turn = this.#last
      .catch(() => undefined)
      .then(async () => {
        if (this.#closed) throw new PatchscopeError('closed', 'The engine was closed.');
        if (this.#open?.by !== by) {
          await this.#open?.engine.close();
          this.#open = undefined;
          this.#open = { by, engine: await open() };
        }
        return work(this.#open.engine);
      });
    this.#last = turn;
    return turn;
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#open?.engine.close();
    await this.#last.catch(() => undefined);
    await this.#open?.engine.close();
  }
}

class EngineInTurn implements Engine {
  readonly record: EngineRecord;
  readonly tokenizer: Tokenizer;
  readonly #turns: Turns;
  readonly #open: () => Promise<Engine>;

  constructor(record: EngineRecord, tokenizer: Tokenizer, turns: Turns, open: () => Promise<Engine>) {
    this.record = record;
    this.tokenizer = tokenizer;
    this.#turns = turns;
    this.#open = open;
  }

  capture(...asked: Parameters<Engine['capture']>) {
    return this.#take((engine) => engine.capture(...asked));
  }

  patch(...asked: Parameters<Engine['patch']>) {
    return this.#take((engine) => engine.patch(...asked));
  }

  lens(...asked: Parameters<Engine['lens']>) {
    return this.#take((engine) => engine.lens(...asked));
  }

  tolerance(...asked: Parameters<Engine['tolerance']>) {
    return this.#take((engine) => engine.tolerance(...asked));
  }

  close(): Promise<void> {
    return this.#turns.close();
  }

  #take<T>(work: (engine: Engine) => Promise<T>): Promise<T> {
    return this.#turns.take(this, this.#open, work);
  }
}
