/** Plan x engine -> observations, in chunks; a failed cell is an observation, not an exception. */
import type { CapturePoint, CaptureRequest, Engine, PatchRow, StepReading, TokenReading } from './engine.js';
import type { Observation, TokenScore } from './observation.js';
import type { Patch } from './patchscope.js';
import type { Place } from './places.js';
import type { Cell, Plan, PlannedSample } from './plan.js';
import { inputOf, positionTokens, type ResolvedPrompt, tokenText } from './prompts.js';

/** Cells that are captured, patched and handed on together: some batches, so that little is lost when a run ends early. */
const CHUNK_CELLS = 256;

export interface RunOptions {
  /** Ends the run between two chunks. */
  readonly signal?: AbortSignal;
  /** Cells at the front of the plan that are done already: whole chunks. Default: 0. */
  readonly done?: number;
}

/** Yields the observations of each chunk, in the order of the plan's cells. */
export async function* run(
  plan: Plan,
  engine: Engine,
  options: RunOptions = {},
): AsyncGenerator<Observation[]> {
  let sources: Sources = new Map();
  for (let begin = options.done ?? 0; begin < plan.cells.length; begin += CHUNK_CELLS) {
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
  const { patch = {}, reading } = plan.experiment;
  const given = plan.continuation && { continuation: plan.continuation.map(({ tokenId }) => tokenId) };
  const observations = new Array<Observation>(cells.length);
  const rows: PatchRow[] = [];
  const rowCells: number[] = [];
  cells.forEach((cell, i) => {
    const sample = plan.samples[cell.sample]!;
    const state = sources.get(sourceKey(sample))!.get(placeKey(cell.source))!;
    if (!(state instanceof Float32Array)) {
      observations[i] = { ...identify(cell, sample, patch), ...failedReading(state) };
      return;
    }
    const { target } = sample;
    const vector = patch.op === 'scale' ? {} : { vector: state };
    const edit = { ...pointOf(target, cell.target), ...patch, ...vector };
    rows.push({ ...inputOf(target), edits: [edit], seed: cell.seed, ...given });
    rowCells.push(i);
  });
  const results = await engine.patch(rows, reading);
  results.forEach((result, k) => {
    const cell = cells[rowCells[k]!]!;
    const sample = plan.samples[cell.sample]!;
    observations[rowCells[k]!] =
      result.status === 'failed'
        ? { ...identify(cell, sample, patch), ...failedReading(result) }
        : {
            ...identify(cell, sample, patch),
            status: 'ok',
            error: null,
            text: result.text,
            tokenIds: result.tokenIds,
            steps: result.steps.map((step) => scoresOf(step, engine)),
          };
  });
  return observations;
}

/** States of each distinct (prompt, position), by place. */
type Sources = ReadonlyMap<string, ReadonlyMap<string, Float32Array | Failure>>;

const placeKey = ({ site, layer }: Place): string => `${site} ${layer}`;

function sourceKey({ source }: PlannedSample): string {
  return `${positionOf(source)}:${source.tokenIds.join(',')}`;
}

function pointOf({ side, tokenIndex }: ResolvedPrompt, place: Place): CapturePoint {
  return { ...(side && { side }), ...place, tokenIndex };
}

/** What the cells need, each state captured once; what `known` already holds is taken from there. */
async function captureSources(
  cells: readonly Cell[],
  plan: Plan,
  engine: Engine,
  known: Sources,
): Promise<Sources> {
  const needed = new Map<string, Map<string, Float32Array | Failure>>();
  const missing = new Map<string, { readonly source: ResolvedPrompt; readonly places: Map<string, Place> }>();
  for (const { sample: index, source: place } of cells) {
    const sample = plan.samples[index]!;
    const key = sourceKey(sample);
    const states = needed.get(key) ?? needed.set(key, new Map(known.get(key))).get(key)!;
    if (states.has(placeKey(place))) continue;
    const request =
      missing.get(key) ?? missing.set(key, { source: sample.source, places: new Map() }).get(key)!;
    request.places.set(placeKey(place), place);
  }
  const requests = [...missing];
  const captured = await captureLayers(
    engine,
    requests.map(([, { source, places }]) => ({
      ...inputOf(source),
      points: [...places.values()].map((place) => pointOf(source, place)),
    })),
  );
  requests.forEach(([key, { places }], i) => {
    [...places.keys()].forEach((place, k) => {
      needed.get(key)!.set(place, captured[i]![k]!);
    });
  });
  return needed;
}

export interface Failure {
  readonly code: string;
  readonly error: string;
}

/** The state at each point, or why there is none. A prompt with NaN in some layer is captured layer by layer. */
export async function captureLayers(
  engine: Engine,
  requests: readonly CaptureRequest[],
): Promise<(Float32Array | Failure)[][]> {
  const results = await engine.capture(requests);
  return Promise.all(
    results.map(async (result, i) => {
      if (result.status === 'ok') return [...result.states];
      const { points, ...input } = requests[i]!;
      const layers = [...new Set(points.map(placeKey))];
      if (result.code !== 'not_finite' || layers.length === 1) return points.map(() => result);
      const parts = layers.map((layer) => points.filter((point) => placeKey(point) === layer));
      const byLayer = await captureLayers(
        engine,
        parts.map((part) => ({ ...input, points: part })),
      );
      const found = new Map(
        parts.flatMap((part, k) => part.map((point, j) => [point, byLayer[k]![j]!] as const)),
      );
      return points.map((point) => found.get(point)!);
    }),
  );
}

/** The most probable tokens, and the chosen one where it is not among them. */
export function scoresOf(reading: TokenReading | StepReading, { tokenizer }: Engine): TokenScore[] {
  const top = reading.top.map((score, rank) => ({ ...score, rank }));
  const chosen = 'chosen' in reading && reading.chosen.rank >= top.length ? [reading.chosen] : [];
  return [...top, ...chosen].map((score) => ({ ...score, token: tokenText(score.tokenId, tokenizer) }));
}

/** What a cell without a reading holds. */
export function failedReading({ code, error }: Failure) {
  return { status: 'failed', error: `${code}: ${error}`, text: null, tokenIds: [], steps: [] } as const;
}

function identify(cell: Cell, { source, target }: PlannedSample, patch: Patch) {
  const { op = 'replace', alpha = 1, atGenerated = false } = patch;
  return {
    sample: cell.sample,
    variant: `${variantSite(cell.source)}${positionOf(source)}->${positionOf(target)}`,
    sourceSite: cell.source.site,
    targetSite: cell.target.site,
    sourceLayer: cell.source.layer,
    targetLayer: cell.target.layer,
    op,
    alpha,
    atGenerated,
    sourcePosition: source.tokenIndex,
    sourceTokenId: positionTokens(source)[source.tokenIndex]!,
    sourceToken: source.token,
    targetPosition: target.tokenIndex,
    targetTokenId: positionTokens(target)[target.tokenIndex]!,
    targetToken: target.token,
  };
}

function positionOf({ side, tokenIndex }: ResolvedPrompt): string {
  return side === 'encoder' ? `encoder ${tokenIndex}` : String(tokenIndex);
}

/** The key of a stored cell knows the target's site only: another one of the source tells cells apart here. */
export function variantSite({ site }: Place): string {
  return site === 'resid_out' || site === 'embed' ? '' : `${site} `;
}
