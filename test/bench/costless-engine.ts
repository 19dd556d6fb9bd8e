/** A model whose states and continuations are made up at once, opened in a child process: what a run costs beside it. */

import {
  type Engine,
  type EngineOptions,
  openEngine as openReal,
  type PatchRow,
  type ResolvedModel,
  type RowReading,
  type RowResult,
} from '../../src/index.js';
import { gaussians } from '../../src/random.js';

/** Prompts, plans and what is said of the model are the real ones. */
export async function openEngine(model: ResolvedModel, options: EngineOptions): Promise<Engine> {
  const real = await openReal(model, options);
  const { embeddingSize, vocabularySize } = real.record;
  const states = Array.from({ length: 512 }, (_, seed) => gaussians(embeddingSize, seed));
  return {
    record: real.record,
    tokenizer: real.tokenizer,
    capture: async (requests) =>
      requests.map(({ tokenIds, points }) => ({
        status: 'ok' as const,
        states: points.map(({ layer }) => states[mixed(...tokenIds, Number(layer)) % states.length]!),
      })),
    patch: async (rows, reading) => rows.map((row) => made(row, reading, vocabularySize, real)),
    lens: (...lensTask) => real.lens(...lensTask),
    tolerance: async () => 0,
    close: () => real.close(),
  };
}

function made(
  { tokenIds, edits, seed = 0 }: PatchRow,
  { topK, maxTokens }: RowReading,
  vocabularySize: number,
  { tokenizer }: Engine,
): RowResult {
  const about = mixed(...tokenIds, Number(edits[0]?.layer ?? 0), seed);
  const said = Array.from({ length: maxTokens }, (_, step) => mixed(about, step) % vocabularySize);
  return {
    status: 'ok',
    tokenIds: said,
    text: Buffer.concat(said.map((id) => tokenizer.tokenBytes(id))).toString(),
    steps: said.map((tokenId) => ({
      top: Array.from({ length: topK }, (_, rank) => ({
        tokenId: (tokenId + rank) % vocabularySize,
        logprob: -rank - (tokenId % 7) / 7,
      })),
      tracked: [],
      chosen: { tokenId, logprob: -(tokenId % 7) / 7, rank: 0 },
    })),
    positions: [],
  };
}

function mixed(...numbers: readonly number[]): number {
  return numbers.reduce((hash, number) => Math.imul(hash ^ number, 0x01000193) >>> 0, 0x811c9dc5);
}
