/** Rows of a fake engine: a million cells, each with one step of five scored tokens and one metric. */

import type { Observation, TokenScore } from '../../src/observation.js';
import { openStore } from '../../src/store/store.js';
import { engine, runOf } from '../store-records.js';

export const SAMPLES = 1000;
const SOURCE_LAYERS = 25;
const TARGET_LAYERS = 40;
export const CELLS = SAMPLES * SOURCE_LAYERS * TARGET_LAYERS;

const VOCABULARY = 5000;
const tokens = Array.from({ length: VOCABULARY }, (_, tokenId) => ` token ${tokenId}`);

/** The cells of a part of the plan. */
export function observations(begin: number, count: number): Observation[] {
  return Array.from({ length: count }, (_, i) => observation(begin + i));
}

function observation(cell: number): Observation {
  const perSample = SOURCE_LAYERS * TARGET_LAYERS;
  const place = cell % perSample;
  const [first] = tokenIds(cell);
  return {
    sample: Math.floor(cell / perSample),
    variant: 'default',
    sourceSite: 'resid_out',
    targetSite: 'resid_out',
    sourceLayer: Math.floor(place / TARGET_LAYERS),
    targetLayer: place % TARGET_LAYERS,
    mapping: 'identity',
    control: 'none',
    draw: 0,
    status: 'ok',
    error: null,
    text: tokens[first!]!,
    tokenIds: [first!],
    steps: [tokenIds(cell).map((tokenId, rank) => scored(tokenId, rank))],
    scores: { 'answer-found': Number(first! % 3 === 0) },
  };
}

function tokenIds(cell: number): number[] {
  return [0, 1, 2, 3, 4].map((rank) => (cell * 7919 + rank * 104729) % VOCABULARY);
}

function scored(tokenId: number, rank: number): TokenScore {
  return { tokenId, token: tokens[tokenId]!, logprob: -0.5 - rank - (tokenId % 100) / 128, rank };
}

/** A new file with a run that waits for these cells; gives its id. */
export function beginRun(file: string): number {
  const store = openStore(file);
  const target = { prompt: 0, position: 4, tokenId: 1, token: tokens[1]! };
  const runId = store.beginRun(runOf({ engine, cellsPlanned: CELLS }), {
    prompts: Array.from({ length: SAMPLES + 1 }, (_, i) => ({
      text: `prompt ${i}`,
      tokenIds: [1, 2, 3, 4, i],
    })),
    samples: Array.from({ length: SAMPLES }, (_, i) => ({
      name: `sample ${i}`,
      group: `relation ${i % 40}`,
    })),
    variants: Array.from({ length: SAMPLES }, (_, i) => ({
      sample: i,
      name: 'default',
      source: { prompt: i + 1, position: 4, tokenId: 2, token: tokens[2]! },
      target,
      op: 'replace' as const,
      alpha: 1,
      atGenerated: false,
    })),
  });
  store.close();
  return runId;
}

export { tokens };
