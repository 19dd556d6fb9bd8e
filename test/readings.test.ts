/** The prior readings among the experiments of the package: each file does what its method says, on small models. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Edit, Engine } from '../src/engine.js';
import type { Layer } from '../src/patchscope.js';
import { GroupProber } from '../src/probing/group-prober.js';
import { inputOf } from '../src/prompts.js';
import { renderReport } from '../src/report/report.js';
import { pointOf } from '../src/source-states.js';
import { ofVariant, planFile, type RanCell, runCells, storeRun } from './run-cells.js';
import { patched, promptOf, sharedEngine, tinyModels } from './support.js';

const llama = tinyModels.find(({ name }) => name === 'llama')!;
const world = {
  ...{ name: 'world', isTiny: true, skip: false as const },
  path: () => fileURLToPath(new URL('world/world.gguf', import.meta.url)),
};
const tinyEngine = () => sharedEngine(llama);

/** The state that a cell takes. */
async function stateOf(engine: Engine, { sourcePair, source }: RanCell): Promise<Float32Array> {
  const points = [pointOf(promptOf(sourcePair.source), source)];
  const [result] = await engine.capture([{ ...inputOf(promptOf(sourcePair.source)), points }]);
  assert.ok(result?.status === 'ok');
  return result.states[0]!;
}

/** What a row says next with one edit by hand, to compare a cell with; kernels round by the number of rows. */
async function nextTop(engine: Engine, { pair, target }: RanCell, edit: Partial<Edit>) {
  const edits = [{ ...pointOf(pair.target, target), ...edit }];
  const [row] = await patched(engine, [{ ...inputOf(pair.target), edits }]);
  return row!.steps[0]!.top[0]!;
}

function assertSays(
  { outcome, pair }: RanCell,
  top: { readonly tokenId: number; readonly logprob: number },
): void {
  const scored = outcome.steps[0]!.find(({ tokenId }) => tokenId === top.tokenId);
  assert.ok(scored !== undefined && Math.abs(scored.logprob - top.logprob) < 0.05, pair.variant);
}

const allLayers = ({ record }: Engine): Layer[] => Array.from({ length: record.layerCount }, (_, i) => i);

test("tuned-lens: fitted to the last output, its maps tell more of the model's next token than none", async () => {
  const engine = await sharedEngine(world);
  const set = ['samples={ data: world, limit: 24, columns: { prompt: person, next: answer } }'];
  const plan = await planFile('tuned-lens', engine, [
    ...set,
    'source.prompt=the city of {prompt} is',
    'mapping.samples={ data: world, from: 25, columns: { prompt: person } }',
  ]);
  const cells = await runCells(plan, engine);
  const meanOf = (variant: string, layer: Layer) => {
    const scores = ofVariant(cells, variant)
      .filter(({ source }) => source.layer === layer)
      .map(({ outcome }) => outcome.scores['surprisal-of-own']!);
    return scores.reduce((sum, value) => sum + value, 0) / scores.length;
  };
  for (const layer of [0, 1, 2]) {
    const [lens, logit] = [meanOf('tuned-lens', layer), meanOf('logit-lens', layer)];
    assert.ok(lens < logit, `layer ${layer}: ${lens} and ${logit} nat`);
  }
});

test('linear-shortcut: matrices without an intercept, from every layer to the last and from one to all later ones', async () => {
  const engine = await tinyEngine();
  const plan = await planFile('linear-shortcut', engine, ['samples.limit=2', 'mapping.samples.limit=30']);
  const cells = await runCells(plan, engine);
  const layers = allLayers(engine);
  const pairsOf = (variant: string) =>
    [
      ...new Set(ofVariant(cells, variant).map(({ source, target }) => `${source.layer} ${target.layer}`)),
    ].sort();
  assert.deepEqual(
    pairsOf('to the last layer'),
    layers.map((layer) => `${layer} ${layers.at(-1)}`),
  );
  assert.deepEqual(
    pairsOf('from layer 0'),
    layers.slice(1).map((layer) => `0 ${layer}`),
  );
  for (const variant of ['to the last layer', 'from layer 0']) {
    const mapping = plan.mappings.get(variant)!;
    assert.ok(mapping.kind === 'file' && mapping.record.kind === 'linear');
    assert.equal(plan.mappings.has(`${variant} by identity`), false);
  }
});

test('linear-probing: every sample is predicted at every layer, and nothing is patched', async () => {
  const engine = await tinyEngine();
  const plan = await planFile('linear-probing', engine);
  const probes = await new GroupProber(plan, engine).probe(0, null);
  const predictions = probes.flatMap((probe) => probe.predictions);
  assert.equal(predictions.length, plan.experiment.samples.length * engine.record.layerCount);
  assert.deepEqual([...new Set(predictions.map(({ predicted }) => predicted))].sort(), [
    'animal',
    'fruit',
    'tool',
  ]);
  const cells = await runCells(plan, engine);
  for (const sample of plan.experiment.samples.keys()) {
    const said = cells.filter(({ pair }) => pair.sample === sample).map(({ outcome }) => outcome.steps);
    for (const steps of said) assert.deepEqual(steps, said[0]);
  }
});

