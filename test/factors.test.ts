/** Factors of an experiment file: which variants come of them, what is refused, and what a variant of its own may say. */
import assert from 'node:assert/strict';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { stringify } from 'yaml';
import type { Tokenizer } from '../src/engine.js';
import { builtInNames, type ReadOptions, readExperiment } from '../src/experiment-file/read-experiment.js';
import type { Experiment } from '../src/patchscope.js';
import { makePlan, type Plan } from '../src/plan/plan.js';
import { ChunkRunner, run } from '../src/run.js';
import { assertBadInput, folder, law, promptOf, tinyModels } from './support.js';

const home = mkdtempSync(join(folder(), 'factors-'));

function read(content: object | string, options?: ReadOptions) {
  const path = join(home, 'f.yaml');
  writeFileSync(path, typeof content === 'string' ? content : stringify(content));
  return readExperiment(path, options);
}

const plain = {
  name: 'small',
  samples: [{ who: 'cat and dog' }, { who: 'man of the sea' }],
  source: { prompt: 'the {who}', layers: [0, 1] },
  target: { prompt: 'in the house', position: -1, layers: 'same' },
  reading: { top: 2, tokens: 4 },
};

/** Of levels that change a key each. */
function counted(levels: readonly number[]) {
  const keys = [
    (i: number) => ({ source: { layers: i } }),
    (i: number) => ({ target: { layers: i } }),
    (i: number) => ({ target: { position: i } }),
    (i: number) => ({ edit: { alpha: i } }),
  ];
  const factors = levels.map((count, f) => [
    `f${f}`,
    Object.fromEntries(Array.from({ length: count }, (_, i) => [`l${i}`, i === 0 ? {} : keys[f]!(i)])),
  ]);
  return { ...plain, factors: Object.fromEntries(factors) };
}

for (const levels of [[2], [7], [2, 2], [3, 4], [2, 3, 4], [4, 3, 2, 5]]) {
  test(`factors of ${levels.join(', ')} levels: all alone, and each two together once`, () => {
    const { variants } = read(counted(levels)).experiment;
    const further = levels.map((count) => count - 1);
    const sum = further.reduce((a, b) => a + b);
    const pairs = further
      .flatMap((a, i) => further.slice(i + 1).map((b) => a * b))
      .reduce((a, b) => a + b, 0);
    assert.equal(variants!.length, 1 + sum + pairs);
    const changes = variants!.map(
      ({ factors }) => Object.values(factors!).filter((level) => level !== 'l0').length,
    );
    assert.deepEqual(
      [0, 1, 2].map((n) => changes.filter((count) => count === n).length),
      [1, sum, pairs],
    );
    const told = new Set(variants!.map(({ factors }) => JSON.stringify(factors)));
    assert.equal(told.size, variants!.length);
    for (const { name, factors } of variants!) {
      const changed = Object.entries(factors!).filter(([, level]) => level !== 'l0');
      assert.equal(name, changed.map(([factor, level]) => `${factor}=${level}`).join(', ') || 'base');
    }
  });
}

const twoFactors = `name: small
samples: [{ who: cat and dog }, { who: man of the sea }]
source: { prompt: "the {who}", layers: [0, 1] }
target: { prompt: in the house, position: -1, layers: same }
factors:
  tokens:
    "20": {}
    "5": { reading: { tokens: 5 } }
  how:
    plain: { target: { position: -1 } }
    asked: { target: { prompt: "what is {who}?", position: "{who}" }, edit: { alpha: 2 } }
variants: [{ name: own, target: { layers: all } }]
reading: { top: 2, tokens: 20 }
`;

test('variants of factors are those that a person would have written, and stand before those', () => {
  const { experiment } = read(twoFactors);
  const asked = { target: { prompt: 'what is {who}?', position: '{who}' }, edit: { alpha: 2 } };
  const byHand = read({
    ...plain,
    reading: { top: 2, tokens: 20 },
    variants: [
      { name: 'base', target: { position: -1 } },
      { name: 'tokens=5', reading: { tokens: 5 }, target: { position: -1 } },
      { name: 'how=asked', ...asked },
      { name: 'tokens=5, how=asked', reading: { tokens: 5 }, ...asked },
      { name: 'own', target: { layers: 'all' } },
    ],
  }).experiment;
  const bare = ({ variants, ...rest }: Experiment) => ({
    ...rest,
    variants: variants!.map(({ factors: _, ...variant }) => variant),
  });
  assert.deepEqual(bare(experiment), bare(byHand));
  assert.deepEqual(
    experiment.variants!.map(({ factors }) => factors),
    [
      { tokens: '20', how: 'plain' },
      { tokens: '5', how: 'plain' },
      { tokens: '20', how: 'asked' },
      { tokens: '5', how: 'asked' },
      undefined,
    ],
  );
});

