/** Readings other than a plain patch beside those of float32 PyTorch: see reference/README.md. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import type { CapturePoint, Edit, Engine, PatchRow, ScoredToken, Site } from '../src/index.js';
import { loadAddon } from '../src/native.js';

export type Top = readonly (readonly [token: number, logprob: number])[];

interface Place {
  readonly tokens: readonly number[];
  readonly position: number;
}

interface Moved {
  readonly source: Place;
  readonly target: Place;
  readonly layer: number;
  readonly alpha: number;
}

interface Noised extends Place {
  readonly subject: readonly number[];
  /** Of the noise. */
  readonly size: number;
  readonly top: Top;
}

interface Reference {
  readonly layers: number;
  readonly matched: readonly (Moved & { readonly top: Top })[];
  readonly translated: readonly (Place & { readonly layer: number; readonly top: Top })[];
  readonly cut: readonly (Place & { layers: number[]; from: number[]; to: number[]; top: Top })[];
  readonly corrupted: readonly Noised[];
  readonly restored: readonly (Noised & { site: Site; layer: number; window: number })[];
  readonly contrasted: readonly (Moved & { readonly cutoff: number; readonly steps: Top })[];
}

/** Largest difference of a log-probability over the tokens that each case names, by the kind of reading. */
export async function differencesFromReference(
  engine: Engine,
  name: string,
): Promise<Readonly<Record<string, number>>> {
  const reference = JSON.parse(
    fs.readFileSync(new URL(`reference/readings-${name}.json`, import.meta.url), 'utf8'),
  ) as Reference;
  const { embeddingSize: width } = engine.record;

  const state = async ({ tokens, position }: Place, site: Site, layer: number) => {
    const [vector] = await capture(engine, tokens, [{ site, layer, tokenIndex: position }]);
    return vector!;
  };
  const read = async (row: PatchRow, top: Top) => {
    const reading = { topK: 1, maxTokens: 1, trackedTokens: top.map(([token]) => token) };
    const [result] = await engine.patch([row], reading);
    assert.ok(result?.status === 'ok');
    return largest(result.steps[0]!.tracked, top);
  };
  const patched = async ({ source, target, layer, alpha }: Moved, op: Edit['op']): Promise<Edit> => ({
    ...{
      site: 'resid_out',
      layer,
      tokenIndex: target.position,
      vector: await state(source, 'resid_out', layer),
    },
    ...{ op: op!, alpha: op === 'replace' ? 1 : alpha },
  });
  const noise = ({ subject, size }: Noised): Edit[] =>
    subject.map((tokenIndex) => ({
      ...{ site: 'embed', layer: 'embed', op: 'add', tokenIndex },
      vector: waves(width, tokenIndex * width, size),
    }));

  const differences: Record<string, number[]> = {};
  const add = (kind: string, difference: number) => {
    differences[kind] = [...(differences[kind] ?? []), difference];
  };
  for (const one of reference.matched) {
    const edits = [await patched(one, 'norm-matched-add')];
    add('norm-matched add', await read({ tokenIds: one.target.tokens, edits }, one.top));
  }
  const [weights, bias] = translator(width);
  for (const { layer, top, ...place } of reference.translated) {
    const own = await state(place, 'resid_out', layer);
    const { backend, threads } = engine.record;
    const mapped = await loadAddon(backend).applyAffine(weights, bias, own, width, threads);
    const [result] = await engine.lens(mapped, { topK: 1, trackedTokens: top.map(([token]) => token) });
    assert.ok(result?.status === 'ok');
    add('lens with a translator', largest(result.tracked, top));
  }
  for (const { tokens, layers, from, to, top } of reference.cut) {
    add('cut attention', await read({ tokenIds: tokens, edits: [], cuts: [{ from, to, layers }] }, top));
  }
  for (const one of reference.corrupted) {
    add('noise', await read({ tokenIds: one.tokens, edits: noise(one) }, one.top));
  }
  for (const one of reference.restored) {
    const { tokens, position: tokenIndex, site, layer, window } = one;
    const first = layer - Math.floor(window / 2);
    const points = Array.from({ length: window }, (_, i) => ({ site, layer: first + i, tokenIndex })).filter(
      (point) => point.layer >= 0 && point.layer < reference.layers,
    );
    const clean = await capture(engine, tokens, points);
    const restored = points.map((point, i): Edit => ({ ...point, vector: clean[i]! }));
    add(`restored ${site}`, await read({ tokenIds: tokens, edits: [...noise(one), ...restored] }, one.top));
  }
  for (const one of reference.contrasted) {
    const { target, alpha, cutoff, steps } = one;
    const row = {
      ...{ tokenIds: target.tokens, edits: [await patched(one, 'replace')] },
      contrast: { edits: [], alpha, cutoff },
    };
    const [result] = await engine.patch([row], { topK: 1, maxTokens: steps.length });
    assert.ok(result?.status === 'ok');
    const said = result.steps.map(({ chosen }) => chosen);
    const tokens = steps.map(([token]) => token);
    assert.deepEqual(
      said.map(({ tokenId }) => tokenId),
      tokens,
      'the same tokens are said',
    );
    add('contrasted runs', largest(said, steps));
  }
  return Object.fromEntries(Object.entries(differences).map(([kind, all]) => [kind, Math.max(...all)]));
}

async function capture(engine: Engine, tokenIds: readonly number[], points: readonly CapturePoint[]) {
  const [captured] = await engine.capture([{ tokenIds, points }]);
  assert.ok(captured?.status === 'ok');
  return captured.states;
}

/** As in reference/readings.py. */
function waves(count: number, start: number, size: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => size * Math.sin(12.9898 * (start + i) + 1));
}

function translator(width: number): readonly [weights: Float32Array, bias: Float32Array] {
  const weights = waves(width * width, 0, 0.02);
  for (let i = 0; i < width; i++) weights[i * (width + 1)]! += 1;
  return [weights, waves(width, 7, 0.1)];
}

export function largest(scored: readonly Pick<ScoredToken, 'logprob'>[], top: Top): number {
  return Math.max(...scored.map(({ logprob }, i) => Math.abs(logprob - top[i]![1])));
}
