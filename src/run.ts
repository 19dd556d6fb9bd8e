/** Plan x engine -> observations, in chunks; a failed cell is an observation, not an exception. */
import type { Engine, PatchRow, TokenReading } from './engine.js';
import type { Observation } from './observation.js';
import type { Layer } from './patchscope.js';
import type { Cell, Plan, PlannedSample } from './plan.js';
import { type ResolvedPrompt, tokenText } from './prompts.js';

/** Cells that are captured, patched and handed on together: some batches, so that little is lost when a run ends early. */
const CHUNK_CELLS = 256;

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
  let sources: Sources = new Map();
  for (let begin = 0; begin < plan.cells.length; begin += CHUNK_CELLS) {
    if (options.signal?.aborted) return;
    const cells = plan.cells.slice(begin, begin + CHUNK_CELLS);
    sources = await captureSources(cells, plan, engine, sources);
    yield await patchTargets(cells, plan, engine, sources);
  }
}

async function patchTargets(
  cells: readonly Cell[],
  plan: Plan,
  engine: Engine,
  sources: Sources,
): Promise<Observation[]> {
  const observations = new Array<Observation>(cells.length);
  const rows: PatchRow[] = [];
  const rowCells: number[] = [];
  cells.forEach((cell, i) => {
    const sample = plan.samples[cell.sample]!;
    const state = sources.get(sourceKey(sample))!.get(cell.sourceLayer)!;
    if (!(state instanceof Float32Array)) {
      observations[i] = { ...identify(cell, sample), ...failedReading(state) };
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
        ? { ...identify(cell, sample), ...failedReading(result) }
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

/** States of each distinct (prompt, position), by layer. */
type Sources = ReadonlyMap<string, ReadonlyMap<Layer, Float32Array | Failure>>;

function sourceKey({ source }: PlannedSample): string {
  return `${source.tokenIndex}:${source.tokenIds.join(',')}`;
}

/** What the cells need, each state captured once; what `known` already holds is taken from there. */
async function captureSources(
  cells: readonly Cell[],
  plan: Plan,
  engine: Engine,
  known: Sources,
): Promise<Sources> {
  const needed = new Map<string, Map<Layer, Float32Array | Failure>>();
  const missing = new Map<string, { readonly source: ResolvedPrompt; readonly layers: Layer[] }>();
  for (const { sample: index, sourceLayer } of cells) {
    const sample = plan.samples[index]!;
    const key = sourceKey(sample);
    const states = needed.get(key) ?? needed.set(key, new Map(known.get(key))).get(key)!;
    if (states.has(sourceLayer)) continue;
    const request = missing.get(key) ?? missing.set(key, { source: sample.source, layers: [] }).get(key)!;
    if (!request.layers.includes(sourceLayer)) request.layers.push(sourceLayer);
  }
  const requests = [...missing];
  const captured = await captureLayers(
    engine,
    requests.map(([, { source, layers }]) => ({
      tokenIds: source.tokenIds,
      places: layers.map((layer) => ({ layer, tokenIndex: source.tokenIndex })),
    })),
  );
  requests.forEach(([key, { layers }], i) => {
    layers.forEach((layer, k) => {
      needed.get(key)!.set(layer, captured[i]![k]!);
    });
  });
  return needed;
}

export interface Failure {
  readonly code: string;
  readonly error: string;
}

interface Places {
  readonly tokenIds: readonly number[];
  readonly places: readonly { readonly layer: Layer; readonly tokenIndex: number }[];
}

/** The state at each place, or why there is none. A prompt with NaN in some layer is captured layer by layer. */
export async function captureLayers(
  engine: Engine,
  requests: readonly Places[],
): Promise<(Float32Array | Failure)[][]> {
  const results = await engine.capture(
    requests.map(({ tokenIds, places }) => ({
      tokenIds,
      points: places.map(({ layer, tokenIndex }) => ({ site: siteOf(layer), layer, tokenIndex })),
    })),
  );
  return Promise.all(
    results.map(async (result, i) => {
      if (result.status === 'ok') return [...result.states];
      const { tokenIds, places } = requests[i]!;
      const layers = [...new Set(places.map(({ layer }) => layer))];
      if (result.code !== 'not_finite' || layers.length === 1) return places.map(() => result);
      const parts = layers.map((layer) => places.filter((place) => place.layer === layer));
      const byLayer = await captureLayers(
        engine,
        parts.map((part) => ({ tokenIds, places: part })),
      );
      const found = new Map(
        parts.flatMap((part, k) => part.map((place, j) => [place, byLayer[k]![j]!] as const)),
      );
      return places.map((place) => found.get(place)!);
    }),
  );
}

export function siteOf(layer: Layer): 'embed' | 'resid_out' {
  return layer === 'embed' ? 'embed' : 'resid_out';
}

export function withText({ top }: TokenReading, { tokenizer }: Engine): Observation['steps'][number] {
  return top.map(({ tokenId, logprob }) => ({ tokenId, token: tokenText(tokenId, tokenizer), logprob }));
}

/** What a cell without a reading holds. */
export function failedReading({ code, error }: Failure) {
  return { status: 'failed', error: `${code}: ${error}`, text: null, tokenIds: [], steps: [] } as const;
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
