/** What every command that runs a model does around its own work. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import {
  type ChunkResult,
  cellsIn,
  checkSplitMode,
  checkStore,
  defaultModel,
  defaultThreads,
  type Engine,
  type EngineOptions,
  type EnginePair,
  type EngineProcess,
  type EngineRecord,
  type ModelAdapters,
  type ModelsChoice,
  needUnfinishedRun,
  type Observation,
  openEngine,
  openEngineProcess,
  openPair,
  openStore,
  PatchscopeError,
  type Plan,
  type Probing,
  type ReadExperiment,
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

/** The models of a command, as they are typed. */
export interface ModelArguments extends EngineArguments {
  readonly targetModel?: string | undefined;
  readonly models?: ModelsChoice;
  /** Of the experiment. */
  readonly adapters?: ModelAdapters;
}

function pairOptionsOf({ adapters, ...args }: ModelArguments) {
  const { source: sourceAdapters, target } = adapters ?? { source: [], target: [] };
  return { ...engineOptionsOf(args), adapters: target, sourceAdapters };
}

/** What is typed comes before what an experiment names. */
export function chosenModels(
  typed: { readonly model?: string | undefined; readonly targetModel?: string | undefined },
  named: ReadExperiment['models'],
): Pick<ModelArguments, 'model' | 'targetModel'> {
  const model = typed.model ?? named?.source ?? defaultModel;
  const targetModel = typed.targetModel ?? (named?.source === named?.target ? undefined : named?.target);
  return { model, ...(targetModel !== undefined && { targetModel }) };
}

/** Finds, fetches if need be, and loads a model; closes it after the work. */
export async function withEngine<T>(
  args: EngineArguments,
  signal: AbortSignal,
  work: (engine: Engine) => Promise<T>,
): Promise<T> {
  const options = engineOptionsOf(args);
  const file = await fetchModel(args.model, signal);
  return closing(args, await openEngine(file, { ...options, onNote: note }), work);
}

/** As `withEngine`, with the target's model where that is another one. */
export async function withEngines<T>(
  args: ModelArguments,
  signal: AbortSignal,
  work: (engines: EnginePair & Required<RecordedEngine>) => Promise<T>,
): Promise<T> {
  const options = { ...pairOptionsOf(args), onNote: note, ...(args.models && { models: args.models }) };
  const source = await fetchModel(args.model, signal);
  const target = args.targetModel === undefined ? source : await fetchModel(args.targetModel, signal);
  const pair = await openPair(source, target, options);
  const recorded = {
    record: pair.target.record,
    sourceRecord: pair.source.record,
    tolerance: (...asked: Parameters<Engine['tolerance']>) => pair.target.tolerance(...asked),
  };
  return closing(args, { ...pair, ...recorded }, work);
}

/**
 * As `withEngines`, with the engines in a process of their own.
 *
 * @param states file that captured states are kept in; default: none.
 */
export async function withEngineProcess<T>(
  args: ModelArguments,
  signal: AbortSignal,
  work: (engine: EngineProcess) => Promise<T>,
  states?: string,
): Promise<T> {
  const engine = pairOptionsOf(args);
  const model = await fetchModel(args.model, signal);
  const options = { model, engine, onNote: note, ...(states !== undefined && { states }) };
  if (args.targetModel === undefined) return closing(args, await openEngineProcess(options), work);
  const other = await fetchModel(args.targetModel, signal);
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'patchscopes-'));
  try {
    const target = { model: other, models: args.models ?? 'auto', folder } as const;
    return await closing(args, await openEngineProcess({ ...options, target }), work);
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}

interface Closed extends Pick<Engine, 'record' | 'close'> {
  readonly sourceRecord?: EngineRecord;
}

async function closing<E extends Closed, T>(
  { model, targetModel }: ModelArguments,
  engine: E,
  work: (engine: E) => Promise<T>,
): Promise<T> {
  const say = (name: string, record: EngineRecord) =>
    note(
      `model   ${name}: ${record.name || record.architecture} ${record.quantization}, ${record.layerCount} layers, on ${record.devices.map(({ name }) => name).join(' and ')} (llama.cpp ${record.llamaCpp}, -t ${record.threads})`,
    );
  try {
    const { record, sourceRecord = record } = engine;
    say(model, sourceRecord);
    if (targetModel !== undefined && sourceRecord.sha256 !== record.sha256)
      say(`into ${targetModel}`, record);
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
