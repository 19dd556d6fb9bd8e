/** Readings against what the source's model itself goes on to say: whose tokens follow, and what is compared. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { Engine, PatchRow, Tokenizer } from '../src/engine.js';
import { readExperiment } from '../src/experiment-file/read-experiment.js';
import { measure } from '../src/metrics.js';
import type { Outcome } from '../src/observation.js';
import { aheadMetricNames, type Experiment, metricNames } from '../src/patchscope.js';
import { type Cell, cellAt, makePlan, type Plan } from '../src/plan/plan.js';
import { ChunkRunner } from '../src/run.js';
import { CapturedStates } from '../src/source-states.js';
import { StateFile } from '../src/state-file.js';
import { StatesAhead } from '../src/states-ahead.js';
import { Translation } from '../src/vocabulary.js';
import {
  argmax,
  assertBadInput,
  assertRefused,
  folder,
  law,
  patched,
  promptOf,
  SOURCE,
  sharedEngine,
  TARGET,
  tinyModels,
  withLayout,
} from './support.js';

const llama = tinyModels.find(({ name }) => name === 'llama')!;
const MOST = 4;

function write(content: object): string {
  const path = join(folder(), `ahead ${Math.random()}.json`);
  writeFileSync(path, JSON.stringify(content));
  return path;
}

const own = { top: 2, tokens: MOST, continuation: 'own' };
const metrics = metricNames.filter((name) => /^(precision|surprisal)/.test(name));
const base = {
  ...{
    name: 'ahead',
    samples: [
      { p: SOURCE, at: 4 },
      { p: 'of the sea and', at: 2 },
    ],
  },
  source: { prompt: '{p}', position: '{at}' },
  ...{ target: { prompt: TARGET }, reading: own, metrics },
};
const experimentOf = (content: object): Experiment =>
  readExperiment(write({ ...base, ...content })).experiment;

async function runAll(
  experiment: Experiment,
  engine: Engine,
  sources?: (plan: Plan) => CapturedStates | StatesAhead,
) {
  const plan = makePlan(experiment, engine.tokenizer, engine.record);
  const outcomes = await new ChunkRunner(plan, engine, sources?.(plan)).runCells(
    Array.from({ length: plan.cellCount }, (_, i) => i),
  );
  return outcomes.map((outcome, i) => ({ outcome, cell: cellAt(plan, i) }));
}

/** The most probable token, again and again, each prompt run whole. */
async function greedy(engine: Engine, tokenIds: readonly number[], count: number) {
  const said: { readonly tokenId: number; readonly logits: Float32Array }[] = [];
  for (let i = 0; i < count; i++) {
    const row: PatchRow = { tokenIds: [...tokenIds, ...said.map(({ tokenId }) => tokenId)], edits: [] };
    const [{ steps }] = (await patched(engine, [row])) as [Awaited<ReturnType<typeof patched>>[number]];
    const logits = steps[0]!.logits!;
    said.push({ tokenId: argmax(logits), logits });
    if (engine.tokenizer.isEndOfText(said.at(-1)!.tokenId)) break;
  }
  return said;
}

function logprob(logits: Float32Array, tokenId: number): number {
  const most = Math.max(...logits);
  return logits[tokenId]! - most - Math.log(logits.reduce((sum, value) => sum + Math.exp(value - most), 0));
}

/** Rounding decides which token is said where two are as probable. */
const ROUNDING = 0.02;

law(
  'a state in its own place goes on as the model itself does, token by token',
  async (engine) => {
    const cells = await runAll(
      experimentOf({
        target: { prompt: { same: 'source' } },
        source: { ...base.source, layers: 'embed,all' },
      }),
      engine,
    );
    for (const { outcome, cell } of cells) {
      assert.equal(outcome.status, 'ok', outcome.error ?? '');
      const { tokenIds, tokenIndex } = promptOf(cell.pair.source);
      const prompt = tokenIds.slice(0, tokenIndex + 1);
      const said = await greedy(engine, prompt, MOST);
      assert.deepEqual(
        outcome.tokenIds,
        said.map(({ tokenId }) => tokenId),
        `layer ${cell.source.layer}`,
      );
      for (const [i, { tokenId, logits }] of said.entries()) {
        const ahead = i === 0 ? '' : `-ahead-${i + 1}`;
        for (const k of [1, 5, 10]) assert.equal(outcome.scores[`precision-at-${k}${ahead}`], 1);
        for (const name of ['surprisal', 'surprisal-of-own'])
          assert.ok(Math.abs(outcome.scores[`${name}${ahead}`]! + logprob(logits, tokenId)) < ROUNDING);
      }
    }
  },
  { models: tinyModels },
);

