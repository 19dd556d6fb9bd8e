/** Causal tracing of one prompt, as rows for an engine. */
import type { Edit, Engine, PatchRow } from '../../src/index.js';
import { gaussians } from '../../src/random.js';
import { LAYERS } from './workloads.js';

/** Tokens from the first one that is noised on. */
export const REST = 4;
/** Draws of the noise. */
export const SEEDS = 10;

/**
 * A prompt whose last tokens but one are noised, draw by draw, and in each run the clean state of one token is put
 * back, at each of three sites of each layer.
 */
export async function tracingRows(engine: Engine, target: readonly number[]): Promise<PatchRow[]> {
  const first = target.length - REST;
  const places = Array.from({ length: REST }, (_, i) => first + i).flatMap((tokenIndex) =>
    (['resid_out', 'attn_out', 'mlp_out'] as const).flatMap((site) =>
      Array.from({ length: LAYERS }, (_, layer) => ({ site, layer, tokenIndex })),
    ),
  );
  const [clean] = await engine.capture([{ tokenIds: target, points: places }]);
  if (clean?.status !== 'ok') throw new Error('The clean states could not be captured.');
  return Array.from({ length: SEEDS }, (_, seed) => {
    const noise = Array.from({ length: REST - 1 }, (_, i): Edit => {
      const vector = gaussians(engine.record.embeddingSize, seed * REST + i);
      return { site: 'embed', layer: 'embed', tokenIndex: first + i, op: 'add', alpha: 0.1, vector };
    });
    return places.map((place, i) => ({
      tokenIds: target,
      edits: [...noise, { ...place, vector: clean.states[i]! }],
    }));
  }).flat();
}
