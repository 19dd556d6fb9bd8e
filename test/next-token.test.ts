/** The built-in experiment next-token against float32 PyTorch on the same weights: see reference/README.md. */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { convertModel, resolveModel } from '../src/index.js';
import { cachedModelPath } from '../src/models/cache.js';
import { curvesOf, models, observe, referenceOf, variants, worstDifferences } from './next-token-curves.js';

for (const { name, middle, late } of models) {
  const file = cachedModelPath(name);
  const skip = existsSync(file) ? false : `not run: the model ${name} is not there`;
  const reference = referenceOf(name);

  test(`${name} in float32 has the next-token curves of PyTorch`, { skip }, async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'next-token-'));
    t.after(() => rmSync(folder, { recursive: true }));
    const converted = join(folder, 'f32.gguf');
    await convertModel(await resolveModel(file), converted, { to: 'f32', threads: 1 });
    const inFloat32 = { flashAttention: false, typeK: 'f32', typeV: 'f32' };
    const found = curvesOf(await observe(converted, reference, 'all', {}, inFloat32), reference);
    const [precision, surprisal, ofOwn] = worstDifferences(found, reference) as [number, number, number];
    const told = `worst differences over the layers: precision@1 ${precision.toFixed(4)}, surprisal ${surprisal.toExponential(1)}, of own ${ofOwn.toExponential(1)} nat`;
    t.diagnostic(told);
    assert.ok(precision <= 0.02 && surprisal <= 0.05 && ofOwn <= 0.05, told);
  });

  test(`${name} as it is stored says its next token by token identity in layers before the lens`, {
    skip,
  }, async (t) => {
    const cells = await observe(file, reference, `${middle},${late},-1`, { random: 1, shuffled: 1 });
    const precisions = (control: 'none' | 'random' | 'shuffled') => {
      const curves = curvesOf(cells, reference, control);
      const byVariant = variants.map((variant) => curves[variant].map(([precision]) => precision!));
      t.diagnostic(
        `${control}: ${byVariant.map((of) => of.map((one) => one.toFixed(2)).join(' ')).join(', ')}`,
      );
      return byVariant as [number[], number[]];
    };
    const [identity, lens] = precisions('none');
    [0.35, 0.65].forEach((least, i) => {
      assert.ok(identity[i]! >= least, `${identity[i]}`);
      assert.ok(identity[i]! >= lens[i]! + 0.15, `${identity[i]}, lens ${lens[i]}`);
    });
    // what is read behind the last block is what the model says
    for (const last of [identity[2]!, lens[2]!]) assert.ok(last >= 0.95, `${last}`);
    for (const control of ['random', 'shuffled'] as const) {
      for (const chance of precisions(control).flat()) assert.ok(chance <= 0.15, `${control}: ${chance}`);
    }
  });
}
