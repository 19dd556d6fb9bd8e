import type { RunRecord } from './records.js';

export type RunColumns = ReturnType<typeof columnsOf>;

/** What a run's row is made of but for its models, under the names of the statement's parameters. */
export function columnsOf(run: RunRecord) {
  const { engine } = run;
  return {
    name: run.name,
    command: run.command,
    experiment: JSON.stringify(run.experiment),
    experimentSource: run.experimentSource,
    experimentFile: run.experimentFile === undefined ? null : JSON.stringify(run.experimentFile),
    reading: JSON.stringify(run.reading),
    seed: run.seed,
    package: engine.packageVersion,
    addon: run.addon,
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
    sourceEngine: run.sourceEngine ? JSON.stringify(run.sourceEngine) : null,
    adapters: run.adapters && run.adapters.length > 0 ? JSON.stringify(run.adapters) : null,
    host: run.host,
    startedAt: run.startedAt.toISOString(),
    planSha256: run.planSha256,
    cellsPlanned: run.cellsPlanned,
    chunksPlanned: run.chunksPlanned,
    shardIndex: run.shard?.index ?? null,
    shardCount: run.shard?.count ?? null,
  };
}
