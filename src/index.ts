export { chooseCacheLayout, type WorkShape } from './cache-layout.js';
export { type Conversion, type ConversionType, conversionTypes, convertModel } from './convert.js';
export type { GpuChoice } from './devices.js';
export { checkSplitMode, gpuChoices } from './devices.js';
export { type Check, type Diagnosis, diagnose, type VariantCheck } from './doctor/doctor.js';
export type {
  CacheLayout,
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
  ScoredToken,
  StepReading,
  TokenInput,
  Tokenizer,
  TokenReading,
  WorkOptions,
} from './engine.js';
export { type ErrorCode, PatchscopeError } from './errors.js';
export { type BuiltInName, builtInExperiment } from './experiments.js';
export { makeFolder, probeFile } from './folders.js';
export type { GpuLayers } from './gpu-layers/resolve.js';
export { type Inspection, inspectModel } from './inspect/inspect.js';
export { type LensExperiment, type LensPlan, planLens, runLens } from './lens.js';
export { type EngineOptions, openEngine } from './llama/llama-engine.js';
export {
  type BuildChoice,
  type BuildOptions,
  buildChoices,
  buildLibraries,
  type LocalBuild,
} from './local-build.js';
export { catalogue, defaultModel } from './models/catalogue.js';
export { type ResolvedModel, type ResolveOptions, resolveModel } from './models/resolve.js';
export type { Progress } from './models/watch.js';
export { nearest } from './nearest.js';
export type { Observation, TokenScore } from './observation.js';
export { packageVersion } from './package-version.js';
export type {
  EditOp,
  Experiment,
  Layer,
  Mapping,
  Patch,
  Position,
  Prompt,
  Reading,
  Sample,
  Sampling,
  Side,
  Site,
} from './patchscope.js';
export { editOps, sides, sites } from './patchscope.js';
export { type Place, parsePlaces } from './places.js';
export { type Cell, makePlan, type Plan } from './plan.js';
export { parsePosition } from './positions.js';
export { positionTokens } from './prompts.js';
export { findUnfinishedRun, lensRunHeader, type RunHeader, recordRun, runHeader } from './record-run.js';
export { type Page, type PageCell, type PageTable, renderPage } from './report/page.js';
export { run } from './run.js';
export { isLoopback, type ServeOptions, serveDevices } from './serve.js';
export { formatCsv, formatJsonLines, formatTable, onOneLine } from './store/format.js';
export { type QueryOptions, type QueryResult, query } from './store/query.js';
export { checkStore, openStore, type Store, type UnfinishedRun } from './store/store.js';
export { defaultThreads } from './threads.js';
