/** Laws of a plan: what it holds follows from the experiment alone, each cell once, each source in one block. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { controls, type Experiment, type Prompt, type Sample } from '../src/patchscope.js';
import type { ModelShape } from '../src/plan/pairs.js';
import {
  blockRange,
  type Cell,
  cellAt,
  chunkCount,
  chunkRange,
  makePlan,
  type Plan,
} from '../src/plan/plan.js';
import { summarize, tokensOf } from '../src/plan/summary.js';
import { parsePosition } from '../src/positions.js';
import { assertRefused, promptOf } from './support.js';
import { wordTokenizer } from './word-tokenizer.js';

const refused = (work: () => unknown, says: RegExp) => assertRefused(work, 'bad_input', says);
const text = (written: string): Prompt => ({ kind: 'text', text: written });
const at = (prompt: string, position = '-1') => ({ prompt: text(prompt), position: parsePosition(position) });

const span = (index: number) => ({ kind: 'range', first: index, last: index }) as const;

const experiment = (more: Partial<Experiment> = {}): Experiment => ({
  name: 'test',
  samples: ['a b', 'b c'].map((source, i) => ({
    name: `sample ${i}`,
    source: at(source),
    target: at('a b a', 'b'),
  })),
  sourceLayers: 'embed,0,1',
  targetLayers: '2,0',
  mapping: { kind: 'identity' },
  reading: { topK: 5, maxTokens: 1, stop: [] },
  seed: 0,
  ...more,
});

const shape: ModelShape = {
  layerCount: 3,
  sha256: 'model',
  embeddingSize: 4,
  promptTokens: 10,
  batchRows: 128,
  noStreams: null,
};
const plan = (more: Partial<Experiment> = {}, size: Partial<ModelShape> = {}) =>
  makePlan(experiment(more), wordTokenizer(), { ...shape, ...size });
const cellsOf = (made: Plan): Cell[] => Array.from({ length: made.cellCount }, (_, i) => cellAt(made, i));
const inWords = (made: Plan) =>
  cellsOf(made).map(({ pair, source, target }) => `${pair.sample}: ${source.layer}>${target.layer}`);

/** Samples whose sources are all different, of some targets. */
function manySamples(count: number, targets: number): Sample[] {
  return Array.from({ length: count }, (_, i) => ({
    name: `sample ${i}`,
    source: at([...i.toString(3)].map((digit) => 'abc'[Number(digit)]).join('')),
    target: at(['a b a', 'c b a', 'b', 'a b'][i % targets]!, 'b'),
  }));
}

const large = (more: Partial<Experiment> = {}) =>
  plan(
    {
      samples: manySamples(1500, 4),
      sourceLayers: 'all',
      targetLayers: 'all',
      variants: [{ name: 'one' }, { name: 'two', targetLayers: 'same' }],
      controls: { random: 2, shuffled: 1, unpatched: true },
      ...more,
    },
    { promptTokens: 40 },
  );

test('cells are all pairs of layers, and those that write at one layer are neighbours', () => {
  assert.deepEqual(inWords(plan()), [
    ...['0: embed>2', '0: 0>2', '0: 1>2', '1: embed>2', '1: 0>2', '1: 1>2'],
    ...['0: embed>0', '0: 0>0', '0: 1>0', '1: embed>0', '1: 0>0', '1: 1>0'],
  ]);
  assert.equal(plan({ sourceLayers: 'all', targetLayers: 'all' }).cellCount, 2 * 3 * 3);
});

test('target layers may be told by the source layer', () => {
  const layers = (targetLayers: string, sourceLayers = 'embed,all') =>
    inWords(plan({ samples: [experiment().samples[0]!], sourceLayers, targetLayers })).map((cell) =>
      cell.slice(3),
    );
  assert.deepEqual(layers('same'), ['embed>embed', '0>0', '1>1', '2>2']);
  assert.deepEqual(layers('below'), ['0>embed', '1>embed', '2>embed', '1>0', '2>0', '2>1']);
  assert.deepEqual(layers('above'), ['embed>0', 'embed>1', '0>1', 'embed>2', '0>2', '1>2']);
  assert.deepEqual(
    [...layers('same'), ...layers('below'), ...layers('above')].sort(),
    layers('embed,all').sort(),
  );
});

