/** Plan x engine -> observations, in chunks; a failed cell is an observation, not an exception. */
import type { CaptureResult, Engine, PatchRow, TokenReading } from './engine.js';
import type { Observation } from './observation.js';
import type { Layer } from './patchscope.js';
import type { Cell, Plan, PlannedSample } from './plan.js';
import { tokenText } from './prompts.js';

/** Cells whose states are in memory at once. */
const CHUNK_CELLS = 1024;

export interface RunOptions {
  /** Ends the run between two chunks. */
  readonly signal?: AbortSignal;
}

/** Yields the observations of each chunk, in the order of the plan's cells. */
export async function* run(
  plan: Plan,
  engine: Engine,
  options: RunOptions = {},
): AsyncGenerator<Observation[]> {
  for (let begin = 0; begin < plan.cells.length; begin += CHUNK_CELLS) {
    if (options.signal?.aborted) return;
    yield await runChunk(plan.cells.slice(begin, begin + CHUNK_CELLS), plan, engine);
  }
}

async function runChunk(cells: readonly Cell[], plan: Plan, engine: Engine): Promise<Observation[]> {
  const states = await captureSources(cells, plan, engine);
  const observations = new Array<Observation>(cells.length);
  const rows: PatchRow[] = [];
  const rowCells: number[] = [];
  cells.forEach((cell, i) => {
    const sample = plan.samples[cell.sample]!;
    const state = states(cell);
    if (!(state instanceof Float32Array)) {
      observations[i] = failed(cell, sample, state);
      return;
    }
    const { tokenIds, tokenIndex } = sample.target;
    rows.push({
      tokenIds,
      edits: [{ site: siteOf(cell.targetLayer), layer: cell.targetLayer, tokenIndex, vector: state }],
    });
    rowCells.push(i);
  });
  const results = await engine.patch(rows, plan.experiment.reading);
  results.forEach((result, k) => {
    const cell = cells[rowCells[k]!]!;
    const sample = plan.samples[cell.sample]!;
    observations[rowCells[k]!] =
      result.status === 'failed'
        ? failed(cell, sample, result)
        : {
            ...identify(cell, sample),
            status: 'ok',
            error: null,
            text: result.text,
            tokenIds: result.tokenIds,
            steps: result.steps.map((step) => withText(step, engine)),
          };
  });
  return observations;
}

/** Captures each distinct (prompt, position) once, at all layers that the cells ask for. */
async function captureSources(cells: readonly Cell[], plan: Plan, engine: Engine) {
  const keyOf = ({ source }: PlannedSample) => `${source.tokenIndex}:${source.tokenIds.join(',')}`;
  const layersOf = new Map<string, { sample: PlannedSample; layers: Layer[] }>();
  for (const cell of cells) {
    const sample = plan.samples[cell.sample]!;
    const entry = layersOf.get(keyOf(sample));
    if (entry === undefined) layersOf.set(keyOf(sample), { sample, layers: [cell.sourceLayer] });
    else if (!entry.layers.includes(cell.sourceLayer)) entry.layers.push(cell.sourceLayer);
  }
  const results = await engine.capture(
    [...layersOf.values()].map(({ sample: { source }, layers }) => ({
      tokenIds: source.tokenIds,
      points: layers.map((layer) => ({ site: siteOf(layer), layer, tokenIndex: source.tokenIndex })),
    })),
  );
  const captured = new Map([...layersOf.keys()].map((key, i) => [key, results[i]!]));
  return (cell: Cell): Float32Array | Failure => {
    const key = keyOf(plan.samples[cell.sample]!);
    const result: CaptureResult = captured.get(key)!;
    return result.status === 'failed'
      ? result
      : result.states[layersOf.get(key)!.layers.indexOf(cell.sourceLayer)]!;
  };
}

interface Failure {
  readonly code: string;
  readonly error: string;
}

export function siteOf(layer: Layer): 'embed' | 'resid_out' {
  return layer === 'embed' ? 'embed' : 'resid_out';
}

export function withText({ top }: TokenReading, { tokenizer }: Engine): Observation['steps'][number] {
  return top.map(({ tokenId, logprob }) => ({ tokenId, token: tokenText(tokenId, tokenizer), logprob }));
}

function failed(cell: Cell, sample: PlannedSample, { code, error }: Failure): Observation {
  return {
    ...identify(cell, sample),
    status: 'failed',
    error: `${code}: ${error}`,
    text: null,
    tokenIds: [],
    steps: [],
  };
}

function identify(cell: Cell, { source, target }: PlannedSample) {
  return {
    sample: cell.sample,
    variant: `${source.tokenIndex}->${target.tokenIndex}`,
    site: siteOf(cell.targetLayer),
    sourceLayer: cell.sourceLayer,
    targetLayer: cell.targetLayer,
    sourcePosition: source.tokenIndex,
    sourceTokenId: source.tokenIds[source.tokenIndex]!,
    sourceToken: source.token,
    targetPosition: target.tokenIndex,
    targetTokenId: target.tokenIds[target.tokenIndex]!,
    targetToken: target.token,
  };
}
