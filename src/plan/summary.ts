/** How much work a plan is, before any of it is done. */
import { cacheCells } from '../cache-layout.js';
import { needsUnpatched } from '../metrics.js';
import { inputOf, type ResolvedPrompt } from '../prompts.js';
import { sequencesOf } from './contrast.js';
import { movesOfPair, type Pair, sharedTokens } from './pairs.js';
import { cellAt, cellsIn, chunkCount, chunkRange, movesAt, type Plan, stepCount } from './plan.js';
import { promptsOf } from './sources.js';

/** What bounds a batch, as an engine records it. */
export interface BatchBounds {
  readonly batchTokens: number;
  readonly batchRows: number;
}

export interface PlanSummary {
  readonly cells: number;
  /** Of these, cells that are run again to be compared. */
  readonly repeatedCells: number;
  readonly chunks: number;
  /** Distinct prompts and positions, or vectors, that states come from. */
  readonly sources: number;
  /** Distinct prompts and positions that are patched. */
  readonly targets: number;
  /** Of patched rows, at most: rows that end early leave their places to others. */
  readonly batches: number;
  /** Tokens of the source prompts, up to their positions. */
  readonly sourceTokens: number;
  /** Tokens of the patched prompts and at most of what follows them. */
  readonly targetTokens: number;
  /** Most bytes of captured states in memory at once. */
  readonly stateBytes: number;
  /** Most cells of the K/V cache, of one token each, that are needed at once. */
  readonly cacheTokens: number;
}

/** Neighbouring rows of one chunk that have the same target and share as much of it. */
interface Group {
  readonly pair: Pair;
  readonly rows: number;
}

export function summarize(
  plan: Plan,
  { batchRows, batchTokens }: BatchBounds,
  embeddingSize: number,
): PlanSummary {
  const moves = plan.pairs.flatMap(movesOfPair);
  const sources = new Set(moves.map(({ source }) => source));
  const targets = new Set(moves.map(({ target }) => target));
  const following = Math.max(0, stepCount(plan) - 1);
  let [batches, targetTokens, cacheTokens] = [0, 0, 0];
  for (let chunk = 0; chunk < chunkCount(plan); chunk++) {
    const times = (plan.repeats.includes(chunk) ? 2 : 1) * timesRun(plan);
    for (const { pair, rows } of groupsOf(plan, chunk)) {
      const length = lengthOf(pair.target);
      const prefix = sharedTokens(pair);
      const sequences = sequencesOf(pair);
      const most = Math.floor(Math.min(batchRows, batchTokens / (length - prefix)) / sequences);
      const slots = Math.max(1, Math.min(rows, most));
      const perRow = length - prefix + following;
      batches += times * Math.ceil(rows / slots) * (1 + following);
      targetTokens += times * (prefix + rows * sequences * perRow);
      const inCache = { prefixTokens: prefix, tokensOfRow: perRow, rows: slots * sequences };
      cacheTokens = Math.max(cacheTokens, cacheCells(plan.cacheLayout, inCache));
    }
  }
  return {
    cells: plan.cellCount,
    repeatedCells: cellsIn(plan, plan.repeats),
    chunks: chunkCount(plan),
    sources: sources.size,
    targets: targets.size,
    batches,
    sourceTokens: sourceTokens([...sources].flatMap(promptsOf)),
    targetTokens,
    stateBytes: 4 * embeddingSize * mostStates(plan),
    cacheTokens,
  };
}

/** Tokens that some cells of a plan have to be decoded with, at most. */
export function tokensOf(plan: Plan, cells: readonly number[]): number {
  const pairs = cells.map((cell) => cellAt(plan, cell));
  const following = Math.max(0, stepCount(plan) - 1);
  const moves = pairs.flatMap(({ sourcePair }) => movesOfPair(sourcePair));
  const targets = new Map(pairs.map(({ pair }) => [pair.target, pair]));
  const prefixes = [...targets.values()].reduce((sum, pair) => sum + sharedTokens(pair), 0);
  const rows = pairs.reduce(
    (sum, { pair }) => sum + sequencesOf(pair) * (lengthOf(pair.target) - sharedTokens(pair) + following),
    0,
  );
  const target = timesRun(plan) * (prefixes + rows);
  return sourceTokens(moves.flatMap(({ source }) => promptsOf(source))) + target;
}

/** Its continuation is scored once more with nothing patched, where a metric needs that. */
function timesRun({ experiment: { metrics = [] } }: Plan): number {
  return metrics.some(needsUnpatched) ? 2 : 1;
}

/** Tokens of one prompt are captured together, up to the last of them. */
function sourceTokens(sources: readonly ResolvedPrompt[]): number {
  const lengths = new Map<readonly number[], number>();
  for (const source of sources) {
    const { tokenIds } = inputOf(source);
    lengths.set(tokenIds, Math.max(lengths.get(tokenIds) ?? 0, lengthBefore(source)));
  }
  return [...lengths.values()].reduce((sum, length) => sum + length, 0);
}

function* groupsOf(plan: Plan, chunk: number): Generator<Group> {
  const [begin, end] = chunkRange(plan, chunk);
  let rows = 0;
  for (let cell = begin; cell < end; cell++) {
    rows++;
    const pair = plan.pairs[plan.cells.pair[cell]!]!;
    const next = cell + 1 < end ? plan.pairs[plan.cells.pair[cell + 1]!]! : undefined;
    const isSame =
      next &&
      inputOf(next.target).tokenIds === inputOf(pair.target).tokenIds &&
      sequencesOf(next) === sequencesOf(pair);
    if (isSame && sharedTokens(next) === sharedTokens(pair)) continue;
    yield { pair, rows };
    rows = 0;
  }
}

function mostStates(plan: Plan): number {
  const { blockStarts, chunkStarts } = plan;
  const moves = plan.pairs.flatMap(movesOfPair);
  const prompts = new Set(moves.flatMap(({ source }) => promptsOf(source)));
  const numbers = new Map([...prompts].map((prompt, i) => [prompt, i]));
  const places = new Map(plan.places.map((place, i) => [place, i]));
  let most = 0;
  for (let block = 0; block + 1 < blockStarts.length; block++) {
    const states = new Set<number>();
    for (let at = chunkStarts[blockStarts[block]!]!; at < chunkStarts[blockStarts[block + 1]!]!; at++) {
      for (const { from, source } of movesAt(plan, at)) {
        for (const prompt of promptsOf(from))
          states.add(numbers.get(prompt)! * 2 ** 16 + places.get(source)!);
      }
    }
    most = Math.max(most, states.size);
  }
  return most;
}

function lengthOf(prompt: ResolvedPrompt): number {
  const { tokenIds, encoderTokenIds = [] } = inputOf(prompt);
  return tokenIds.length + encoderTokenIds.length;
}

/** What comes after the position can't be seen from there. */
function lengthBefore({ side, tokenIndex, tokenIds }: ResolvedPrompt): number {
  return side === undefined ? tokenIndex + 1 : tokenIds.length + 1;
}
