/** How much a text depends on its patch, and contrasted readings, from the experiment to its rows. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Engine } from '../src/engine.js';
import { readExperiment } from '../src/experiment-file/read-experiment.js';
import { measure } from '../src/metrics.js';
import type { Observation } from '../src/observation.js';
import { makePlan } from '../src/plan/plan.js';
import { recordRun, runHeader } from '../src/record-run.js';
import { renderReport } from '../src/report/report.js';
import { ChunkRunner, run } from '../src/run.js';
import { query } from '../src/store/query.js';
import { openStore } from '../src/store/store.js';
import {
  assertBadInput,
  folder,
  open,
  SOURCE,
  sharedEngine,
  TARGET,
  tinyModels,
  tinyPath,
  tokens,
} from './support.js';

const world = fileURLToPath(new URL('world/world.gguf', import.meta.url));
const worldEngine = () => sharedEngine({ name: 'world', isTiny: true, path: () => world, skip: false });

interface Keys {
  readonly [key: string]: unknown;
}

let files = 0;

function experimentOf(keys: Keys) {
  const path = join(folder(), `contrasted-${files++}.json`);
  const own = {
    name: 'contrasted',
    samples: [{ prompt: SOURCE }, { prompt: 'the sea and the town of the men' }],
    source: { prompt: '{prompt}', position: -1, layers: [0, 1] },
    target: { prompt: TARGET, position: -2, layers: 'same' },
    reading: { top: 3, tokens: 4 },
    metrics: ['relevancy'],
    controls: { unpatched: true, random: 1 },
  };
  writeFileSync(path, JSON.stringify({ ...own, ...keys }));
  return readExperiment(path).experiment;
}

function planOf(engine: Engine, keys: Keys) {
  return makePlan(experimentOf(keys), engine.tokenizer, engine.record);
}

async function observed(engine: Engine, keys: Keys): Promise<Observation[]> {
  const plan = planOf(engine, keys);
  const found: Observation[] = [];
  for await (const { observations } of run(plan, new ChunkRunner(plan, engine))) found.push(...observations);
  for (const { status, error } of found) assert.equal(status, 'ok', error ?? '');
  return found;
}

/** The state that the target itself has, written back. So few rows that none depends on what stands beside it. */
const identity = { source: { prompt: TARGET, position: -2, layers: [0, 1] } };

for (const model of tinyModels) {
  test(`${model.name}: what a patch does not change has a relevancy of 0, to the last bit`, {
    skip: model.skip,
  }, async () => {
    const engine = await sharedEngine(model);
    for (const [what, keys] of [
      ['plain', {}],
      ['contrasted', { contrast: { with: 'unpatched', alpha: 2, cutoff: 0.1 } }],
      ['with layers', { contrast: { with: ['embed', 0] } }],
      ['drawn', { reading: { tokens: 4, temperature: 1.5 } }],
    ] as const) {
      const cells = await observed(engine, { ...identity, ...keys });
      for (const { control, scores, relevancy, tokenIds, targetLayer } of cells) {
        assert.equal(relevancy!.length, tokenIds.length);
        if (control === 'random' && targetLayer === 0 && what === 'plain')
          assert.ok(scores.relevancy! > 0, `${what}: a random vector changes nothing`);
        if (control !== 'random') assert.equal(scores.relevancy, 0, `${what}, ${control}`);
      }
    }
  });
}

test('relevancy is what both distributions say of each token that was generated', async () => {
  const engine = await open(tinyPath('llama'));
  try {
    const cells = await observed(engine, {});
    const target = tokens(engine, TARGET);
    let largest = 0;
    for (const { tokenIds, relevancy, scores, control } of cells) {
      const input = { tokenIds: target, edits: [], continuation: tokenIds };
      const [bare] = await engine.patch([input], { topK: 1, maxTokens: 1 });
      assert.ok(bare?.status === 'ok');
      relevancy!.forEach((token, step) => {
        assert.equal(token.tokenId, tokenIds[step]);
        assert.ok(Math.abs(token.unpatched - Math.exp(bare.steps[step]!.chosen.logprob)) < 1e-3);
        assert.ok(token.probability > 0 && token.probability <= 1);
        if (control === 'none') largest = Math.max(largest, Math.abs(token.probability - token.unpatched));
      });
      const mean = relevancy!.reduce((sum, one) => sum + Math.abs(one.probability - one.unpatched), 0);
      assert.ok(Math.abs(scores.relevancy! - mean / tokenIds.length) < 1e-12);
    }
    assert.ok(largest > 1e-3, `no token feels its patch (${largest})`);
  } finally {
    await engine.close();
  }
});

test('relevancies are rows, and a page shows them', async () => {
  const engine = await sharedEngine(tinyModels[0]!);
  const plan = planOf(engine, {
    variants: [
      { name: 'fading', edit: { op: 'add', 'at-generated': true, decay: 0.5 } },
      { name: 'layers', contrast: { with: '0' } },
      { name: 'streams', contrast: { with: 'unpatched' } },
    ],
  });
  const db = join(folder(), 'relevancy.db');
  const chunks = run(plan, new ChunkRunner(plan, engine));
  const cells: Observation[] = [];
  const recorded = { record: engine.record, tolerance: () => Promise.resolve(0) };
  for await (const { observations } of recordRun(chunks, runHeader(plan, { command: '' }), recorded, () =>
    openStore(db),
  ))
    cells.push(...observations);
  const rows = await query(db, 'SELECT relevancy, token FROM relevancy ORDER BY observation_id, step');
  assert.deepEqual(
    rows.rows.map(([relevancy]) => relevancy),
    cells.flatMap(({ relevancy = [] }) => relevancy.map((one) => Math.abs(one.probability - one.unpatched))),
  );
  const kept = await query(db, 'SELECT DISTINCT name, decay, contrast FROM variant ORDER BY name');
  assert.deepEqual(kept.rows, [
    ['fading', 0.5, null],
    ['layers', null, '{"layers":[0],"cutoff":0.1}'],
    ['streams', null, '{"alpha":1,"cutoff":0.1}'],
  ]);
  const metric = await query(db, "SELECT count(*) FROM metric WHERE name = 'relevancy' AND value > 0");
  assert.ok(Number(metric.rows[0]![0]) > 0);
  const { html } = renderReport(db, ['1']);
  assert.match(html, /<u class="token" style="--w:\d+%">/);
  assert.match(html, /how much the patch changes the probability of a token/);
});

