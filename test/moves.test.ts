/** Laws of cells that patch several positions or layers, of variants that go through positions, and of draws. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Engine, PatchRow } from '../src/engine.js';
import type { Outcome } from '../src/observation.js';
import type { Experiment, Position, Prompt, PromptAt, Site } from '../src/patchscope.js';
import type { ModelShape } from '../src/plan/pairs.js';
import {
  type Cell,
  cellAt,
  chunkCount,
  chunkRange,
  drawAt,
  makePlan,
  movesAt,
  type Plan,
} from '../src/plan/plan.js';
import { summarize } from '../src/plan/summary.js';
import { ChunkRunner } from '../src/run.js';
import {
  assertRefused,
  assertSameAcrossShapes,
  law,
  promptOf,
  SOURCE,
  TARGET,
  tinyModels,
  tokens,
} from './support.js';
import { wordTokenizer } from './word-tokenizer.js';

const text = (written: string): Prompt => ({ kind: 'text', text: written });
const index = (at: number): Position => ({ kind: 'index', index: at });
const same: Position = { kind: 'same' };
const all: Position = { kind: 'each', spans: [{ kind: 'all' }] };
const at = (prompt: string | Prompt, position: Position, ...further: Position[]): PromptAt => ({
  prompt: typeof prompt === 'string' ? text(prompt) : prompt,
  position,
  ...(further.length > 0 && { further }),
});

/** As many tokens as the source, the same up to one of them. */
function altered(engine: Engine, place: number): Prompt {
  return { kind: 'tokens', tokenIds: tokens(engine, SOURCE).map((id, i) => (i === place ? id + 1 : id)) };
}

function experiment(source: PromptAt, target: PromptAt, more: Partial<Experiment> = {}): Experiment {
  return {
    name: 'test',
    samples: [{ name: 'one', source, target }],
    sourceLayers: 'all',
    targetLayers: 'same',
    mapping: { kind: 'identity' },
    reading: { topK: 20, maxTokens: 2, stop: [] },
    seed: 0,
    ...more,
  };
}

interface Ran extends Cell {
  readonly outcome: Outcome;
}

async function ran(engine: Engine, asked: Experiment): Promise<Ran[]> {
  const plan = makePlan(asked, engine.tokenizer, engine.record);
  const runner = new ChunkRunner(plan, engine);
  const cells: Ran[] = [];
  for (let chunk = 0; chunk < chunkCount(plan); chunk++) {
    const [begin] = chunkRange(plan, chunk);
    for (const [i, outcome] of (await runner.run(chunk)).entries()) {
      assert.equal(outcome.status, 'ok', outcome.error ?? '');
      cells.push({ ...cellAt(plan, begin + i), outcome });
    }
  }
  return cells;
}

const oneToken = { topK: 20, maxTokens: 1, stop: [] };
const lastTwo: Position = { kind: 'each', spans: [{ kind: 'range', first: -2, last: -1 }] };
const logprobs = ({ outcome }: Ran) => Float32Array.from(outcome.steps[0]!, ({ logprob }) => logprob);

/** Of the first token read. */
function assertSameSteps(actual: Ran, expected: Ran, where: string): void {
  assertSameAcrossShapes(logprobs(actual), logprobs(expected), where);
}

const stepsOf = (cells: readonly Ran[]) => cells.map(({ outcome }) => outcome.steps);
const laws = (sentence: string, check: (engine: Engine) => Promise<void>) =>
  law(sentence, check, { models: tinyModels });
const blockSites: readonly Site[] = ['resid_mid', 'attn_out', 'mlp_out', 'resid_out'];

async function isPatchable(engine: Engine, site: Site): Promise<boolean> {
  const [result] = await engine
    .capture([{ tokenIds: [1], points: [{ site, layer: 0, tokenIndex: 0 }] }])
    .catch(() => []);
  return result?.status === 'ok';
}

laws(
  'a window of one layer is none, and onward from the last layer is a patch of that layer',
  async (engine) => {
    const pair = [at(SOURCE, index(4)), at(TARGET, index(-1))] as const;
    const plain = await ran(engine, experiment(...pair));
    assert.deepEqual(await ran(engine, experiment(...pair, { window: 1 })), plain);
    const last = (window?: 'onward') =>
      experiment(...pair, { targetLayers: '-1', ...(window && { window }) });
    assert.deepEqual(await ran(engine, last('onward')), await ran(engine, last()));
  },
);

