/** What is typed - layers, positions, prompts - becomes numbers. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { resolveContinuation } from '../src/continuation.js';
import type { Tokenizer } from '../src/engine.js';
import { parseLayers } from '../src/layers.js';
import type { Position, Prompt } from '../src/patchscope.js';
import { parsePosition, resolvePosition } from '../src/positions.js';
import { resolvePrompt, tokenText } from '../src/prompts.js';
import { defaultThreads, type ThreadSources } from '../src/threads.js';
import { scalar } from './fixtures/gguf.js';
import { assertRefused, open, sharedEngine, tinyModels, writeVariant } from './support.js';
import { words, wordTokenizer } from './word-tokenizer.js';

const refused = (work: () => unknown, says: RegExp) => assertRefused(work, 'bad_input', says);

// --- layers

const layerCases: [selector: string, layers: (number | 'embed')[]][] = [
  ['12', [12]],
  ['0', [0]],
  ['-1', [29]],
  ['-30', [0]],
  ['0..3', [0, 1, 2, 3]],
  ['5..5', [5]],
  ['-3..-1', [27, 28, 29]],
  ['27..-1', [27, 28, 29]],
  ['embed', ['embed']],
  ['embed,0..2,-1', ['embed', 0, 1, 2, 29]],
  ['3,1,2', [3, 1, 2]],
  ['3, 1 ,embed', [3, 1, 'embed']],
  ['1..3,2,3..4', [1, 2, 3, 4]],
  ['29,-1', [29]],
  ['all', Array.from({ length: 30 }, (_, i) => i)],
  ['embed,all', ['embed', ...Array.from({ length: 30 }, (_, i) => i)]],
];

for (const [selector, layers] of layerCases) {
  test(`of 30 layers, '${selector}' means ${layers.length > 9 ? `${layers.length} layers` : layers.join(' ')}`, () => {
    assert.deepEqual(parseLayers(selector, 30), layers);
  });
}

const badLayers: [selector: string, says: RegExp][] = [
  ['30', /Layer 30 .* 30 layers are 0 to 29 \(-1 is the last\)/],
  ['-31', /Layer -31 /],
  ['0..30', /Layer 30 /],
  ['9..3', /'9\.\.3' runs backwards: write 3\.\.9/],
  ['', /'' is not a layer/],
  ['1,,2', /'' is not a layer/],
  ['1.5', /'1\.5' is not a layer/],
  ['1...3', /'1\.\.\.3' is not a layer/],
  ['embeddings', /'embeddings' is not a layer.*range such as 0\.\.9, embed, all/],
  ['ALL', /'ALL' is not a layer/],
  ['same', /'same' is not a layer/],
  ['0x3', /'0x3' is not a layer/],
];

for (const [selector, says] of badLayers) {
  test(`of 30 layers, '${selector}' is refused`, () => refused(() => parseLayers(selector, 30), says));
}

// --- positions

const positionCases: [typed: string, position: Position][] = [
  ['0', { kind: 'index', index: 0 }],
  ['17', { kind: 'index', index: 17 }],
  ['-1', { kind: 'index', index: -1 }],
  ['CEO', { kind: 'text', text: 'CEO' }],
  ['CEO#2', { kind: 'text', text: 'CEO', occurrence: 2 }],
  ['5#1', { kind: 'text', text: '5', occurrence: 1 }],
  ['a#b', { kind: 'text', text: 'a#b' }],
  ['C##2', { kind: 'text', text: 'C#', occurrence: 2 }],
  ['#1', { kind: 'text', text: '#1' }],
  ['1.5', { kind: 'text', text: '1.5' }],
  ['two words\nand a line#3', { kind: 'text', text: 'two words\nand a line', occurrence: 3 }],
];

for (const [typed, position] of positionCases) {
  test(`the position ${JSON.stringify(typed)} is read as ${JSON.stringify(position)}`, () => {
    assert.deepEqual(parsePosition(typed), position);
  });
}

const pieces = (...texts: (string | number[])[]) =>
  texts.map((text) => new Uint8Array(Buffer.from(text as string)));
const at = (typed: string, tokens: Uint8Array[]) => resolvePosition(parsePosition(typed), tokens, 'source');

test('an index counts from the first token, or from the end where it is negative', () => {
  const tokens = pieces('a', 'b', 'c');
  assert.deepEqual(
    ['0', '2', '-1', '-3'].map((typed) => at(typed, tokens)),
    [0, 2, 2, 0],
  );
});

test('a piece of text means the token that holds its last byte', () => {
  const tokens = pieces('The', ' C', 'EO', ' of', ' Ama', 'zon.');
  assert.equal(at('CEO', tokens), 2);
  assert.equal(at('C', tokens), 1);
  assert.equal(at('Amazon', tokens), 5); // begins in one token, ends inside another
  assert.equal(at(' of', tokens), 3);
  assert.equal(at('The CEO of Amazon.', tokens), 5);
  assert.equal(at('he', tokens), 0);
});

test('the second occurrence of a text is chosen by #2, also where occurrences overlap', () => {
  const tokens = pieces('to', ' be', ' or', ' not', ' to', ' be');
  assert.equal(at('be#1', tokens), 1);
  assert.equal(at('be#2', tokens), 5);
  assert.equal(at('to be#2', tokens), 5);
  assert.equal(at('aa#2', pieces('a', 'a', 'a')), 2);
});

test('characters of several bytes may be spread over tokens', () => {
  const heart = [...Buffer.from('❤')];
  const tokens = pieces('I ', heart.slice(0, 1), heart.slice(1), ' é', 'té');
  assert.equal(at('❤', tokens), 2);
  assert.equal(at('été', tokens), 4);
  assert.equal(at('ét', tokens), 4);
  assert.equal(at('é#1', tokens), 3);
});

test('tokens without text of their own are passed over', () => {
  assert.equal(at('a', pieces('', 'a', '', 'b')), 1);
  assert.equal(at('b', pieces('', 'a', '', 'b')), 3);
});

const badPositions: [typed: string, says: RegExp][] = [
  ['6', /Position 6 is outside the source prompt, whose 6 tokens are 0 to 5 \(-1 is the last\)/],
  ['-7', /Position -7 is outside/],
  ['cat', /The text 'cat' does not occur in the source prompt "to be or not to be"/],
  ['be', /'be' occurs 2 times in the source prompt: choose one by 'be#1' to 'be#2'/],
  ['be#3', /'be' occurs 2 times in the source prompt: there is no 'be#3'/],
  ['or#2', /'or' occurs 1 time in the source prompt: there is no 'or#2'/],
  ['be#0', /there is no 'be#0'/],
  ['', /source position is an empty text/],
];

for (const [typed, says] of badPositions) {
  test(`in 'to be or not to be', the position '${typed}' is refused`, () =>
    refused(() => at(typed, pieces('to', ' be', ' or', ' not', ' to', ' be')), says));
}

// --- prompts, with the two kinds of vocabulary

const sentencePiece = async () =>
  (await sharedEngine(tinyModels.find(({ name }) => name === 'llama')!)).tokenizer;
const byteLevel = async () => (await sharedEngine(tinyModels.find(({ name }) => name === 'gpt2')!)).tokenizer;
const text = (written: string, more: object = {}): Prompt => ({ kind: 'text', text: written, ...more });
const last: Position = { kind: 'index', index: -1 };
const resolve = (prompt: Prompt, tokenizer: Tokenizer, position: Position | string = last) =>
  resolvePrompt(
    prompt,
    typeof position === 'string' ? parsePosition(position) : position,
    tokenizer,
    'target',
  );

test('a prompt begins with the BOS token where the model asks for one, unless it is told not to', async () => {
  const tokenizer = await sentencePiece();
  assert.equal(tokenizer.bosToken, 1);
  const withBos = resolve(text('the cat'), tokenizer);
  const without = resolve(text('the cat', { bos: false }), tokenizer);
  assert.deepEqual(withBos.tokenIds, [1, ...without.tokenIds]);
  assert.equal(resolve(text('the cat'), tokenizer, { kind: 'index', index: 0 }).token, '<s>');

  const other = await byteLevel();
  assert.equal(other.bosToken, undefined);
  assert.deepEqual(resolve(text('the cat'), other), resolve(text('the cat', { bos: true }), other));
});

test('what fills prompts up is the padding token of the model, or where it has none its end of text', async () => {
  assert.equal((await sentencePiece()).padToken, 2);
  const engine = await open(
    writeVariant('llama', 'padded.gguf', { 'tokenizer.ggml.padding_token_id': scalar('u32', 7) }),
  );
  assert.equal(engine.tokenizer.padToken, 7);
  await engine.close();
});

test('the BOS token has an index but is no text that one may point at', async () => {
  const tokenizer = await sentencePiece();
  await refused(
    () => resolve(text('the cat'), tokenizer, '<s>'),
    /'<s>' does not occur in the target prompt/,
  );
  const pointed = resolve(text('a s'), tokenizer, 's');
  assert.equal(pointed.tokenIndex, pointed.tokenIds.length - 1);
});

test('special tokens in a text are plain text unless they are asked for', async () => {
  for (const [tokenizer, special, id] of [
    [await sentencePiece(), '</s>', 2],
    [await byteLevel(), '<|endoftext|>', 287],
  ] as const) {
    const plain = resolve(text(`a${special}a`), tokenizer);
    assert.equal(plain.tokenIds.includes(id), false);
    const parsed = resolve(text(`a${special}a`, { special: true }), tokenizer);
    assert.equal(parsed.tokenIds.filter((tokenId) => tokenId === id).length, 1);
    assert.ok(parsed.tokenIds.length < plain.tokenIds.length, 'it is written in fewer tokens');
    assert.equal(
      resolve(text(`a${special}b`, { special: true }), tokenizer, special).tokenIds.indexOf(id) > 0,
      true,
    );
  }
});

test('raw token ids are used as they are, with no BOS put before and none hidden', async () => {
  const tokenizer = await sentencePiece();
  for (const tokenIds of [[70, 71], [1, 1, 70], [2]]) {
    const resolved = resolve({ kind: 'tokens', tokenIds }, tokenizer);
    assert.deepEqual(resolved.tokenIds, tokenIds);
    assert.equal(resolved.text, null);
    assert.equal(resolved.tokenIndex, tokenIds.length - 1);
  }
  assert.equal(resolve({ kind: 'tokens', tokenIds: [1, 70] }, tokenizer, '<s>').tokenIndex, 0);
});

test('a piece of a prompt with characters of several bytes is found by either vocabulary', async () => {
  for (const tokenizer of [await sentencePiece(), await byteLevel()]) {
    const resolved = resolve(text('in the ❤ of Zürich'), tokenizer, 'Zü');
    assert.equal(resolve(text('in the ❤ of Zürich'), tokenizer, '❤').tokenIndex < resolved.tokenIndex, true);
    const upTo = resolved.tokenIds.slice(0, resolved.tokenIndex + 1);
    const bytes = Buffer.concat(upTo.map((tokenId) => tokenizer.tokenBytes(tokenId)));
    assert.match(bytes.toString(), /Zü$/);
  }
});

test('what is resolved says the token in words, and its text as it was given', async () => {
  const tokenizer = await byteLevel();
  const resolved = resolve(text('on the cat'), tokenizer, 'the');
  assert.equal(resolved.text, 'on the cat');
  assert.equal(resolved.token, ' the');
  assert.equal(resolved.token, tokenText(resolved.tokenIds[resolved.tokenIndex]!, tokenizer));
});

const badPrompts: [what: string, prompt: Prompt, says: RegExp][] = [
  ['an empty text', text(''), /target prompt is empty: give it some text/],
  [
    'no token ids',
    { kind: 'tokens', tokenIds: [] },
    /target prompt is empty: it needs at least one token id/,
  ],
  [
    'a token id beyond the vocabulary',
    { kind: 'tokens', tokenIds: [1, 317] },
    /Token id 317 of the target prompt/,
  ],
  ['a token id below zero', { kind: 'tokens', tokenIds: [-1] }, /Token id -1 .* ids are 0 to 316/],
  ['half a token id', { kind: 'tokens', tokenIds: [0.5] }, /Token id 0\.5 /],
  ['a chat where the model has no template', text('hello', { chat: true }), /no chat template/],
  ['special tokens inside a chat', text('a </s> b', { chat: true }), /holds special tokens.*--special/],
];

for (const [what, prompt, says] of badPrompts) {
  test(`${what}: refused as a prompt`, async () => {
    const tokenizer = await sentencePiece();
    await refused(() => resolve(prompt, tokenizer), says);
  });
}

// --- continuations

const continued = (continuation: string, tokenizer: Tokenizer) =>
  resolveContinuation({ topK: 1, maxTokens: 1, stop: [], continuation }, tokenizer)!;

test('the tokens of a continuation are those that the whole text has behind its beginning', async () => {
  for (const tokenizer of [await sentencePiece(), await byteLevel()]) {
    for (const [beginning, rest] of [
      ['the cat', ' and the dog'],
      ['in the', ' ❤ of  Zürich'],
      ['on a mat', '\nof the sea'],
      ['on a mat', ' '],
      ['on a mat', '!</s>'],
    ] as const) {
      const own = { bos: true, special: false };
      const whole = tokenizer.tokenize(beginning + rest, own);
      const tokenIds = continued(rest, tokenizer).map(({ tokenId }) => tokenId);
      assert.deepEqual([...tokenizer.tokenize(beginning, own), ...tokenIds], whole, rest);
    }
    for (const { tokenId, token } of continued(' the cat', tokenizer)) {
      assert.equal(token, tokenText(tokenId, tokenizer));
    }
  }
});

test('a continuation never gets a blank that it does not have', async () => {
  for (const tokenizer of [await sentencePiece(), await byteLevel()]) {
    for (const written of ['is', 'the', '.', '  the', '-> x']) {
      const tokens = continued(written, tokenizer).map(({ tokenId }) => tokenizer.tokenBytes(tokenId));
      assert.equal(Buffer.concat(tokens).toString(), written);
    }
  }
  // one word to a token, each with a blank before it
  const blanks: Tokenizer = {
    ...wordTokenizer(),
    tokenize: (written) =>
      written
        .trim()
        .split(/\s+/)
        .map((word) => words.indexOf(word)),
    tokenBytes: (tokenId) => Buffer.from(` ${words[tokenId]}`),
  };
  assert.deepEqual(
    continued(' a b', blanks).map(({ token }) => token),
    [' a', ' b'],
  );
  await refused(
    () => continued('a b', blanks),
    /puts a blank before "a b": begin the continuation with a blank/,
  );
});

// --- prompts in a template

test("a chat is wrapped in the model's template, with one BOS whoever writes it", () => {
  for (const chatBos of [false, true]) {
    assert.deepEqual(
      resolve(text('a b', { chat: true }), wordTokenizer(chatBos)).tokenIds,
      [0, 1, 2, 5, 3, 1],
    );
  }
  const without = resolve(text('a b', { chat: true, bos: false }), wordTokenizer());
  assert.deepEqual(without.tokenIds, [1, 2, 5, 3, 1]);
});

test('a chat may hold special tokens where they are meant', async () => {
  const written = text('a<turn>b', { chat: true });
  await refused(() => resolve(written, wordTokenizer()), /special tokens/);
  const meant = resolve({ ...written, special: true } as Prompt, wordTokenizer());
  assert.deepEqual(meant.tokenIds, [0, 1, 2, 1, 3, 1]);
});

// --- threads

/** A machine described by its files; `cores` lists the hyper-threads of each. */
function machine(cores: string[], affinity: number, files: Record<string, string> = {}): ThreadSources {
  const cpus = cores.flatMap((siblings) =>
    siblings.split(',').map((cpu): [string, string] => [cpu, siblings]),
  );
  const all: Record<string, string> = { ...files };
  for (const [cpu, siblings] of cpus) {
    all[`/sys/devices/system/cpu/cpu${cpu}/topology/thread_siblings_list`] = `${siblings}\n`;
  }
  return {
    affinity: () => affinity,
    read: (file) => all[file] ?? null,
    list: (from) =>
      from.endsWith('/cpu') ? [...cpus.map(([cpu]) => `cpu${cpu}`), 'cpufreq', 'cpuidle'] : [],
  };
}

