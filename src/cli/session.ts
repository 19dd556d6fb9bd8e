/** What every command that runs a model does around its own work. */
import fs from 'node:fs';
import {
  type ChunkResult,
  cellsIn,
  checkSplitMode,
  checkStore,
  defaultThreads,
  type Engine,
  type EngineOptions,
  type EngineProcess,
  needUnfinishedRun,
  type Observation,
  openEngine,
  openEngineProcess,
  openStore,
  PatchscopeError,
  type Plan,
  type Probing,
  type RecordedEngine,
  type RunHeader,
  recordRun,
  resolveModel,
  type UnfinishedRun,
} from '../index.js';
import { cellProgress, downloadProgress } from './progress.js';
import { gpuLayersOf, wholeNumber } from './values.js';

export interface EngineArguments {
  readonly model: string;
  readonly gpu: NonNullable<EngineOptions['gpu']>;
  readonly gpuLayers: string;
  readonly splitMode: string;
  readonly rpc?: string | undefined;
  readonly ctxSize?: string | undefined;
  readonly threads?: string | undefined;
  readonly flashAttn: 'auto' | 'on' | 'off';
  readonly cacheTypeK: string;
  readonly cacheTypeV: string;
  readonly exact: boolean;
}

let quiet = false;

/** From here on nothing is noted but warnings and errors. */
export function beQuiet(): void {
  quiet = true;
}

export function note(line: string): void {
  if (!quiet || line.startsWith('Warning: ')) process.stderr.write(`${line}\n`);
}

/** What the options of a command mean to an engine. */
export function engineOptionsOf(args: EngineArguments): Omit<EngineOptions, 'onNote'> {
  const threads = wholeNumber(args.threads, '-t', 1);
  const contextSize = wholeNumber(args.ctxSize, '-c', 1);
  const best = defaultThreads();
  if (threads !== undefined && threads > best) {
    note(
      `Warning: -t ${threads} is more than the ${best} cores this process has, which can be many times slower: leave -t out for ${best}.`,
    );
  }
  return {
    gpu: args.gpu,
    gpuLayers: gpuLayersOf(args.gpuLayers),
    splitMode: checkSplitMode(args.splitMode),
    flashAttention: args.flashAttn !== 'off',
    typeK: args.cacheTypeK,
    typeV: args.cacheTypeV,
    exact: args.exact,
    ...(threads !== undefined && { threads }),
    ...(contextSize !== undefined && { contextSize }),
    ...(args.rpc !== undefined && { rpc: args.rpc.split(',') }),
  };
}

/** Finds, fetches if need be, and loads a model; closes it after the work. */
export async function withEngine<T>(
  args: EngineArguments,
  signal: AbortSignal,
  work: (engine: Engine) => Promise<T>,
): Promise<T> {
  const options = engineOptionsOf(args);
  const file = await fetchModel(args.model, signal);
  return closing(args.model, await openEngine(file, { ...options, onNote: note }), work);
}

/**
 * As `withEngine`, with the engine in a process of its own.
 *
 * @param states file that captured states are kept in; default: none.
 */
export async function withEngineProcess<T>(
  args: EngineArguments,
  signal: AbortSignal,
  work: (engine: EngineProcess) => Promise<T>,
  states?: string,
): Promise<T> {
  const engine = engineOptionsOf(args);
  const model = await fetchModel(args.model, signal);
  const options = { model, engine, onNote: note, ...(states !== undefined && { states }) };
  return closing(args.model, await openEngineProcess(options), work);
}

async function closing<E extends Pick<Engine, 'record' | 'close'>, T>(
  model: string,
  engine: E,
  work: (engine: E) => Promise<T>,
): Promise<T> {
  try {
    const { record } = engine;
    note(
      `model   ${model}: ${record.name || record.architecture} ${record.quantization}, ${record.layerCount} layers, on ${record.devices.map(({ name }) => name).join(' and ')} (llama.cpp ${record.llamaCpp}, -t ${record.threads})`,
    );
    return await work(engine);
  } finally {
    await engine.close();
  }
}

export async function fetchModel(spec: string, signal?: AbortSignal) {
  const progress = downloadProgress();
  try {
    return await resolveModel(spec, { signal, onNote: note, onProgress: progress.update });
  } finally {
    progress.stop();
  }
}