laws('onward from any layer, what is read there is as after a patch of the last layer', async (engine) => {
  const pair = [at(SOURCE, index(4)), at(TARGET, index(-1))] as const;
  const onward = await ran(engine, experiment(...pair, { window: 'onward', reading: oneToken }));
  const last = await ran(engine, experiment(...pair, { reading: oneToken }));
  for (const cell of onward) assert.deepEqual(cell.outcome.steps, last.at(-1)!.outcome.steps);
  assert.notDeepEqual(last[0]!.outcome.steps, last.at(-1)!.outcome.steps);
});

laws(
  'states of a prompt into the same prompt change nothing, in any window and at any positions',
  async (engine) => {
    for (const site of blockSites) {
      if (!(await isPatchable(engine, site))) continue;
      for (const [source, target, window] of [
        [at(SOURCE, index(-3), index(-1)), at(SOURCE, index(-3), index(-1)), 2],
        [at(SOURCE, index(-2)), at(SOURCE, same), 'onward'],
        [at(SOURCE, lastTwo), at(SOURCE, same), 3],
      ] as const) {
        const asked = experiment(source, target, {
          ...{ sourceLayers: '0,-1', sourceSite: site, targetSite: site, window },
          controls: { unpatched: true },
        });
        const cells = await ran(engine, asked);
        const unpatched = cells.find(({ control }) => control === 'unpatched')!;
        for (const cell of cells) assertSameSteps(cell, unpatched, `${site}, window ${window}`);
      }
    }
  },
);

laws(
  'going through one position is the plain cell, and going through several is each of them',
  async (engine) => {
    const one: Position = { kind: 'each', spans: [{ kind: 'range', first: 4, last: 4 }] };
    const steps = async (position: Position) =>
      stepsOf(await ran(engine, experiment(at(SOURCE, position), at(TARGET, index(5)))));
    const plain = await steps(index(4));
    assert.deepEqual(await steps(one), plain);
    const several: Position = { kind: 'each', spans: [{ kind: 'range', first: 3, last: 5 }] };
    const swept = await ran(engine, experiment(at(SOURCE, several), at(TARGET, index(5))));
    const fourth = swept.filter(({ pair }) => promptOf(pair.source).tokenIndex === 4);
    assert.deepEqual(
      fourth.map(({ pair }) => pair.swept),
      plain.map(() => 1),
    );
    for (const [i, { outcome }] of fourth.entries()) {
      assert.deepEqual(
        outcome.tokenIds,
        (await ran(engine, experiment(at(SOURCE, index(4)), at(TARGET, index(5)))))[i]!.outcome.tokenIds,
      );
    }
  },
);

laws(
  'what two prompts begin with alike has the same states, and the first token that differs has not',
  async (engine) => {
    const first = 9;
    const around: Position = { kind: 'each', spans: [{ kind: 'range', first: first - 1, last: first }] };
    const asked = experiment(at(altered(engine, first), around), at(SOURCE, same), {
      ...{ sourceLayers: '0', controls: { unpatched: true } },
    });
    const cells = await ran(engine, asked);
    const unpatched = cells.find(({ control }) => control === 'unpatched')!;
    const patched = cells.filter(({ control }) => control === 'none');
    assert.deepEqual(
      patched.map(({ pair }) => [promptOf(pair.source).tokenIndex, pair.target.tokenIndex]),
      [first - 1, first].map((place) => [place, place]),
    );
    assertSameSteps(patched[0]!, unpatched, 'before it');
    assert.notDeepEqual(logprobs(patched[1]!), logprobs(unpatched));
  },
);

laws('at the last layer no token but the last is read', async (engine) => {
  const lastThree: Position = { kind: 'each', spans: [{ kind: 'range', first: -3, last: -1 }] };
  const asked = experiment(at(SOURCE, lastThree), at(TARGET, index(-2)), {
    ...{ sourceLayers: '-1', controls: { unpatched: true }, reading: oneToken },
  });
  const [unpatched, ...others] = await ran(engine, asked);
  for (const cell of others) assertSameSteps(cell, unpatched!, `position ${cell.pair.swept}`);
});

laws('all states of another prompt at one layer are that prompt', async (engine) => {
  const places = tokens(engine, SOURCE).map((_, i) => index(i)) as [Position, ...Position[]];
  const other = altered(engine, 9);
  const into = (target: string | Prompt) =>
    ran(
      engine,
      experiment(at(other, ...places), at(target, ...places), { sourceLayers: '0,-1', reading: oneToken }),
    );
  const [own, swapped] = [await into(other), await into(SOURCE)];
  for (const [i, cell] of swapped.entries()) assertSameSteps(cell, own[i]!, `layer ${cell.source.layer}`);
});

