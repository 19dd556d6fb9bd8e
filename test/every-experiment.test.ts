/** Every experiment of the package runs on a small model, on three of its samples, and measures all that it names. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { builtInNames, readExperiment } from '../src/experiment-file/read-experiment.js';
import { type Experiment, isFidelityMetric, type PromptAt, type Source } from '../src/patchscope.js';
import { withoutHopelessProbe } from '../src/plan/probe-units.js';
import { openVectors } from '../src/vectors/open-vectors.js';
import { planOf, runCells } from './run-cells.js';
import { sharedEngine, tinyModels } from './support.js';

const llama = tinyModels.find(({ name }) => name === 'llama')!;
const worldPath = fileURLToPath(new URL('world/world.gguf', import.meta.url));
const world = { name: 'world', isTiny: true, path: () => worldPath, skip: false as const };

/**
 * Layers that a small model does not have are its last one; of what maps are fitted to, some is enough. A vector of a
 * file, which is as wide as another model, is one drawn, and a LoRA that is to be given is none.
 */
function lessened(experiment: Experiment, layerCount: number): Experiment {
  const layers = (selector: string) =>
    selector.replace(/\d+/g, (layer) => `${Math.min(Number(layer), layerCount - 1)}`);
  const less = <T extends Partial<Experiment>>({
    sourceLayers,
    targetLayers,
    mapping,
    contrast,
    sourceAdapter: _,
    targetAdapter: __,
    ...rest
  }: T) => ({
    ...rest,
    ...(contrast && {
      contrast:
        contrast.with === 'unpatched'
          ? contrast
          : { ...contrast, with: { layers: earlier(contrast.with.layers, layerCount) } },
    }),
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
    samples: experiment.samples.map((sample) => ({
      ...sample,
      source: drawn(sample.source),
      target: plain(sample.target),
    })),
    ...(experiment.variants && {
      variants: experiment.variants.map((variant) => ({ ...less(variant), name: variant.name })),
    }),
  };
}

function drawn(source: Source): Source {
  return 'vector' in source && source.vector.kind === 'file'
    ? { vector: { kind: 'random', norm: 10 } }
    : source;
}

/** Small models have no chat template. */
function plain(at: PromptAt): PromptAt {
  return at.prompt.kind === 'text' ? { ...at, prompt: { ...at.prompt, chat: false } } : at;
}

/** Before the last one. */
function earlier(layers: string, layerCount: number): string {
  return layers.replace(/\d+/g, (layer) => `${Math.min(Number(layer), layerCount - 2)}`);
}

const fewer = (kind: string) => (kind === 'mlp' ? { epochs: 1 } : {});

for (const name of builtInNames()) {
  test(name, async () => {
    const { experiment: whole, models } = readExperiment(name, { limit: 3 });
    const engine = await sharedEngine(models?.source === worldPath ? world : llama);
    const { expected: _, ...experiment } = lessened(
      withoutHopelessProbe(whole, () => undefined),
      engine.record.layerCount,
    );
    const plan = await planOf(await openVectors(experiment, { source: engine, target: engine }), engine);
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
