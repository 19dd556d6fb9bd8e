/** Patched readings against float32 PyTorch on the same weights: see reference/README.md. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import {
  convertModel,
  type Engine,
  type EngineOptions,
  type Layer,
  openEngine,
  resolveModel,
} from '../src/index.js';
import { cachedModelPath } from '../src/models/cache.js';
import { differencesFromReference, largest, type Top } from './reference-readings.js';
import { siteOf } from './support.js';

interface Reference {
  readonly sha256: string;
  readonly lens: readonly { tokens: number[]; position: number; layer: Layer; top: Top }[];
  readonly patched: readonly {
    source: { tokens: number[]; position: number; layer: Layer };
    target: { tokens: number[]; position: number; layer: Layer };
    top: Top;
  }[];
}

const models = [
  { name: 'smollm2-135m-instruct', bound: 1e-3 },
  { name: 'gemma-3-270m', bound: 0.02 },
] as const;

/** As near to PyTorch's arithmetic as llama.cpp gets. */
const exactly = { flashAttention: false, typeK: 'f32', typeV: 'f32' } as const;

for (const { name, bound } of models) {
  const file = cachedModelPath(name);
  const skip = fs.existsSync(file) ? false : `not run: the model ${name} is not there`;

  test(`${name} in float32 reads as PyTorch does, within ${bound} nat`, { skip }, async (t) => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'parity-'));
    t.after(() => fs.rmSync(folder, { recursive: true }));
    const converted = path.join(folder, 'f32.gguf');
    await convertModel(await resolveModel(file), converted, { to: 'f32' });
    const difference = await worst(name, converted, exactly);
    t.diagnostic(`worst difference of the top-10 log-probabilities: ${difference.nat.toExponential(1)} nat`);
    assert.ok(difference.cases >= 20);
    assert.equal(difference.sameTop, difference.cases, 'top-1 equal in all');
    assert.ok(difference.nat <= bound, `${difference.nat} nat`);
    assert.ok(difference.lensNat <= bound, `lens: ${difference.lensNat} nat`);
    const engine = await openEngine(await resolveModel(converted), exactly);
    t.after(() => engine.close());
    for (const [kind, nat] of Object.entries(await differencesFromReference(engine, name))) {
      t.diagnostic(`${kind}: ${nat.toExponential(1)} nat`);
      assert.ok(nat <= bound, `${kind}: ${nat} nat`);
    }
  });

  test(`${name} as it is stored differs from its own dequantised weights, by a stated amount`, {
    skip,
  }, async (t) => {
    const difference = await worst(name, file, {});
    t.diagnostic(
      `quantised: worst ${difference.nat.toFixed(2)} nat, median of the worst of each prompt ${difference.medianNat.toFixed(2)} nat, top-1 equal in ${difference.sameTop} of ${difference.cases}`,
    );
    assert.ok(difference.medianNat < 1);
  });
}

/** Differences of log-probability over the reference's ten most probable tokens. */
async function worst(name: string, file: string, options: EngineOptions) {
  const reference = JSON.parse(
    fs.readFileSync(new URL(`reference/${name}.json`, import.meta.url), 'utf8'),
  ) as Reference;
  const engine = await openEngine(await resolveModel(file), options);
  try {
    const perCase: number[] = [];
    let sameTop = 0;
    for (const { source, target, top } of reference.patched) {
      const vector = await state(engine, source);
      const [result] = await engine.patch(
        [
          {
            tokenIds: target.tokens,
            edits: [{ site: siteOf(target.layer), layer: target.layer, tokenIndex: target.position, vector }],
          },
        ],
        { topK: 1, maxTokens: 1, trackedTokens: top.map(([id]) => id) },
      );
      assert.equal(result!.status, 'ok');
      if (result!.status !== 'ok') continue;
      const [step] = result!.steps;
      perCase.push(largest(step!.tracked, top));
      if (step!.top[0]!.tokenId === top[0]![0]) sameTop++;
    }
    let lensNat = 0;
    for (const { tokens, position, layer, top } of reference.lens) {
      const [reading] = await engine.lens(await state(engine, { tokens, position, layer }), {
        topK: 1,
        trackedTokens: top.map(([id]) => id),
      });
      assert.equal(reading!.status, 'ok');
      if (reading!.status === 'ok') lensNat = Math.max(lensNat, largest(reading!.tracked, top));
    }
    const sorted = [...perCase].sort((a, b) => a - b);
    return {
      cases: perCase.length,
      nat: sorted.at(-1)!,
      medianNat: sorted[Math.floor(sorted.length / 2)]!,
      sameTop,
      lensNat,
    };
  } finally {
    await engine.close();
  }
}

async function state(
  engine: Engine,
  { tokens, position, layer }: { tokens: number[]; position: number; layer: Layer },
) {
  const [captured] = await engine.capture([
    { tokenIds: tokens, points: [{ site: siteOf(layer), layer, tokenIndex: position }] },
  ]);
  assert.equal(captured!.status, 'ok');
  return captured!.status === 'ok' ? captured!.states[0]! : new Float32Array();
}