laws('of several states each goes where it is told', async (engine) => {
  const two = async (sources: [Position, Position], targets: [Position, Position]) =>
    stepsOf(await ran(engine, experiment(at(SOURCE, ...sources), at(TARGET, ...targets))));
  const [a, b, c, d] = [index(2), index(6), index(7), index(9)];
  const straight = await two([a, b], [c, d]);
  assert.deepEqual(await two([b, a], [d, c]), straight, 'the order of the list says nothing');
  assert.notDeepEqual(await two([b, a], [c, d]), straight, 'what goes where does');
});

test('a random vector is the same at each position that one state goes to, and drawn anew for each other state', async () => {
  const { tokenizer, record, engine, rows } = recording();
  const width = record.embeddingSize;
  const asked = experiment(at('a b c', index(1)), at('a b c a b c', index(2), index(4)), {
    ...{ sourceLayers: '0,1', window: 'onward', controls: { random: 1 } },
  });
  await new ChunkRunner(makePlan(asked, tokenizer, record), engine).run(0);
  const [random] = rows.filter(({ edits }) => edits.length === 6 && edits[0]!.vector![0] !== 1);
  const places = random!.edits.map(({ layer, tokenIndex }) => `${layer} ${tokenIndex}`);
  assert.deepEqual(places, ['0 2', '0 4', '1 2', '1 4', '2 2', '2 4']);
  const [a, b, c, d] = random!.edits.map(({ vector }) => [...vector!]);
  assert.deepEqual([a, c], [b, d]);
  assert.notDeepEqual(a, c);
  const norm = (vector: number[]) => Math.hypot(...vector);
  assert.ok(Math.abs(norm(a!) - Math.sqrt(width)) < 1e-5);
});

test('each cell is run in each draw, with its controls, and its noise is that of its sample and draw', () => {
  const { tokenizer, record } = recording();
  const two = [0, 1].map((sample) => ({
    name: `${sample}`,
    source: at(sample === 0 ? 'a b' : 'b a', all),
    target: at('c a b', index(1)),
  }));
  const controls = { random: 2, shuffled: 1, unpatched: true };
  const asked = { ...experiment(two[0]!.source, two[0]!.target, { controls }), samples: two };
  const variants = [{ name: 'three', draws: 3 }, { name: 'one' }];
  const plan = makePlan({ ...asked, variants }, tokenizer, record);
  const cells = Array.from({ length: plan.cellCount }, (_, i) => ({
    ...cellAt(plan, i),
    of: drawAt(plan, i),
  }));
  const drawsOf = (variant: string, control: string, sample = 0) => {
    const those = cells.filter(
      (cell) => cell.pair.variant === variant && cell.control === control && cell.pair.sample === sample,
    );
    const placed = those.map(({ pair, source, draw, of }) => `${pair.swept} ${source.layer} ${draw} ${of}`);
    assert.equal(new Set(placed).size, placed.length, 'each once');
    return [...new Set(those.map(({ draw, of }) => `${draw} ${of}`))].sort();
  };
  assert.deepEqual(drawsOf('three', 'none'), ['0 0', '1 1', '2 2']);
  assert.deepEqual(drawsOf('three', 'random'), ['0 0', '1 1', '2 2', '3 0', '4 1', '5 2']);
  assert.deepEqual(drawsOf('three', 'shuffled'), ['0 0', '1 1', '2 2']);
  assert.deepEqual(drawsOf('three', 'unpatched'), ['0 0', '1 1', '2 2']);
  assert.deepEqual(drawsOf('one', 'random'), ['0 0', '1 0']);
  assert.equal(cells.filter(({ control }) => control === 'unpatched').length, 2 * (3 + 1));
  for (const { control, pair, sourcePair } of cells) {
    if (control !== 'shuffled') continue;
    assert.notEqual(sourcePair.sample, pair.sample);
    assert.equal(sourcePair.swept, pair.swept);
  }
});