test('no layer below the embedding: refused', () =>
  refused(
    () => plan({ sourceLayers: 'embed', targetLayers: 'below' }),
    /lies below any of the source layers/,
  ));

test('a plan holds the token ids and indexes of its prompts, and the experiment it was made of', () => {
  const made = plan();
  assert.deepEqual(made.experiment, experiment());
  assert.deepEqual(
    made.pairs.map(({ sample, variant, source }) => {
      const { tokenIds, tokenIndex } = promptOf(source);
      return [sample, variant, tokenIds, tokenIndex];
    }),
    [
      [0, 'default', [0, 2, 5, 3], 3],
      [1, 'default', [0, 3, 5, 4], 3],
    ],
  );
  assert.deepEqual(made.pairs[0]!.target, {
    text: 'a b a',
    reading: { bos: true, chat: false, special: false },
    tokenIds: [0, 2, 5, 3, 5, 2],
    tokenIndex: 3,
    token: 'b',
  });
});

test('the same experiment gives the same plan, and another one another hash', () => {
  assert.deepEqual(large(), large());
  assert.notEqual(plan().sha256, plan({ seed: 1 }).sha256);
  assert.notEqual(plan().sha256, plan({ sourceLayers: '0,1' }).sha256);
});

test('each cell is there once: every sample, variant, pair of layers, control and draw', () => {
  const made = large();
  const keys = cellsOf(made).map(({ pair, source, target, control, draw }) =>
    [pair.sample, pair.variant, source.layer, target.layer, control, draw].join(' '),
  );
  assert.equal(new Set(keys).size, keys.length);
  const grid = 3 * 3 + 3; // of the two variants
  const expected = { none: grid, random: 2 * grid, shuffled: grid, unpatched: 2 };
  for (const control of controls) {
    const count = cellsOf(made).filter((cell) => cell.control === control).length;
    assert.equal(count, 1500 * expected[control], control);
  }
});

test('chunks and blocks follow one another without gap, and a source is captured in one block alone', () => {
  const made = large();
  let next = 0;
  const blockOfSource = new Map<unknown, number>();
  assert.ok(made.blockStarts.length > 10 && chunkCount(made) > made.blockStarts.length);
  for (let chunk = 0; chunk < chunkCount(made); chunk++) {
    const [begin, end] = chunkRange(made, chunk);
    const [block, blockEnd] = blockRange(made, chunk);
    assert.equal(begin, next);
    assert.ok(end > begin && end - begin <= 1024 && block <= begin && end <= blockEnd);
    next = end;
    for (let i = begin; i < end; i++) {
      const { source } = cellAt(made, i).sourcePair;
      assert.equal(blockOfSource.get(source) ?? block, block);
      blockOfSource.set(source, block);
    }
  }
  assert.equal(next, made.cellCount);
});

test('in a block each target prompt, and in it each target layer, is one stretch of cells', () => {
  const made = large();
  for (let chunk = 0; chunk < chunkCount(made); chunk++) {
    const [begin, end] = blockRange(made, chunk);
    const stretches: string[] = [];
    for (let i = begin; i < end; i++) {
      const { pair, target } = cellAt(made, i);
      const key = `${pair.target.text} ${target.layer}`;
      if (stretches.at(-1) !== key) stretches.push(key);
    }
    assert.equal(new Set(stretches).size, stretches.length);
    const prompts = stretches.map((key) => key.slice(0, key.lastIndexOf(' ')));
    assert.ok(prompts.filter((prompt, i) => prompt !== prompts[i - 1]).length <= 4);
  }
});