test('zero-ablation: what is added at a place is nothing, or the whole state is', async () => {
  const engine = await tinyEngine();
  const cells = await runCells(
    await planFile('zero-ablation', engine, ['samples.0.prompt=the cat and']),
    engine,
  );
  const zero = new Float32Array(engine.record.embeddingSize);
  const sites = { attention: 'attn_out', MLP: 'mlp_out', 'whole state': 'resid_out' };
  for (const [variant, site] of Object.entries(sites)) {
    const own = ofVariant(cells, variant);
    assert.deepEqual([...new Set(own.map(({ target }) => target.site))], [site]);
    for (const cell of own.filter(({ pair }) => pair.sample === 0))
      assertSays(cell, await nextTop(engine, cell, { vector: zero }));
    const [unpatched] = ofVariant(cells, variant, 'unpatched');
    assert.notDeepEqual(own[0]!.outcome.steps, unpatched!.outcome.steps, `${variant} makes a difference`);
  }
});

test('superscopes: states and what MLPs add are made larger, and the report chooses how much on other samples', async () => {
  const engine = await tinyEngine();
  const plan = await planFile('superscopes', engine, ['reading.tokens=2', 'controls={}']);
  const cells = await runCells(plan, engine);
  for (const [name, site] of Object.entries({ state: 'resid_out', MLP: 'mlp_out' })) {
    for (const times of [1, 2, 5, 10]) {
      const [cell] = ofVariant(cells, `${name} x ${times}`).filter(({ source }) => source.layer === 1);
      assert.deepEqual([cell!.source.site, cell!.target.site], [site, 'resid_out']);
      const vector = (await stateOf(engine, cell!)).map((value) => times * value);
      assertSays(cell!, await nextTop(engine, cell!, { vector }));
    }
  }
  const db = await storeRun(plan, engine);
  const report = renderReport(db, ['1']);
  const { data } = report.parts.find(({ name }) => name === 'cell-choice-answer-found')!;
  const lines = data.rows.filter(([, variant]) => variant === 'any of them');
  const size = [plan.experiment.samples.length, 8 * engine.record.layerCount];
  assert.deepEqual(
    lines.map((line) => line.slice(2, 7)),
    [['none', 0, 'all', ...size]],
  );
  for (const chosen of lines[0]!.slice(-2)) assert.match(`${chosen}`, /^(state|MLP) x (1|2|5|10), \d to \d$/);
});

test('back-patching: into earlier layers alone, at the same token of the same prompt', async () => {
  const engine = await sharedEngine(world);
  const plan = await planFile('back-patching', engine, [
    'samples={ data: world, limit: 12, columns: { query: admirer } }',
    'source.prompt=the {relation} of the friend of {query} is',
    'reading.tokens=1',
  ]);
  const cells = await runCells(plan, engine);
  const layers = engine.record.layerCount;
  const own = ofVariant(cells, 'at the end');
  assert.equal(own.length, (12 * layers * (layers + 1)) / 2);
  const rank = (layer: Layer) => (layer === 'embed' ? -1 : layer);
  for (const cell of own) {
    assert.ok(rank(cell.target.layer) < rank(cell.source.layer));
    assert.deepEqual(cell.pair.target.tokenIds, promptOf(cell.pair.source).tokenIds);
    assert.equal(cell.pair.target.tokenIndex, promptOf(cell.pair.source).tokenIndex);
  }
  for (const cell of own.slice(0, 4)) {
    assertSays(cell, await nextTop(engine, cell, { vector: await stateOf(engine, cell) }));
  }
  // this model is known not to join two hops in one prompt
  for (const { outcome } of ofVariant(cells, 'asked')) assert.equal(outcome.scores['answer-found'], 0);
});

test('tokens-to-words: states go to where the embedding of a filler stood', async () => {
  const engine = await tinyEngine();
  const plan = await planFile('tokens-to-words', engine, ['samples=[{ word: cat }, { word: women }]']);
  const cells = (await runCells(plan, engine)).filter(({ control }) => control === 'none');
  assert.equal(cells.length, 2 * (engine.record.layerCount + 1));
  for (const cell of cells) {
    assert.deepEqual(cell.target, { site: 'embed', layer: 'embed' });
    assert.match(cell.pair.target.token, /x/);
    assertSays(cell, await nextTop(engine, cell, { vector: await stateOf(engine, cell) }));
  }
});

test('analogies: the state behind both names goes to every layer of the filler', async () => {
  const engine = await tinyEngine();
  const plan = await planFile('analogies', engine, ['reading.tokens=1', 'controls={}']);
  const cells = await runCells(plan, engine);
  assert.equal(cells.length, plan.experiment.samples.length * engine.record.layerCount ** 2);
  for (const cell of cells.slice(0, 3)) {
    assert.match(cell.pair.target.token, /x$/);
    assertSays(cell, await nextTop(engine, cell, { vector: await stateOf(engine, cell) }));
  }
});

test('logit-lens: the lens of each layer, and at the last one the model itself', async () => {
  const engine = await tinyEngine();
  const plan = await planFile('logit-lens', engine);
  const cells = await runCells(plan, engine);
  for (const cell of cells.slice(0, 2 * engine.record.layerCount)) {
    const [result] = await engine.lens(await stateOf(engine, cell), { topK: 1 });
    assert.ok(result?.status === 'ok');
    assertSays(cell, result.top[0]!);
  }
});