test('rows share what comes before the first token that is patched or cut off, and the cache is laid out for that', () => {
  const words = Array.from({ length: 21 }, (_, i) => 'abc'[i % 3]).join(' ');
  const cut = {
    from: [{ kind: 'range', first: 1, last: 1 }],
    to: [{ kind: 'range', first: 0, last: 0 }],
    layers: 'all',
  } as const;
  const { tokenizer, record } = recording({ layerCount: 20, promptTokens: 60, batchRows: 256 });
  const planned = (target: PromptAt) =>
    makePlan(
      experiment(at('a b', index(-1)), target, {
        targetLayers: 'all',
        reading: { topK: 1, maxTokens: 1, stop: [] },
      }),
      tokenizer,
      record,
    );
  const tokensOf = (plan: Plan) => summarize(plan, { batchRows: 256, batchTokens: 8192 }, 4).targetTokens;
  const late = planned(at(words, index(-1)));
  const length = late.pairs[0]!.target.tokenIds.length;
  assert.equal(late.cacheLayout, 'unified');
  assert.equal(tokensOf(late), length - 1 + 400);
  const early = planned({ ...at(words, index(-1)), cuts: [cut] });
  assert.equal(early.cacheLayout, 'streams');
  assert.equal(tokensOf(early), 1 + 400 * (length - 1));
  const further = planned(at(words, index(-1), index(1)));
  assert.equal(further.cacheLayout, 'streams');
  assert.equal(tokensOf(further), 1 + 400 * (length - 1));
});

test('a window is cut at the ends of either model', () => {
  const { tokenizer, record } = recording({ layerCount: 6 });
  const layersOf = (window: Experiment['window'], sourceLayers: string, targetLayers: string) => {
    const plan = makePlan(
      experiment(at('a b', index(-1)), at('c', index(-1)), { sourceLayers, targetLayers, window: window! }),
      tokenizer,
      record,
    );
    return movesAt(plan, 0).map(({ source, target }) => `${source.layer}>${target.layer}`);
  };
  assert.deepEqual(layersOf(4, '3', '3'), ['3>3', '1>1', '2>2', '4>4']);
  assert.deepEqual(layersOf(3, '0', '5'), ['0>5']);
  assert.deepEqual(layersOf(5, '1', '2'), ['1>2', '0>1', '2>3', '3>4']);
  assert.deepEqual(layersOf('onward', '4', '2'), ['4>2', '5>3']);
});

test('what can not be is refused in one sentence', async () => {
  const { tokenizer, record } = recording();
  const refused = (says: RegExp, ...[source, target, more]: Parameters<typeof experiment>) =>
    assertRefused(() => makePlan(experiment(source, target, more), tokenizer, record), 'bad_input', says);
  const a = at('a b c', index(1));
  await refused(
    /source has 2 positions and the target 3/,
    at('a b', index(0), index(1)),
    at('a b c', index(0), index(1), index(2)),
  );
  await refused(/source has 2 positions and the target 1/, at('a b', index(0), index(1)), a);
  await refused(/target position 1 \("a"\) is given twice/, a, at('a b c', index(1), index(-5)));
  await refused(/Position 5 is outside the target prompt/, at('a b c', index(5)), at('a b', same));
  await refused(/source position is 'same'/, at('a b', same), a);
  await refused(/target position is each of some tokens/, a, at('a b', all));
  await refused(/A window is of the layers from 0 on, .*embed/, a, a, {
    window: 2,
    sourceLayers: 'embed',
    targetLayers: '0',
  });
  await refused(/A window is of the layers from 0 on, .*final_norm/, a, a, {
    window: 2,
    sourceSite: 'final_norm',
    sourceLayers: '-1',
  });
  const probe = { probe: { folds: 2 } };
  await refused(/A probe learns from one state of each sample/, at('a b', all), a, probe);
  await refused(
    /A probe learns from one state of each sample/,
    at('a b', index(0), index(1)),
    at('a b', same),
    probe,
  );
});

/** An engine without a model: its states are ones, and it keeps the rows that it is given. */
function recording(changes: Partial<ModelShape> = {}) {
  const record: ModelShape = {
    ...{
      layerCount: 3,
      sha256: 'model',
      embeddingSize: 4,
      promptTokens: 20,
      batchRows: 128,
      noStreams: null,
    },
    ...changes,
  };
  const tokenizer = wordTokenizer();
  const rows: PatchRow[] = [];
  const score = { tokenId: 0, logprob: 0, rank: 0 };
  const engine = {
    ...{ tokenizer, record: { ...record, threads: 1 } },
    capture: async (requests: readonly { readonly points: readonly unknown[] }[]) =>
      requests.map(({ points }) => ({
        status: 'ok',
        states: points.map(() => new Float32Array(record.embeddingSize).fill(1)),
      })),
    patch: async (given: readonly PatchRow[]) => {
      rows.push(...given);
      const step = { top: [score], tracked: [], chosen: score };
      return given.map(() => ({ status: 'ok', tokenIds: [0], text: 'a', steps: [step], positions: [] }));
    },
  } as unknown as Engine;
  return { tokenizer, record, engine, rows };
}
