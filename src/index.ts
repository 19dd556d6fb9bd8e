export { adaptersOf, type ModelAdapters, readAdapter } from './adapters.js';
export { type BestVariantOptions, bestVariant } from './best-variant.js';
export { chooseCacheLayout, type WorkShape } from './cache-layout.js';
export { type Conversion, type ConversionType, conversionTypes, convertModel } from './convert.js';
export type { GpuChoice } from './devices.js';
export { checkSplitMode, gpuChoices } from './devices.js';
export { type Check, type Diagnosis, diagnose, type VariantCheck } from './doctor/doctor.js';
export type {
  AdapterRecord,
  CacheLayout,
  CapturePoint,
  CaptureRequest,
  CaptureResult,
  Contrast,
  Edit,
  Engine,
  EngineRecord,
  LensReading,
  LensResult,
  PatchRow,
  RowReading,
  RowResult,
  ScoredToken,
  StepReading,
  TokenInput,
  Tokenizer,
  TokenReading,
  WorkOptions,
} from './engine.js';
export {
  type EngineProcess,
  type EngineProcessOptions,
  openEngineProcess,
} from './engine-process/engine-process.js';
export { type ErrorCode, PatchscopeError } from './errors.js';
export { copyExperiment } from './experiment-file/copy.js';
export { type ListedExperiment, listExperiments } from './experiment-file/listing.js';
export {
  builtInNames,
  type ReadExperiment,
  type ReadOptions,
  readExperiment,
} from './experiment-file/read-experiment.js';
export { type BuiltInName, builtInExperiment } from './experiments.js';
export { type FitOptions, fitMapping } from './fit-mapping/fit-mapping.js';
export {
  type FitMappingsOptions,
  type FittingProcess,
  fitMappings,
  type PlannedFit,
  plannedFits,
  readFitted,
  withMappings,
} from './fit-mapping/fit-mappings.js';
export { type ImportOptions, importLens } from './fit-mapping/import-lens.js';
export { makeFolder, probeFile } from './folders.js';
export type { GpuLayers } from './gpu-layers/resolve.js';
export { grouped } from './group.js';
export { type Inspection, inspectModel } from './inspect/inspect.js';
export { type LensExperiment, type LensPlan, lensPosition, planLens, runLens } from './lens.js';
export {
  type EnginePair,
  type ModelsChoice,
  modelsChoices,
  openPair,
  type PairOptions,
} from './llama/engine-pair.js';
export { type EngineOptions, openEngine } from './llama/llama-engine.js';
export {
  type BuildChoice,
  type BuildOptions,
  buildChoices,
  buildLibraries,
  type LocalBuild,
} from './local-build.js';
export { readMapping, readMappings } from './mapping/mapping-file.js';
export { catalogue, defaultModel } from './models/catalogue.js';
export { type ResolvedModel, type ResolveOptions, resolveModel } from './models/resolve.js';
export type { Progress } from './models/watch.js';
export { nearest } from './nearest.js';
export type { Observation, Outcome, Probe, ProbePrediction, TokenScore } from './observation.js';
export { writeWhole } from './output-file.js';
export { packageVersion } from './package-version.js';
export type {
  Adapter,
  Control,
  Controls,
  EditOp,
  Experiment,
  FileMapping,
  FileVector,
  FittedMapping,
  KindOptions,
  Layer,
  Mapping,
  MappingFit,
  MappingKind,
  MappingRecord,
  MapRecord,
  MetricName,
  NoiseVector,
  OwnEdit,
  Patch,
  Position,
  ProbeSettings,
  Prompt,
  PromptAt,
  Reading,
  Sample,
  Sampling,
  Settings,
  Side,
  Site,
  Source,
  UnfittedMapping,
  Variant,
  Vector,
  VectorOf,
} from './patchscope.js';
export { activations, controls, editOps, mappingKinds, metricNames, sides, sites } from './patchscope.js';
export { type Place, parsePlaces } from './places.js';
export { modelNotes } from './plan/model-notes.js';
export type { ResolvedEdit } from './plan/own-edits.js';
export type { ModelShape, Pair, PlannedModel, PlannedModels } from './plan/pairs.js';
export {
  type Cell,
  cellAt,
  cellsIn,
  chunkCount,
  chunkRange,
  makePlan,
  type Plan,
  pairOf,
} from './plan/plan.js';
export { type ProbeUnit, probeUnits, withoutHopelessProbe } from './plan/probe-units.js';
export { isVector, type ResolvedSource, type ResolvedVector, vectorText } from './plan/sources.js';
export { type PlanSummary, summarize, tokensOf } from './plan/summary.js';
export { parsePosition } from './positions.js';
export { GroupProber, type Prober } from './probing/group-prober.js';
export { positionTokens } from './prompts.js';
export { Probing, type ProbingOptions } from './record-probes.js';
export {
  findUnfinishedRun,
  lensRunHeader,
  needUnfinishedRun,
  type RecordedEngine,
  type RunHeader,
  type RunOrigin,
  recordRun,
  runHeader,
  type Shard,
  shardChunks,
} from './record-run.js';
export { type Page, renderPage } from './report/page.js';
export type { PageCell, PageTable } from './report/readings-table.js';
export { type Report, type ReportOptions, writeReport } from './report/write-report.js';
export { allChunks, type ChunkResult, ChunkRunner, type Runner, type RunOptions, run } from './run.js';
export type { SelfCheck } from './selftest/self-check.js';
export { selfTest } from './selftest/selftest.js';
export { isLoopback, type ServeOptions, serveDevices } from './serve.js';
export { CapturedStates, type SourceReadings, type SourceStates } from './source-states.js';
export { Bootstrap, type SampleSums } from './statistics/bootstrap.js';
export { groupedFolds } from './statistics/folds.js';
export { type Moments, moments } from './statistics/moments.js';
export { type ProbeData, type ProbeResult, probe } from './statistics/probe.js';
export { rouge1, rougeL } from './statistics/rouge.js';
export { bonferroni, pairedTTest, type TTest } from './statistics/t-test.js';
export { type Deletion, deleteRun } from './store/delete.js';
export { expectationSql } from './store/expectations.js';
export {
  type Export,
  type ExportFormat,
  type ExportOptions,
  exportFormats,
  exportRun,
} from './store/export.js';
export {
  csvRecords,
  formatCsv,
  formatJsonLines,
  formatTable,
  layerText,
  numberText,
  onOneLine,
} from './store/format.js';
export { mergeShards } from './store/merge.js';
export { type QueryOptions, type QueryResult, query, type SqlValue } from './store/query.js';
export { type QueryStreamOptions, queryStream } from './store/query-stream.js';
export {
  type Effect,
  type GridCell,
  type LayerMetric,
  type PositionCell,
  type RunDetails,
  type RunDetailsOptions,
  runDetails,
} from './store/run-details.js';
export { chosenRunOf, listRuns, type RunSummary } from './store/run-list.js';
export { type RowKind, rowKinds } from './store/run-rows.js';
export { checkStore, openStore, type Store, type UnfinishedRun } from './store/store.js';
export { defaultThreads } from './threads.js';
export { openVectors, type VectorEngines } from './vectors/open-vectors.js';