/** Refuses a second model, until two can be used at once. */
export async function checkSameModel(
  model: string,
  targetModel: string | undefined,
  signal: AbortSignal,
): Promise<void> {
  if (targetModel === undefined || targetModel === model) return;
  const [source, target] = [await fetchModel(model, signal), await fetchModel(targetModel, signal)];
  if (source.sha256 !== target.sha256) {
    throw new PatchscopeError(
      'bad_input',
      `Source and target model must be the same in this version: --target-model ${targetModel} is not ${model}.`,
    );
  }
}

export interface ResumedRun extends UnfinishedRun {
  /** How many it has. */
  readonly cells: number;
}

/** Stores chunks as they come, unless `db` is off, and says how far the work is. */
export async function* stored(
  chunks: AsyncIterable<ChunkResult>,
  header: RunHeader,
  engine: RecordedEngine,
  db: string | false,
  resumed?: ResumedRun,
  probing?: Probing,
): AsyncGenerator<ChunkResult & { readonly runId?: number }> {
  if (db !== false) checkStore(db);
  const progress = cellProgress(quiet ? 0 : header.cellsPlanned, resumed?.cells ?? 0);
  const kept =
    db === false ? chunks : recordRun(chunks, header, engine, () => openStore(db), resumed, probing);
  let done = 0;
  try {
    for await (const chunk of kept) {
      done += chunk.observations.length;
      progress.update(done);
      yield chunk;
    }
  } catch (error) {
    throw done > 0 ? new BrokenRunError((error as Error).message, { cause: error }) : error;
  } finally {
    progress.stop();
    if (db !== false && done > 0) note(`stored  ${done} cells in ${db}`);
  }
}

/** The run that `--resume` means, if it is given: a run's number, or nothing for the newest. */
export function resumedRun(
  resume: string | undefined,
  plan: Plan,
  header: RunHeader,
  engine: RecordedEngine,
  db: string | false,
): ResumedRun | undefined {
  if (resume === undefined) return undefined;
  if (db === false || !fs.existsSync(db)) {
    throw new PatchscopeError(
      'bad_input',
      db === false
        ? 'Without a results file there is nothing to --resume: leave --no-db out.'
        : `There is no results file ${db} with a run to --resume: name it with --db.`,
    );
  }
  const found = needUnfinishedRun(
    header,
    engine,
    () => openStore(db),
    wholeNumber(resume || undefined, '--resume', 1),
  );
  const cells = cellsIn(plan, found.doneChunks);
  note(`resumed run ${found.runId}, which has ${cells} of ${header.cellsPlanned} cells`);
  return { ...found, cells };
}

export interface CellOutput {
  readonly json: boolean;
  readonly toJson: (cell: Observation) => string;
  readonly toTable: (cells: readonly Observation[]) => string;
  /** Cells planned; fewer mean that the run was interrupted. */
  readonly planned: number;
}

/** Prints cells as they come (JSON) or as a table at the end. @returns the exit code. */
export async function printCells(
  chunks: AsyncIterable<ChunkResult>,
  { json, toJson, toTable, planned }: CellOutput,
): Promise<number> {
  const cells: Observation[] = [];
  for await (const { observations } of chunks) {
    if (json) for (const cell of observations) print(toJson(cell));
    cells.push(...observations);
  }
  if (!json) print(toTable(cells));
  if (cells.length < planned) return EXIT.interrupted;
  return cells.some(({ status }) => status === 'failed') ? EXIT.someFailed : EXIT.ok;
}

/** A run that failed after some of its cells were stored. */
export class BrokenRunError extends Error {}

/** As it was typed, fit to be typed again. @param argv without the program and its script. */
export function commandLine(argv = process.argv.slice(2)): string {
  const quoted = argv.map((word) =>
    /^[\w./:=,+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`,
  );
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

let outputClosed = false;

/** The reader of stdout has gone (`| head`). */
export const isOutputClosed = (): boolean => outputClosed;

/** Writes all of a line before it returns. Once the reader has gone, the rest is dropped. */
export function print(line: string): void {
  printText(`${line}\n`);
}

/** As `print`, without a line end. */
export function printText(text: string): void {
  let rest = Buffer.from(text);
  while (rest.length > 0 && !outputClosed) {
    try {
      rest = rest.subarray(fs.writeSync(1, rest));
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'EPIPE') outputClosed = true;
      else if (code === 'EAGAIN') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2);
      else throw error;
    }
  }
}