test('a shuffled state is that of another source, the same for all layers of a sample', () => {
  const partners = new Map<number, unknown>();
  for (const { pair, sourcePair, control } of cellsOf(large())) {
    if (control !== 'shuffled') {
      assert.equal(sourcePair, pair);
      continue;
    }
    assert.notEqual(sourcePair.source, pair.source);
    assert.equal(partners.get(pair.sample) ?? sourcePair.source, sourcePair.source);
    partners.set(pair.sample, sourcePair.source);
  }
  assert.equal(partners.size, 1500);
});

test('samples of the same source share a block, however far apart they stand', () => {
  const same = { ...manySamples(1, 1)[0]!, name: 'again' };
  const made = plan(
    { samples: [...manySamples(1500, 1), same], sourceLayers: 'all', targetLayers: 'all' },
    { promptTokens: 40 },
  );
  assert.equal(made.pairs[0]!.source, made.pairs[1500]!.source);
});

test('states of a block take bounded memory', () => {
  const wide = plan(
    { samples: manySamples(300, 1), sourceLayers: 'all', targetLayers: 'same' },
    { promptTokens: 40, embeddingSize: 2 ** 20 },
  );
  const { stateBytes } = summarize(wide, { batchRows: 128, batchTokens: 512 }, 2 ** 20);
  assert.ok(stateBytes <= 64 * 2 ** 20, `${stateBytes}`);
  assert.ok(wide.blockStarts.length > 50);
});

test('rows that grow long beside many others get streams of their own, where the model can have them', () => {
  const long = {
    samples: manySamples(60, 1),
    sourceLayers: 'all',
    targetLayers: 'all',
    reading: { topK: 1, maxTokens: 20, stop: [] },
  };
  const layout = (more: Partial<Experiment>, size: Partial<ModelShape>) =>
    plan({ ...long, ...more }, { promptTokens: 60, ...size }).cacheLayout;
  assert.equal(layout({}, {}), 'streams');
  assert.equal(layout({}, { noStreams: 'its state is recurrent' }), 'unified');
  assert.equal(layout({}, { batchRows: 4 }), 'unified');
  assert.equal(layout({ samples: manySamples(1, 1), sourceLayers: '0', targetLayers: '0' }, {}), 'unified');
});

test('a cut that ends the sharing of a prefix counts where the layout is chosen', () => {
  const layout = (from: number) => {
    const target = { ...at('ab'.repeat(60)), cuts: [{ from: [span(from)], to: [span(0)], layers: 'all' }] };
    const samples = manySamples(60, 1).map((sample) => ({ ...sample, target }));
    return plan({ samples, sourceLayers: 'all', targetLayers: 'all' }, { promptTokens: 200 }).cacheLayout;
  };
  assert.equal(layout(120), 'unified', 'the last token alone is of each row');
  assert.equal(layout(2), 'streams', 'nearly all tokens are of each row');
});

test('variants change settings, and their own prompts where a sample has some', () => {
  const made = plan({
    variants: [
      { name: 'plain' },
      { name: 'added', patch: { op: 'add', alpha: 2 }, targetLayers: 'same' },
      { name: 'elsewhere', sourceSite: 'mlp_out', sourceLayers: '1' },
    ],
    samples: [{ ...experiment().samples[0]!, variants: { elsewhere: { target: at('c') } } }],
  });
  const of = (name: string) => cellsOf(made).filter(({ pair }) => pair.variant === name);
  assert.deepEqual(of('plain')[0]!.pair.patch, { op: 'replace', alpha: 1, atGenerated: false });
  assert.deepEqual(of('added')[0]!.pair.patch, { op: 'add', alpha: 2, atGenerated: false });
  assert.equal(of('added').length, 3);
  assert.deepEqual(
    of('elsewhere').map(({ source, pair }) => [source.site, source.layer, pair.target.text]),
    [
      ['mlp_out', 1, 'c'],
      ['mlp_out', 1, 'c'],
    ],
  );
});