test('the first level is the first that is written, also where levels are numbers', () => {
  const { variants } = read(twoFactors.replaceAll('"20"', '20').replaceAll('"5"', '5')).experiment;
  assert.equal(variants![0]!.factors!.tokens, '20');
  assert.deepEqual(
    variants!.map(({ maxTokens }) => maxTokens),
    [undefined, 5, undefined, 5, undefined],
  );
});

test('a level is changed or taken away by --set', () => {
  const { variants } = read(twoFactors, { set: ['factors.tokens.5.reading.tokens=6'] }).experiment;
  assert.equal(variants![1]!.maxTokens, 6);
  const fewer = read(counted([3, 2]), { set: ['factors.f0.l2=null'] }).experiment;
  assert.equal(fewer.variants!.length, 4);
});

test('factors that mean nothing are refused, each in a sentence that says where', () => {
  const bad = (changes: readonly [string, string], message: RegExp) =>
    assertBadInput(() => read(twoFactors.replace(...changes)), message);
  bad(['    "20": {}\n', ''], /f\.yaml:6:3: factors\.tokens has one level where at least two are needed/);
  bad(
    ['reading: { tokens: 5 }', 'target: { position: 2 }'],
    /f\.yaml:10:24: factors\.how\.plain sets target\.position, as factors\.tokens\.5 does/,
  );
  bad(['asked:', 'a=b:'], /factors\.how is called or has a level 'a=b' where a name without =/);
  bad(['plain:', '"p, q":'], /a level 'p, q' where a name without = and commas is needed/);
  bad(['{ tokens: 5 }', '{ tokens: 0 }'], /factors\.tokens\.5\.reading\.tokens is 0 where a whole number/);
  bad(['reading: { tokens: 5 }', 'readings: 5'], /no key 'readings' in factors\.tokens\.5, perhaps reading/);
  bad(['{who}?', '{whom}?'], /takes \{whom\}, which sample 1 .* does not have, perhaps \{who\}/);
  bad(['name: own', 'name: base'], /is 'base', as that of another variant is/);
  bad(['    plain: { target: { position: -1 } }\n    asked: {', '    plain: {} #'], /has one level/);
  assertBadInput(() => read({ ...plain, factors: { a: 7 } }), /factors\.a is 7 where a set of levels/);
  assertBadInput(() => read({ ...plain, factors: {} }), /factors is empty where at least one factor/);
});

test('every built-in file of factors is as large as it says', () => {
  const sizes = Object.fromEntries(
    builtInNames()
      .map((name) => [name, readExperiment(name, { limit: 1, withoutMappings: true }).experiment] as const)
      .filter(([, { variants }]) => variants?.some(({ factors }) => factors))
      .map(([name, { variants }]) => [name, variants!.length]),
  );
  assert.deepEqual(sizes, {
    ablation: 33,
    'ablation-attributes': 51,
    'ablation-entities': 51,
    'prompt-ablation': 26,
    'prompt-ablation-entities': 18,
  });
});

const llama = { models: tinyModels.slice(0, 1) };

async function readings(plan: Plan, runner: ChunkRunner) {
  const all = [];
  for await (const { observations } of run(plan, runner)) all.push(...observations);
  return all;
}

law(
  'the first variant of factors reads what the experiment without them does',
  async (engine) => {
    const { factors: _, ...without } = counted([2, 2]);
    const [made, alone] = [counted([2, 2]), without].map((file) =>
      makePlan(read(file).experiment, engine.tokenizer, engine.record),
    ) as [Plan, Plan];
    const own = await readings(alone, new ChunkRunner(alone, engine));
    const all = await readings(made, new ChunkRunner(made, engine));
    const base = all.filter(({ variant }) => variant === 'base');
    const told = (observations: typeof all) =>
      observations
        .map(({ sample, sourceLayer, targetLayer, tokenIds }) => [sample, sourceLayer, targetLayer, tokenIds])
        .map((row) => JSON.stringify(row))
        .sort();
    assert.equal(base.length, 4);
    assert.deepEqual(told(base), told(own));
  },
  llama,
);

