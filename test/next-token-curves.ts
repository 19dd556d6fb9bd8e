/** The built-in experiment next-token run on the tokens of a reference file, as means by layer. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import {
  ChunkRunner,
  type Control,
  type Controls,
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

const metrics = ['precision-at-1', 'surprisal', 'surprisal-of-own'];
/** Over the prompts, in the order of the metrics. */
type Means = readonly number[];
export const variants = ['token-identity', 'logit-lens'] as const;
/** By variant, the means of each layer. */
type Curves = Readonly<Record<(typeof variants)[number], readonly Means[]>>;

export interface Reference extends Curves {
  readonly target: readonly number[];
  readonly prompts: readonly { readonly tokens: readonly number[]; readonly position: number }[];
}

/** `middle` and `late` are layers in which token identity reads far more than the lens. */
export const models = [
  { name: 'smollm2-135m-instruct', middle: 20, late: 28 },
  { name: 'gemma-3-270m', middle: 10, late: 14 },
] as const;

/** What reference/next_token.py found. */
export function referenceOf(name: string): Reference {
  return JSON.parse(readFileSync(new URL(`reference/next-token-${name}.json`, import.meta.url), 'utf8'));
}

/** Every cell of some source layers, by one thread. */
export async function observe(
  path: string,
  { target, prompts }: Reference,
  sourceLayers: string,
  controls: Controls = {},
  options: EngineOptions = {},
): Promise<Observation[]> {
  const engine = await openEngine(await resolveModel(path), { threads: 1, ...options });
  try {
    return await observed(engine, { ...experimentOn(prompts), sourceLayers, controls }, target);
  } finally {
    await engine.close();
  }
}

async function observed(engine: Engine, experiment: Experiment, target: readonly number[]) {
  const plan = makePlan(experiment, engine.tokenizer, engine.record);
  assert.deepEqual(plan.pairs[0]!.target.tokenIds, target, 'the target prompt of the reference');
  const cells: Observation[] = [];
  for await (const { observations } of run(plan, new ChunkRunner(plan, engine))) cells.push(...observations);
  return cells;
}

function experimentOn(prompts: Reference['prompts']): Experiment {
  const { experiment } = readExperiment('next-token', { limit: 1 });
  const [sample] = experiment.samples;
  const asked = (name: string) => (variants as readonly string[]).includes(name);
  return {
    ...experiment,
    variants: experiment.variants!.filter(({ name }) => asked(name)),
    samples: prompts.map(({ tokens, position }, i) => ({
      ...sample!,
      name: String(i),
      variants: Object.fromEntries(Object.entries(sample!.variants!).filter(([name]) => asked(name))),
      source: { prompt: { kind: 'tokens', tokenIds: tokens }, position: { kind: 'index', index: position } },
    })),
  };
}

export function curvesOf(
  cells: readonly Observation[],
  { prompts }: Reference,
  control: Control = 'none',
): Curves {
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

/** The largest of each metric over variants and layers. */
export function worstDifferences(found: Curves, reference: Curves): number[] {
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
