import type { RunRecord } from './records.js';

/** What a run's row is made of, under the names of the statement's parameters. */
export function columnsOf(run: RunRecord) {
  const { engine } = run;
  return {
    name: run.name,
    command: run.command,
    experiment: JSON.stringify(run.experiment),
    reading: JSON.stringify(run.reading),
    seed: run.seed,
    sourceModelId: run.sourceModelId,
    targetModelId: run.targetModelId,
    package: engine.packageVersion,
    llamaCpp: engine.llamaCpp,
    backend: engine.backend,
    devices: JSON.stringify(engine.devices),
    gpuLayers: engine.gpuLayers,
    threads: engine.threads,
    batchTokens: engine.batchTokens,
    batchRows: engine.batchRows,
    batchOutputs: engine.batchOutputs,
    cacheLayout: run.cacheLayout,
    typeK: engine.typeK,
    typeV: engine.typeV,
    flashAttention: Number(engine.flashAttention),
    exact: Number(engine.exact),
    splitMode: engine.splitMode,
    tolerance: run.tolerance,
    startedAt: run.startedAt.toISOString(),
    cellsPlanned: run.cellsPlanned,
  };
}

/** Settings that decide about the bits of a cell, by the names of their columns. */
const settings = {
  package: 'package',
  llama_cpp: 'llamaCpp',
  backend: 'backend',
  devices: 'devices',
  gpu_layers: 'gpuLayers',
  threads: 'threads',
  batch_tokens: 'batchTokens',
  batch_rows: 'batchRows',
  batch_outputs: 'batchOutputs',
  cache_layout: 'cacheLayout',
  type_k: 'typeK',
  type_v: 'typeV',
  flash_attention: 'flashAttention',
  exact: 'exact',
  split_mode: 'splitMode',
} as const;

/** What kept an unfinished run from going on, in words; nothing where its row fits. */
export function differingSettings(
  row: Readonly<Record<string, unknown>>,
  wanted: ReturnType<typeof columnsOf>,
): string[] {
  return Object.entries(settings)
    .filter(([column, parameter]) => row[column] !== wanted[parameter])
    .map(([column, parameter]) => `${column} was ${row[column]} and is ${wanted[parameter]}`);
}