law(
  'a variant of fewer tokens reads the first of those of a longer one',
  async (engine) => {
    const file = { ...plain, variants: [{ name: 'long' }, { name: 'short', reading: { tokens: 2 } }] };
    const plan = makePlan(read(file).experiment, engine.tokenizer, engine.record);
    const all = await readings(plan, new ChunkRunner(plan, engine));
    const of = (variant: string) => all.filter((one) => one.variant === variant);
    assert.equal(of('short').length, 4);
    for (const [i, { tokenIds, steps, text }] of of('short').entries()) {
      const long = of('long')[i]!;
      assert.equal(long.tokenIds.length, 4);
      assert.deepEqual(tokenIds, long.tokenIds.slice(0, 2));
      assert.equal(steps.length, 2);
      assert.ok(long.text!.startsWith(text!));
    }
    const more = { ...plain, variants: [{ name: 'long', reading: { tokens: 6 } }] };
    const longer = makePlan(read(more).experiment, engine.tokenizer, engine.record);
    for (const { tokenIds } of await readings(longer, new ChunkRunner(longer, engine)))
      assert.equal(tokenIds.length, 6);
  },
  llama,
);

law(
  'a placeholder that no text stands for is the last token of the target',
  async (engine) => {
    const { tokenizer, record } = engine;
    const kinds = ['padding', 'end', 'random', 'source'] as const;
    const samples = Array.from({ length: 12 }, (_, i) => ({
      who: i % 2 === 0 ? 'cat and dog' : 'man of the sea',
    }));
    const file = {
      ...plain,
      samples,
      variants: kinds.map((placeholder) => ({ name: placeholder, target: { prompt: { placeholder } } })),
    };
    const { pairs } = makePlan(read(file).experiment, tokenizer, record);
    const before = tokenizer.tokenize('in the house', { bos: true, special: false });
    const last = (kind: string) =>
      pairs
        .filter(({ variant }) => variant === kind)
        .map(({ source, target }) => {
          assert.deepEqual(target.tokenIds.slice(0, -1), before);
          assert.equal(target.tokenIndex, before.length);
          return [target.tokenIds.at(-1)!, promptOf(source).tokenIds[promptOf(source).tokenIndex]!] as const;
        });
    for (const [token] of last('padding')) assert.equal(token, tokenizer.padToken);
    for (const [token] of last('end')) assert.equal(token, tokenizer.endToken);
    for (const [token, source] of last('source')) assert.equal(token, source);
    const drawn = last('random').map(([token]) => token);
    assert.ok(new Set(drawn).size > 4, `${drawn}`);
    const again = makePlan(read(file).experiment, tokenizer, record).pairs;
    assert.deepEqual(again, pairs);
    const otherwise = makePlan(read(file, { set: ['seed=100'] }).experiment, tokenizer, record).pairs;
    assert.notDeepEqual(otherwise, pairs);
    const prompt = (more: object) => ({ ...plain, target: { prompt: { text: 'in the', ...more } } });
    assertBadInput(
      () => read(prompt({ placeholder: 'end', padded: true })),
      /padded and a placeholder: leave one/,
    );
    assertBadInput(() => read(prompt({ placeholder: 'eos' })), /one of padding, end, random, source/);
    assertBadInput(
      () => read({ ...plain, source: { prompt: { text: 'x', placeholder: 'end' } } }),
      /source\.prompt has placeholder, which is for a target/,
    );
    const bare: Tokenizer = {
      vocabularySize: tokenizer.vocabularySize,
      bosToken: tokenizer.bosToken,
      tokenize: (text, options) => tokenizer.tokenize(text, options),
      tokenBytes: (tokenId) => tokenizer.tokenBytes(tokenId),
      isEndOfText: (tokenId) => tokenizer.isEndOfText(tokenId),
      chat: (text, options) => tokenizer.chat(text, options),
    };
    assertBadInput(
      () => makePlan(read(prompt({ placeholder: 'end' })).experiment, bare, record),
      /placeholder of the target prompt can't be end: the model has no such token/,
    );
  },
  llama,
);
