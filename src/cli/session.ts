/** What every command that runs a model does around its own work. */
import fs from 'node:fs';
import {
  defaultThreads,
  type Engine,
  type EngineOptions,
  type Observation,
  openEngine,
  openStore,
  PatchscopeError,
  type RunHeader,
  recordRun,
  resolveModel,
} from '../index.js';
import { downloadProgress } from './progress.js';
import { wholeNumber } from './values.js';

export interface EngineArguments {
  readonly model: string;
  readonly gpu: NonNullable<EngineOptions['gpu']>;
  readonly gpuLayers?: string | undefined;
  readonly ctxSize?: string | undefined;
  readonly threads?: string | undefined;
  readonly flashAttn: 'auto' | 'on' | 'off';
  readonly cacheTypeK: string;
  readonly cacheTypeV: string;
  readonly exact: boolean;
}

export function note(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** Finds, fetches if need be, and loads a model; closes it after the work. */
export async function withEngine<T>(args: EngineArguments, work: (engine: Engine) => Promise<T>): Promise<T> {
  const threads = wholeNumber(args.threads, '-t', 1);
  const gpuLayers = wholeNumber(args.gpuLayers, '-ngl', 0);
  const contextSize = wholeNumber(args.ctxSize, '-c', 1);
  const best = defaultThreads();
  if (threads !== undefined && threads > best) {
    note(`Warning: -t ${threads} is more than the ${best} this process has: that can be many times slower.`);
  }
  const file = await fetchModel(args.model);
  const engine = await openEngine(file, {
    gpu: args.gpu,
    flashAttention: args.flashAttn !== 'off',
    typeK: args.cacheTypeK,
    typeV: args.cacheTypeV,
    exact: args.exact,
    ...(threads !== undefined && { threads }),
    ...(gpuLayers !== undefined && { gpuLayers }),
    ...(contextSize !== undefined && { contextSize }),
  });
  try {
    const { record } = engine;
    note(
      `model   ${record.name || record.architecture} ${record.quantization}, ${record.layerCount} layers, on ${record.devices.map(({ name }) => name).join(' and ')} (llama.cpp ${record.llamaCpp}, ${record.threads} threads)`,
    );
    return await work(engine);
  } finally {
    await engine.close();
  }
}

export async function fetchModel(spec: string) {
  const progress = downloadProgress();
  try {
    return await resolveModel(spec, { onNote: note, onProgress: progress.update });
  } finally {
    progress.stop();
  }
}

/** Refuses a second model, until two can be used at once. */
export async function checkSameModel(model: string, targetModel: string | undefined): Promise<void> {
  if (targetModel === undefined || targetModel === model) return;
  const [source, target] = [await fetchModel(model), await fetchModel(targetModel)];
  if (source.sha256 !== target.sha256) {
    throw new PatchscopeError(
      'bad_input',
      `Source and target model must be the same in this version: --target-model ${targetModel} is not ${model}.`,
    );
  }
}

/** Stores observations as they come, unless `db` is off. */
export function stored(
  observations: AsyncIterable<Observation[]>,
  header: RunHeader,
  engine: Engine,
  db: string | false,
): AsyncIterable<Observation[]> {
  if (db === false) return observations;
  const store = openStore(db);
  const recorded = recordRun(observations, header, engine, store);
  return (async function* () {
    try {
      yield* recorded;
    } finally {
      store.close();
    }
  })();
}

/** As it was typed, fit to be typed again. */
export function commandLine(): string {
  const quoted = process.argv
    .slice(2)
    .map((word) => (/^[\w./:=,+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`));
  return ['patchscopes', ...quoted].join(' ');
}

/** Aborts at the first Ctrl-C, after which the work ends by itself; a second one ends the process. */
export function interruptSignal(): AbortSignal {
  const controller = new AbortController();
  process.on('SIGINT', () => {
    if (controller.signal.aborted) process.exit(EXIT.interrupted);
    note('Interrupted: ending after the batch under way (Ctrl-C again ends at once).');
    controller.abort();
  });
  return controller.signal;
}

export const EXIT = { ok: 0, someFailed: 1, badInput: 2, interrupted: 130 } as const;

/** Standard output may be a pipe that ends early (`| head`): that is no error. */
export function ignoreClosedPipe(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    process.exit(EXIT.ok);
  });
}

export function print(line: string): void {
  fs.writeSync(1, `${line}\n`);
}
