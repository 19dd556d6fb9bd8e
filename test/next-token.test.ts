/** The built-in experiment next-token against float32 PyTorch on the same weights: see reference/README.md. */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  ChunkRunner,
  type Control,
  type Controls,
  convertModel,
  type Engine,
  type EngineOptions,
  type Experiment,
  grouped,
  makePlan,
  type Observation,
  openEngine,
  readExperiment,
  resolveModel,
  run,
} from '../src/index.js';
import { cachedModelPath } from '../src/models/cache.js';

const metrics = ['precision-at-1', 'surprisal', 'surprisal-of-own'];
/** Means over the prompts, in the order of the metrics. */
type Means = readonly number[];
const variants = ['token-identity', 'logit-lens'] as const;
/** By variant, the means of each layer. */
type Curves = Readonly<Record<(typeof variants)[number], readonly Means[]>>;

interface Reference extends Curves {
  readonly target: readonly number[];
  readonly prompts: readonly { readonly tokens: readonly number[]; readonly position: number }[];
}

/** `middle` and `late` are layers in which token identity reads far more than the lens. */
const models = [
  { name: 'smollm2-135m-instruct', middle: 20, late: 28 },
  { name: 'gemma-3-270m', middle: 10, late: 14 },
] as const;

for (const { name, middle, late } of models) {
  const file = cachedModelPath(name);
  const skip = existsSync(file) ? false : `not run: the model ${name} is not there`;
  const reference = JSON.parse(
    readFileSync(new URL(`reference/next-token-${name}.json`, import.meta.url), 'utf8'),
  ) as Reference;

  test(`${name} in float32 has the next-token curves of PyTorch`, { skip }, async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'next-token-'));
    t.after(() => rmSync(folder, { recursive: true }));
    const converted = join(folder, 'f32.gguf');
    await convertModel(await resolveModel(file), converted, { to: 'f32', threads: 1 });
    const inFloat32 = { flashAttention: false, typeK: 'f32', typeV: 'f32' };
    await withEngine(converted, inFloat32, async (engine) => {
      const worst = differences(curvesOf(await observe(engine, reference, 'all'), reference), reference);
      t.diagnostic(`worst differences over the layers: ${told(worst)}`);
      assert.ok(
        worst.every((difference, i) => difference <= [0.02, 0.05, 0.05][i]!),
        told(worst),
      );
    });
  });

  test(`${name} as it is stored says its next token by token identity in layers before the lens`, {
    skip,
  }, async (t) => {
    await withEngine(file, {}, async (engine) => {
      const patched = curvesOf(await observe(engine, reference, 'all'), reference);
      t.diagnostic(`quantised, worst differences over the layers: ${told(differences(patched, reference))}`);
      const read = (layer: number) => variants.map((variant) => patched[variant][layer]![0]!);
      for (const [layer, least] of [
        [middle, 0.35],
        [late, 0.65],
      ] as const) {
        const [identity, lens] = read(layer) as [number, number];
        t.diagnostic(`precision@1 at layer ${layer}: ${identity.toFixed(2)}, lens ${lens.toFixed(2)}`);
        assert.ok(identity >= least && identity >= lens + 0.15, `layer ${layer}: ${identity}, lens ${lens}`);
      }
      for (const precision of read(engine.record.layerCount - 1)) assert.ok(precision >= 0.95);

      const cells = await observe(engine, reference, `${middle},${late}`, { random: 1, shuffled: 1 });
      for (const control of ['random', 'shuffled'] as const) {
        const precisions = Object.values(curvesOf(cells, reference, control))
          .flat()
          .map(([precision]) => precision!);
        t.diagnostic(`${control}: ${precisions.map((precision) => precision.toFixed(2)).join(', ')}`);
        assert.ok(precisions.every((precision) => precision <= 0.15));
      }
    });
  });
}

async function withEngine(path: string, options: EngineOptions, work: (engine: Engine) => Promise<void>) {
  const engine = await openEngine(await resolveModel(path), { threads: 1, ...options });
  try {
    await work(engine);
  } finally {
    await engine.close();
  }
}

async function observe(
  engine: Engine,
  { target, prompts }: Reference,
  sourceLayers: string,
  controls: Controls = {},
): Promise<Observation[]> {
  const experiment = { ...experimentOn(prompts), sourceLayers, controls };
  const plan = makePlan(experiment, engine.tokenizer, engine.record);
  assert.deepEqual(plan.pairs[0]!.target.tokenIds, target, 'the target prompt of the reference');
  const cells: Observation[] = [];
  for await (const { observations } of run(plan, new ChunkRunner(plan, engine))) cells.push(...observations);
  return cells;
}

function curvesOf(cells: readonly Observation[], { prompts }: Reference, control: Control = 'none'): Curves {
  const curve = (variant: string) => {
    const own = cells.filter((cell) => cell.variant === variant && cell.control === control);
    const byLayer = [...grouped(own, ({ sourceLayer }) => Number(sourceLayer))].sort(([a], [b]) => a - b);
    return byLayer.map(([layer, ofLayer]) => {
      assert.equal(ofLayer.length, prompts.length, `${variant}, layer ${layer}`);
      return metrics.map((metric) => mean(ofLayer.map(({ scores }) => scores[metric]!)));
    });
  };
  return { 'token-identity': curve('token-identity'), 'logit-lens': curve('logit-lens') };
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** The experiment that comes with the package, asked of the recorded tokens. */
function experimentOn(prompts: Reference['prompts']): Experiment {
  const { experiment } = readExperiment('next-token', { limit: 1 });
  const [sample] = experiment.samples;
  return {
    ...experiment,
    samples: prompts.map(({ tokens, position }, i) => ({
      ...sample!,
      name: String(i),
      source: { prompt: { kind: 'tokens', tokenIds: tokens }, position: { kind: 'index', index: position } },
    })),
  };
}

/** The largest of each metric over variants and layers. */
function differences(found: Curves, reference: Curves): number[] {
  return metrics.map((_, metric) =>
    Math.max(
      ...variants.flatMap((variant) => {
        assert.equal(found[variant].length, reference[variant].length);
        return reference[variant].map((means, layer) =>
          Math.abs(means[metric]! - found[variant][layer]![metric]!),
        );
      }),
    ),
  );
}

function told(values: readonly number[]): string {
  return values.map((value, i) => `${metrics[i]} ${value.toFixed(4)}`).join(', ');
}
