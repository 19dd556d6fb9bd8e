/** Every experiment of the package runs on a small model, on three of its samples, and measures all that it names. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { builtInNames, readExperiment } from '../src/experiment-file/read-experiment.js';
import { type Experiment, isFidelityMetric } from '../src/patchscope.js';
import { planOf, runCells } from './run-cells.js';
import { sharedEngine, tinyModels } from './support.js';

const llama = tinyModels.find(({ name }) => name === 'llama')!;
const worldPath = fileURLToPath(new URL('world/world.gguf', import.meta.url));
const world = { name: 'world', isTiny: true, path: () => worldPath, skip: false as const };

/** Layers that a small model does not have are its last one; of what maps are fitted to, some is enough. */
function lessened(experiment: Experiment, layerCount: number): Experiment {
  const layers = (selector: string) =>
    selector.replace(/\d+/g, (layer) => `${Math.min(Number(layer), layerCount - 1)}`);
  const less = <T extends Partial<Experiment>>({ sourceLayers, targetLayers, mapping, ...rest }: T) => ({
    ...rest,
    ...(sourceLayers !== undefined && { sourceLayers: layers(sourceLayers) }),
    ...(targetLayers !== undefined && { targetLayers: layers(targetLayers) }),
    ...(mapping && {
      mapping:
        mapping.kind === 'unfitted'
          ? {
              ...mapping,
              prompts: mapping.prompts.slice(0, 20),
              fit: { ...mapping.fit, options: { ...mapping.fit.options, ...fewer(mapping.fit.kind) } },
            }
          : mapping,
    }),
  });
  return {
    ...(less(experiment) as Experiment),
    ...(experiment.variants && {
      variants: experiment.variants.map((variant) => ({ ...less(variant), name: variant.name })),
    }),
  };
}

const fewer = (kind: string) => (kind === 'mlp' ? { epochs: 1 } : {});

for (const name of builtInNames()) {
  test(name, async () => {
    const { experiment, models } = readExperiment(name, { limit: 3 });
    const engine = await sharedEngine(models?.source === worldPath ? world : llama);
    const plan = await planOf(lessened(experiment, engine.record.layerCount), engine);
    const cells = await runCells(plan, engine);
    for (const { outcome } of cells) assert.equal(outcome.steps.length >= 1, true);
    for (const metric of experiment.metrics ?? []) {
      // made of all cells together, in test/fidelity.test.ts
      if (isFidelityMetric(metric)) continue;
      assert.ok(
        cells.some(({ outcome }) => Number.isFinite(outcome.scores[metric])),
        `${metric} is measured`,
      );
    }
    const variants = (experiment.variants ?? [{ name: 'default' }]).map((variant) => variant.name);
    assert.deepEqual([...new Set(cells.map(({ pair }) => pair.variant))].sort(), [...variants].sort());
  });
}