test('contrasted cells are what the engine gives for the same rows', async () => {
  const engine = await sharedEngine(tinyModels[0]!);
  const contrast = { with: 'unpatched', alpha: 1.5, cutoff: 0.05 };
  const plan = planOf(engine, { contrast, metrics: [], controls: {} });
  const own = { alpha: 1.5, cutoff: 0.05, edits: [] };
  let seen = 0;
  const watched: Engine = {
    ...engine,
    record: engine.record,
    tokenizer: engine.tokenizer,
    capture: (...asked) => engine.capture(...asked),
    patch: (rows, ...asked) => {
      for (const row of rows) assert.deepEqual(row.contrast, own);
      seen += rows.length;
      return engine.patch(rows, ...asked);
    },
  };
  for await (const { observations } of run(plan, new ChunkRunner(plan, watched)))
    for (const { steps } of observations)
      for (const [first] of steps) assert.ok(first!.logprob <= 0 && first!.rank === 0);
  assert.equal(seen, 4);
});

test('a token that was left out has no rank and no log-probability to be averaged', () => {
  const out = { tokenId: 7, token: 'a', logprob: Number.NEGATIVE_INFINITY, rank: 900 };
  const first = { tokenId: 3, token: 'b', logprob: 0, rank: 0 };
  const read = { text: 'b', tokenIds: [3], steps: [[first, out]] };
  const truth = { answer: ['a'], tokenIds: [7], own: [] };
  const names = ['answer-rank', 'answer-logprob', 'answer-first-token', 'relevancy'] as const;
  assert.deepEqual(measure(names, read, truth), { 'answer-first-token': 0 });
});

test('the experiments that contrast run on the known-answers model', async () => {
  const engine = await worldEngine();
  const samples = 'samples={data: world, limit: 4}';
  const about = ['sample="{person}"', 'answer="{answer}"'];
  const settings = {
    'contrastive-decoding': [
      ...[samples, ...about, 'source={prompt: "i saw {person}", layers: [0, 2]}'],
      ...['target={prompt: "the {relation} of x is", position: x, layers: 0}', 'reading.tokens=1'],
    ],
    dola: [
      ...[samples, ...about, 'source={prompt: "the {relation} of {person} is", layers: 0}'],
      ...['variants.1.contrast.with=[embed, 1]', 'variants.2.contrast.with=[3, 4]', 'reading.tokens=1'],
    ],
  };
  for (const [name, set] of Object.entries(settings)) {
    const { experiment } = readExperiment(name, { set });
    const plan = makePlan(experiment, engine.tokenizer, engine.record);
    const right = new Map<string, number[]>();
    for await (const { observations } of run(plan, new ChunkRunner(plan, engine)))
      for (const { status, error, variant, control, scores } of observations) {
        assert.equal(status, 'ok', error ?? '');
        const key = `${variant} ${control}`;
        right.set(key, [...(right.get(key) ?? []), scores['answer-first-token']!]);
      }
    const mean = (key: string) => right.get(key)!.reduce((sum, one) => sum + one, 0) / right.get(key)!.length;
    // what the model is sure of stays what it says
    for (const { name: variant } of experiment.variants!)
      if (variant === 'plain' || variant.startsWith('alpha') || variant === 'upper half')
        assert.equal(mean(`${variant} none`), 1, `${name}, ${variant}`);
  }
});

test('a contrast or a decay that makes no sense is told in a sentence', async () => {
  const engine = await sharedEngine(tinyModels[0]!);
  const refused = (keys: Keys, says: RegExp) => assertBadInput(() => planOf(engine, keys), says);
  const last = engine.record.layerCount - 1;
  refused({ contrast: { alpha: 1 } }, /contrast does not say with what: give with: unpatched/);
  refused({ contrast: { with: 'patched' } }, /with.* where unpatched, or layers/);
  refused({ contrast: { with: 'unpatched', cutoff: 1.5 } }, /cutoff.* where a number from 0 to 1 is needed/);
  refused({ contrast: { with: 'unpatched', cutoff: -1 } }, /cutoff.* where a number from 0 to 1 is needed/);
  refused({ contrast: { with: [0], alpha: 1 } }, /alpha is of with: unpatched/);
  refused({ contrast: { with: 99 } }, /Layer 99 is not in the model/);
  refused({ contrast: { with: [0, -1] } }, new RegExp(`names layer ${last}, which is the last`));
  refused({ contrast: { with: 'unpatched' }, edit: { op: 'scale' } }, /'default' patches nothing/);
  refused({ edit: { op: 'add', decay: 0.5 } }, /decay of the variant 'default' is of generated tokens/);
  refused({ edit: { 'at-generated': true, decay: 0.5 } }, /replace with an alpha of 0 .* can't decay/);
  refused({ edit: { op: 'add', 'at-generated': true, decay: 2 } }, /decay.* where a number from 0 to 1/);
  refused({ contrasts: {} }, /contrasts.* contrast/);
});
