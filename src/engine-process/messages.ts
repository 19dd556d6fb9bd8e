/** What goes over the channel between a run and the process of its engine; structured clones of it. */
import type { CacheLayout, EngineRecord } from '../engine.js';
import { type ErrorCode, PatchscopeError } from '../errors.js';
import type { ModelsChoice, PairOptions } from '../llama/engine-pair.js';
import type { EngineOptions } from '../llama/llama-engine.js';
import type { ResolvedModel } from '../models/resolve.js';
import type { Outcome, Probe } from '../observation.js';
import type { Experiment, MappingFit, MappingRecord } from '../patchscope.js';
import type { Plan } from '../plan/plan.js';

export interface OpenInput {
  readonly model: ResolvedModel;
  readonly engine: Omit<EngineOptions, 'onNote'> & Pick<PairOptions, 'sourceAdapters'>;
  /** The target's model, where it is another one than the source's. */
  readonly target?: TargetModel;
  /** File that captured states are kept in; default: none. */
  readonly states?: string;
  /** URL of a module with an `openEngine` of its own. */
  readonly module?: string;
}

export interface TargetModel {
  readonly model: ResolvedModel;
  readonly models: ModelsChoice;
  /** As those of the engine, for the source's model. */
  readonly sourceGpuLayers?: EngineOptions['gpuLayers'];
  /** Folder for states on their way, where the models are in memory in turn. */
  readonly folder: string;
}

/** What is said of both models; that of the target is the engine's own. */
export interface Records extends EngineRecord {
  readonly source: EngineRecord;
}

/** What may be asked of the process, and what it answers. */
export interface Tasks {
  readonly open: { readonly input: OpenInput; readonly answer: Records };
  readonly fit: {
    readonly input: {
      readonly file: string;
      readonly experiment: Experiment;
      readonly fit: MappingFit;
    };
    readonly answer: MappingRecord;
  };
  /** The plan made is the one that chunks are of. */
  readonly plan: { readonly input: Experiment; readonly answer: Plan };
  readonly usePlan: { readonly input: Plan; readonly answer: undefined };
  /** A chunk. */
  readonly run: { readonly input: number; readonly answer: Outcome[] };
  /** Some cells of one chunk. */
  readonly runCells: { readonly input: readonly number[]; readonly answer: Outcome[] };
  /** As `Prober` takes them. */
  readonly probe: {
    readonly input: { readonly unit: number; readonly known: readonly number[] | null };
    readonly answer: Probe[];
  };
  readonly tolerance: {
    readonly input: { readonly rows: number; readonly cacheLayout: CacheLayout };
    readonly answer: number | null;
  };
}
export type TaskName = keyof Tasks;

export type ToChild =
  | { readonly kind: 'task'; readonly id: number; readonly name: TaskName; readonly input: unknown }
  | { readonly kind: 'abort'; readonly id: number };

export type FromChild =
  | { readonly kind: 'done'; readonly id: number; readonly answer: unknown }
  | { readonly kind: 'failed'; readonly id: number; readonly failure: Failure }
  | { readonly kind: 'note'; readonly line: string };

/** An error as data: a clone of one loses its class and its code. */
export interface Failure {
  readonly code?: ErrorCode;
  readonly name: string;
  readonly message: string;
  readonly stack?: string;
}

export function asFailure(thrown: unknown): Failure {
  const error = thrown instanceof Error ? thrown : new Error(String(thrown));
  const { name, message, stack } = error;
  return {
    ...(error instanceof PatchscopeError && { code: error.code }),
    name,
    message,
    ...(stack !== undefined && { stack }),
  };
}

export function asError({ code, name, message, stack }: Failure): Error {
  if (code !== undefined) return new PatchscopeError(code, message);
  return Object.assign(name === 'TypeError' ? new TypeError(message) : new Error(message), { stack });
}