const four = ['0', '1', '2', '3'];
const threadCases: [what: string, sources: ThreadSources, threads: number][] = [
  ['physical cores, where nothing else bounds', machine(four, 4), 4],
  ['one for the hyper-threads of a core', machine(['0,4', '1,5', '2,6', '3,7'], 8), 4],
  ['the CPUs the process may run on', machine(four, 2), 2],
  ["the container's quota", machine(four, 4, { '/sys/fs/cgroup/cpu.max': '300000 100000\n' }), 3],
  ['a quota rounded up', machine(four, 4, { '/sys/fs/cgroup/cpu.max': '150000 100000\n' }), 2],
  [
    'one where the quota is a part of a core',
    machine(four, 4, { '/sys/fs/cgroup/cpu.max': '20000 100000\n' }),
    1,
  ],
  ['all cores where the quota is `max`', machine(four, 4, { '/sys/fs/cgroup/cpu.max': 'max 100000\n' }), 4],
  [
    "the least quota of the process's own group and those above it",
    machine(four, 4, {
      '/proc/self/cgroup': '0::/user/job/step\n',
      '/sys/fs/cgroup/user/job/step/cpu.max': 'max 100000\n',
      '/sys/fs/cgroup/user/job/cpu.max': '200000 100000\n',
      '/sys/fs/cgroup/user/cpu.max': '300000 100000\n',
    }),
    2,
  ],
  [
    'the quota of control groups of version 1',
    machine(four, 4, {
      '/proc/self/cgroup': '5:cpu,cpuacct:/docker/1\n0::/\n',
      '/sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us': '100000\n',
      '/sys/fs/cgroup/cpu/docker/1/cpu.cfs_period_us': '100000\n',
    }),
    1,
  ],
  [
    'no quota of version 1 where it is -1',
    machine(four, 4, {
      '/sys/fs/cgroup/cpu/cpu.cfs_quota_us': '-1\n',
      '/sys/fs/cgroup/cpu/cpu.cfs_period_us': '100000\n',
    }),
    4,
  ],
  ['affinity where there are no such files', machine([], 6), 6],
  ['one where affinity says none', machine([], 0), 1],
];

for (const [what, sources, threads] of threadCases) {
  test(`threads by default: ${what}`, () => assert.equal(defaultThreads(sources), threads));
}

test('threads by default on this machine: at least one, and no more than it lends', () => {
  const threads = defaultThreads();
  assert.ok(Number.isInteger(threads) && threads >= 1, String(threads));
});