/** What one cell's row says where the model's own tokens stand behind its prompt, by a run for each. */
async function forced(engine: Engine, { pair, source, target }: Cell, tokenIds: readonly number[]) {
  const [from, to] = [promptOf(pair.source), pair.target];
  const [captured] = await engine.capture([
    { tokenIds: from.tokenIds, points: [{ ...source, tokenIndex: from.tokenIndex }] },
  ]);
  assert.equal(captured!.status, 'ok');
  const [vector] = captured!.status === 'ok' ? captured!.states : [];
  const rows = tokenIds.map((_, i) => ({
    tokenIds: [...to.tokenIds, ...tokenIds.slice(0, i)],
    edits: [{ ...target, tokenIndex: to.tokenIndex, vector: vector! }],
  }));
  const read: Float32Array[] = [];
  for (const row of rows) read.push((await patched(engine, [row]))[0]!.steps[0]!.logits!);
  return read;
}

test("behind the model's own tokens stands what the patched run says there, whatever it said before", async () => {
  const engine = await sharedEngine(llama);
  const cells = await runAll(experimentOf({ controls: { unpatched: true } }), engine);
  let others = 0;
  for (const { outcome, cell } of cells) {
    if (cell.control !== 'none') continue;
    const { tokenIds, tokenIndex } = promptOf(cell.pair.source);
    const prompt = tokenIds.slice(0, tokenIndex + 1);
    const said = await greedy(engine, prompt, MOST);
    const own = said.map(({ tokenId }) => tokenId);
    const read = await forced(engine, cell, own);
    others += Number(outcome.tokenIds.some((tokenId, i) => tokenId !== own[i]));
    for (const [i, logits] of read.entries()) {
      const [top] = outcome.steps[i]!;
      const scored = outcome.steps[i]!.find(({ tokenId }) => tokenId === own[i])!;
      assert.ok(Math.abs(top!.logprob - logprob(logits, top!.tokenId)) < ROUNDING);
      assert.ok(Math.abs(scored.logprob - logprob(logits, own[i]!)) < ROUNDING);
      const ahead = i === 0 ? '' : `-ahead-${i + 1}`;
      const rank = logits.filter((value) => value > logits[own[i]!]!).length;
      assert.ok(Math.abs(rank - scored.rank) <= 1, `${rank} ${scored.rank}`);
      for (const k of [1, 5, 10])
        assert.equal(outcome.scores[`precision-at-${k}${ahead}`], Number(scored.rank < k));
      assert.equal(outcome.scores[`surprisal-of-own${ahead}`], -scored.logprob);
      const surprisal = -logprob(said[i]!.logits, top!.tokenId);
      assert.ok(Math.abs(outcome.scores[`surprisal${ahead}`]! - surprisal) < ROUNDING);
    }
  }
  assert.ok(others > 0, 'some cells say something else than the model itself');
});

test('states and continuations that were read ahead give the same', async () => {
  const engine = await sharedEngine(llama);
  const experiment = experimentOf({ controls: { shuffled: 1 } });
  const ahead = (plan: Plan) => {
    const file = new StateFile(join(folder(), 'ahead.safetensors'), plan, engine.record, true);
    return new StatesAhead(plan, new CapturedStates(plan, engine), file);
  };
  const outcomes = (cells: readonly { readonly outcome: Outcome }[]) => cells.map(({ outcome }) => outcome);
  assert.deepEqual(
    outcomes(await runAll(experiment, engine, ahead)),
    outcomes(await runAll(experiment, engine)),
  );
});

/** Of every third token it knows another text. */
function poorer(own: Tokenizer): Tokenizer {
  return {
    ...{ vocabularySize: own.vocabularySize, bosToken: own.bosToken },
    tokenize: (...asked) => own.tokenize(...asked),
    tokenBytes: (id) => (id % 3 === 0 ? Buffer.from(`no ${id}`) : own.tokenBytes(id)),
    isEndOfText: (id) => own.isEndOfText(id),
    chat: (...asked) => own.chat(...asked),
  };
}