test('a drawn position is any token but BOS, the same for all variants of a sample; a target may end there', () => {
  const drawn = { prompt: text('a b c'), position: { kind: 'random' } } as const;
  const samples = Array.from({ length: 200 }, (_, i) => ({
    name: String(i),
    source: drawn,
    target: { ...at('a b a'), prompt: { kind: 'source' } as const },
  }));
  const made = plan({ samples, variants: [{ name: 'one' }, { name: 'two' }] });
  const seen = new Set<number>();
  for (const { sample, source: of, target } of made.pairs) {
    const source = promptOf(of);
    assert.equal(source, made.pairs[2 * sample]!.source);
    assert.deepEqual(target.tokenIds, source.tokenIds.slice(0, source.tokenIndex + 1));
    assert.equal(target.tokenIndex, source.tokenIndex);
    seen.add(source.tokenIndex);
  }
  assert.deepEqual([...seen].sort(), [1, 2, 3, 4, 5]);
  const indexes = (seed: number) =>
    plan({ samples, seed }).pairs.map(({ source }) => promptOf(source).tokenIndex);
  assert.deepEqual(indexes(0), indexes(0));
  assert.notDeepEqual(indexes(0), indexes(1));
});

test('a padded target has its position where that of the source is, behind BOS', async () => {
  const padded = (of: string): Prompt => ({ kind: 'text', text: of, padded: true });
  const tokenizer = { ...wordTokenizer(), padToken: 1 };
  const of = (target: Sample['target'], source = at('a b c', '-1'), words = tokenizer) =>
    makePlan(experiment({ samples: [{ name: 's', source, target }] }), words, shape).pairs[0]!.target;
  const one = of({ ...at('b'), prompt: padded('b') });
  assert.deepEqual([one.tokenIds, one.tokenIndex, one.token, one.text], [[0, 1, 1, 1, 1, 3], 5, 'b', null]);
  assert.deepEqual(of({ ...at('c', '1'), prompt: padded('c a') }, at('a', '1')).tokenIds, [0, 4, 5, 2]);
  const bare: Prompt = { kind: 'text', text: 'b', bos: false, padded: true };
  assert.deepEqual(of({ prompt: bare, position: parsePosition('0') }, at('a', '1')).tokenIds, [1, 3]);
  await refused(
    () => of({ ...at('b c'), prompt: padded('b c') }, at('a', '1')),
    /can't be padded: its position is 3 without padding, and that of the source is 1: shorten it/,
  );
  await refused(
    () => of({ ...at('b'), prompt: padded('b') }, at('a', '1'), wordTokenizer() as typeof tokenizer),
    /can't be padded: this model has neither a padding token nor/,
  );
  await refused(() => of(at('b'), { ...at('a'), prompt: padded('a') }), /The source prompt can't be padded/);
});

test('tracked texts mean their first token, answers theirs with a blank or without', () => {
  const samples = [{ ...experiment().samples[0]!, answer: ['b c'] }];
  const made = plan({
    samples,
    reading: { topK: 1, maxTokens: 1, stop: [], tracked: ['c a', 4, 0], trackAnswer: true },
  });
  assert.deepEqual(made.trackedTokens, [4, 0]);
  assert.deepEqual(made.pairs[0]!.trackedTokens, [3], 'not the blank');
});

test('a prompt and its continuation must fit the context', async () => {
  const reading = (maxTokens: number) => ({ reading: { topK: 1, maxTokens, stop: [] } });
  assert.equal(plan(reading(5)).cellCount, 12); // 6 tokens, and 4 that are decoded after them
  await refused(() => plan(reading(6)), /target prompt needs 11 tokens where the context holds 10/);
  await refused(() => plan({}, { promptTokens: 3 }), /source prompt needs 4 tokens/);
});

test('a plan holds the tokens of a continuation, which must fit the context too', async () => {
  const reading = (continuation: string) => ({
    reading: { topK: 1, maxTokens: 100, stop: [], continuation },
  });
  assert.equal(plan().continuation, undefined);
  const { continuation, experiment: own } = plan(reading(' c a'));
  assert.deepEqual(continuation, [
    { tokenId: 5, token: ' ' },
    { tokenId: 4, token: 'c' },
    { tokenId: 5, token: ' ' },
    { tokenId: 2, token: 'a' },
  ]);
  assert.equal(own.reading.continuation, ' c a');
  assert.equal(plan(reading('abcab')).continuation!.length, 5);
  await refused(() => plan(reading('abcabc')), /target prompt needs 11 tokens where the context holds 10/);
});

test('a summary counts what an engine would do', () => {
  const made = plan({ reading: { topK: 1, maxTokens: 3, stop: [] } });
  const bounds = { batchRows: 4, batchTokens: 12 };
  assert.deepEqual(summarize(made, bounds, 4), {
    cells: 12,
    repeatedCells: 0,
    chunks: 1,
    sources: 2,
    targets: 1,
    batches: 3 * 3, // 4 rows of 3 tokens, three times; each then reads 2 tokens on
    sourceTokens: 8,
    targetTokens: 3 + 12 * 5,
    stateBytes: 2 * 3 * 16,
    cacheTokens: 3 + 4 * 5,
  });
  const all = Array.from({ length: 12 }, (_, i) => i);
  assert.equal(tokensOf(made, all), 8 + 3 + 12 * 5);
});

const one = experiment().samples[0]!;
const given = { topK: 1, maxTokens: 1, stop: [], continuation: 'a' };
const badPlans: [what: string, more: Partial<Experiment>, says: RegExp][] = [
  ['a source layer beyond the model', { sourceLayers: '3' }, /Layer 3 /],
  ['a target layer beyond the model', { targetLayers: '0..3' }, /Layer 3 /],
  ['a continuation without text', { reading: { ...given, continuation: '' } }, /continuation is empty/],
  [
    'a continuation and drawn tokens',
    { reading: { ...given, sampling: { temperature: 1 } } },
    /scored to its end: leave out/,
  ],
  ['a continuation and a stop', { reading: { ...given, stop: ['b'] } }, /scored to its end: leave out/],
  ['`same` as a source', { sourceLayers: 'same' }, /'same' is not a layer/],
  ['a list with `same` as a target', { targetLayers: 'same,1' }, /'same' is not a layer/],
  [
    'a position that is not in the source',
    { samples: [{ ...one, source: at('a', 'c') }] },
    /'c' does not occur in the source prompt "a"/,
  ],
  ['no samples', { samples: [] }, /no samples/],
  ['no variants', { variants: [] }, /list of variants is empty/],
  ['two variants of one name', { variants: [{ name: 'x' }, { name: 'x' }] }, /Two variants are named 'x'/],
  [
    'prompts for a variant that is not there',
    { samples: [{ ...one, variants: { other: { source: at('a') } } }] },
    /'sample 0' has prompts for the variant 'other'/,
  ],
  [
    'answers to be scored where there are none',
    { reading: { topK: 1, maxTokens: 1, stop: [], trackAnswer: true } },
    /'sample 0' has no answer/,
  ],
  [
    'a tracked token outside the vocabulary',
    { reading: { topK: 1, maxTokens: 1, stop: [], tracked: [6] } },
    /tracked token 6 is outside the vocabulary, whose ids are 0 to 5/,
  ],
  [
    'shuffled states of one source',
    { samples: [one], controls: { shuffled: 1 } },
    /all samples have the same/,
  ],
];

for (const [what, more, says] of badPlans) {
  test(`a plan with ${what} is refused`, () => refused(() => plan(more), says));
}