test("another model is given the source's own tokens as it spells them, up to one that it does not have", async () => {
  const source = await sharedEngine(llama);
  const target = { ...withLayout(source, 'unified'), tokenizer: poorer(source.tokenizer) };
  const samples = ['in the', 'of the sea', 'a cat is on', SOURCE, TARGET, 'men'].map((p) => ({ p, at: -1 }));
  const plan = makePlan(
    experimentOf({ samples, source: { ...base.source, layers: '0..2' } }),
    source.tokenizer,
    source.record,
    target,
  );
  const cells = Array.from({ length: plan.cellCount }, (_, i) => i);
  const outcomes = await new ChunkRunner(plan, target, new CapturedStates(plan, source)).runCells(cells);
  const counts = new Set<number>();
  for (const [i, outcome] of outcomes.entries()) {
    const { pair } = cellAt(plan, i);
    const said = await greedy(
      source,
      promptOf(pair.source).tokenIds.slice(0, promptOf(pair.source).tokenIndex + 1),
      MOST,
    );
    const same = said.map(({ tokenId }) =>
      new Translation(source.tokenizer, target.tokenizer).tokens(tokenId),
    );
    const spelled = same.map((tokenIds) => tokenIds.at(-1));
    const count = [...spelled, undefined].indexOf(undefined);
    counts.add(count);
    if (count === 0) {
      assert.match(outcome.error!, /^no_continuation: What the source's model itself says next/);
      continue;
    }
    assert.equal(outcome.steps.length, count);
    for (let step = 0; step < MOST; step++) {
      const ahead = step === 0 ? '' : `-ahead-${step + 1}`;
      const scored = outcome.steps[step]?.find(({ tokenId }) => same[step]?.includes(tokenId));
      assert.equal(outcome.scores[`surprisal-of-own${ahead}`], scored && -scored.logprob);
      assert.equal(outcome.scores[`precision-at-5${ahead}`], scored && Number(scored.rank < 5));
    }
  }
  assert.ok(counts.size > 1, [...counts].join());
});

test('a continuation that ends early is compared as far as it goes', () => {
  const score = (tokenId: number, rank: number) => ({ tokenId, token: '', logprob: -1 - rank, rank });
  const reading = (tokenId: number) => ({ tokenIds: [tokenId], logprob: () => -2 });
  const scores = measure(
    metrics,
    { text: '', tokenIds: [], steps: [[score(7, 0), score(3, 6)]] },
    { answer: [], tokenIds: [], own: [reading(3)] },
  );
  assert.deepEqual(scores, {
    ...{ 'precision-at-1': 0, 'precision-at-5': 0, 'precision-at-10': 1 },
    ...{ surprisal: 2, 'surprisal-of-own': 7 },
  });
});

test('the experiment runs on a tiny model, with each prompt and all it measures', async () => {
  const engine = await sharedEngine(llama);
  const { experiment } = readExperiment('future-lens', { limit: 2, set: ['samples.data=sentences'] });
  assert.equal(experiment.metrics!.filter((name) => aheadMetricNames.includes(name as never)).length, 9);
  const cells = await runAll(experiment, engine);
  for (const { outcome } of cells) {
    assert.equal(outcome.status, 'ok', outcome.error ?? '');
  }
  assert.deepEqual(new Set(cells.map(({ cell }) => cell.pair.variant)).size, 4);
});

test('what can not be compared is told', async () => {
  const bad = (content: object, says: RegExp) => assertBadInput(() => experimentOf(content), says);
  bad(
    { reading: { tokens: 4 } },
    /metrics\[\d+\] is precision-at-1-ahead-2, which needs 2 tokens of the model's own: give reading: \{ continuation: own, tokens: 2 \}/,
  );
  bad({ reading: { ...own, tokens: 3 } }, /is precision-at-1-ahead-4, which needs 4 tokens/);
  bad({ reading: { ...own, stop: 'newline' } }, /reading\.continuation is own, which is scored to its end/);
  bad({ reading: { ...own, temperature: 1 } }, /reading\.continuation is own, which is scored to its end/);
  bad(
    { reading: { ...own, continuation: 'mine' } },
    /reading\.continuation is .*mine.* one of own is needed/,
  );
  const engine = await sharedEngine(llama);
  const { reading, ...rest } = experimentOf({});
  const plan = (more: object) => () =>
    makePlan({ ...rest, reading: { ...reading, ...more } }, engine.tokenizer, engine.record);
  await assertRefused(plan({ continuation: 'a' }), 'bad_input', /own continuation is scored to its end/);
  await assertRefused(plan({ maxTokens: 2 }), 'bad_input', /compares 4 tokens with the model's own/);
});
