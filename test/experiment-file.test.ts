/** Experiment files: what they say, what they are read as, and how each mistake is told. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { test } from 'node:test';
import { parse, stringify } from 'yaml';
import { builtInNames, type ReadOptions, readExperiment } from '../src/experiment-file/read-experiment.js';
import { jsonSchema } from '../src/experiment-file/schema.js';
import type { Prompt, PromptAt, Sample } from '../src/patchscope.js';
import { identityOf } from '../src/plan/sources.js';
import { folder } from './fixtures/disk.js';
import { experimentFiles } from './fuzz/experiments.js';
import { Random } from './fuzz/random.js';
import { assertBadInput } from './support.js';

const home = mkdtempSync(join(folder(), 'experiments-'));

function write(name: string, content: string | Uint8Array): string {
  writeFileSync(join(home, name), content);
  return join(home, name);
}

const read = (content: string | Uint8Array, options?: ReadOptions) =>
  readExperiment(write('e.yaml', content), options);
const experimentOf = (content: string, options?: ReadOptions) => read(content, options).experiment;

const text = (of: string, more = {}): Prompt => ({ kind: 'text', text: of, ...more });
const at = (prompt: Prompt, index = -1) => ({ prompt, position: { kind: 'index' as const, index } });

const small = `name: small
samples:
  - { prompt: hello world, ids: [1, 70], year: 1.50 }
  - { prompt: hello there, ids: [3], year: "7" }
source: { prompt: "{prompt}" }
target:
  prompt: x y
`;

test('what is left out has defaults', () => {
  assert.deepEqual(experimentOf(small), {
    name: 'small',
    samples: [
      { name: 'hello world', source: at(text('hello world')), target: at(text('x y')) },
      { name: 'hello there', source: at(text('hello there')), target: at(text('x y')) },
    ],
    sourceLayers: 'all',
    targetLayers: 'same',
    mapping: { kind: 'identity' },
    reading: { topK: 5, maxTokens: 1, stop: [] },
    seed: 0,
  });
});

const full = `name: full
about: Everything?
model: { source: ./a.gguf, target: hf:some/model/b.gguf }
samples:
  - { who: paul, is: [painter, artist], ids: [1, 70] }
sample: "{{{who}}}"
group: is {who}
answer: ["{is}", "{who}"]
source: { prompt: "I saw {who}", position: "{who}", layers: [embed, 0..2, -1], site: mlp_out, side: encoder }
target:
  prompt: { text: "the job of x is", bos: false, chat: true, special: true }
  position: x#1
  layers: below
  site: resid_mid
  side: decoder
edit: { op: add, alpha: 0.5, at-generated: true }
mapping: identity
variants:
  - name: default
  - { name: ids, source: { prompt: { tokens: "{ids}" }, position: 1, layers: 3 }, edit: { alpha: 2 } }
  - { name: plain, target: { prompt: { chat: false }, layers: [0, 1], site: resid_out } }
  - { name: other, answer: ["{who}", "{is}"] }
reading:
  { top: 3, tokens: 9, track: [" yes", 12, 12], track-answer: true, stop: [newline, answer, { text: ; }],
    temperature: 0.7, top-k: 40, top-p: 0.9 }
metrics: [answer-found, answer-rank, answer-rank]
controls: { random: 2, shuffled: 1, unpatched: true }
seed: 7
`;

test('every key says what it says, in YAML and in JSON', () => {
  const source = { ...at(text('I saw paul')), position: { kind: 'text', text: 'paul' } };
  const position = { kind: 'text', text: 'x', occurrence: 1 };
  const target = { prompt: text('the job of x is', { bos: false, chat: true, special: true }), position };
  const expected = {
    name: 'full',
    samples: [
      {
        name: '{paul}',
        group: 'is paul',
        answer: ['painter', 'artist', 'paul'],
        source,
        target,
        variants: {
          ids: { source: at({ kind: 'tokens', tokenIds: [1, 70] }, 1) },
          plain: { target: { ...target, prompt: { ...target.prompt, chat: false } } },
          other: { answer: ['paul', 'painter', 'artist'] },
        },
      },
    ],
    sourceLayers: 'embed,0..2,-1',
    sourceSite: 'mlp_out',
    sourceSide: 'encoder',
    targetLayers: 'below',
    targetSite: 'resid_mid',
    targetSide: 'decoder',
    mapping: { kind: 'identity' },
    patch: { op: 'add', alpha: 0.5, atGenerated: true },
    variants: [
      { name: 'default' },
      { name: 'ids', sourceLayers: '3', patch: { op: 'add', alpha: 2, atGenerated: true } },
      { name: 'plain', targetLayers: '0,1', targetSite: 'resid_out' },
      { name: 'other' },
    ],
    reading: {
      topK: 3,
      maxTokens: 9,
      stop: ['\n', ';'],
      stopAtAnswer: true,
      tracked: [' yes', 12],
      trackAnswer: true,
      sampling: { temperature: 0.7, topK: 40, topP: 0.9 },
    },
    metrics: ['answer-found', 'answer-rank'],
    controls: { random: 2, shuffled: 1, unpatched: true },
    seed: 7,
  };
  for (const content of [full, JSON.stringify(parse(full), null, '\t'), stringify(parse(full))]) {
    const { experiment, file, ...rest } = read(content);
    assert.deepEqual(experiment, expected);
    assert.deepEqual(experimentOf(JSON.stringify(file)), expected);
    assert.deepEqual(rest, {
      about: 'Everything?',
      models: { source: join(home, 'a.gguf'), target: 'hf:some/model/b.gguf' },
      text: content,
    });
  }
});

test('a metric of the answer’s token has that token scored', () => {
  for (const metric of ['answer-rank', 'answer-logprob', 'answer-first-token']) {
    const { reading } = experimentOf(`${small}answer: x\nmetrics: [${metric}]\n`);
    assert.equal(reading.trackAnswer, true);
  }
  assert.equal(experimentOf(`${small}answer: x\nmetrics: [answer-found]\n`).reading.trackAnswer, undefined);
  // these compare with what the model says by itself
  assert.deepEqual(experimentOf(`${small}metrics: [precision-at-1, surprisal]\n`).metrics, [
    'precision-at-1',
    'surprisal',
  ]);
});

test('numbers go into texts as they are written, and double braces are braces', () => {
  const { samples } = experimentOf(small.replace('x y', '"{{}} in {year}"'));
  assert.deepEqual(
    samples.map(({ target }) => target),
    [at(text('{} in 1.50')), at(text('{} in 7'))],
  );
});

test('a position may be drawn, and a target may be the source itself', () => {
  const { samples } = experimentOf(`name: own
samples: [{ who: paul }]
source: { prompt: "i saw {who}", position: { random: true } }
target: { prompt: { same: source } }
`);
  assert.deepEqual(samples[0]!.source, { prompt: text('i saw paul'), position: { kind: 'random' } });
  assert.deepEqual(samples[0]!.target, at({ kind: 'source' }));
  assertBadInput(
    () =>
      experimentOf(
        'name: own\nsamples: [{ a: b }]\nsource: { prompt: { same: source } }\ntarget: { prompt: x }\n',
      ),
    /source.prompt has same: source, which is for a target/,
  );
});

test('several positions, a window and draws are read as they are written', () => {
  const asked = experimentOf(`
name: many
draws: 3
samples: [{ who: paul }]
source: { prompt: "i saw {who}", position: { each: [all, "{who}", 1..-1] } }
target: { prompt: "of x and x", position: [same, "x#2", -1], window: onward }
variants:
  - { name: two, source: { position: [0, "{who}"] }, target: { position: same, window: 4 }, draws: 1 }
`);
  const [{ source, target, variants }] = asked.samples as [Sample & { source: PromptAt }];
  const paul = { kind: 'text', text: 'paul' };
  const range = { kind: 'range', first: 1, last: -1 };
  assert.deepEqual(source.position, { kind: 'each', spans: [{ kind: 'all' }, paul, range] });
  assert.deepEqual(
    [target.position, target.further],
    [
      { kind: 'same' },
      [
        { kind: 'text', text: 'x', occurrence: 2 },
        { kind: 'index', index: -1 },
      ],
    ],
  );
  assert.deepEqual([asked.window, asked.draws], ['onward', 3]);
  assert.deepEqual(variants!.two!.source, {
    prompt: text('i saw paul'),
    position: { kind: 'index', index: 0 },
    further: [paul],
  });
  assert.deepEqual(variants!.two!.target!.position, { kind: 'same' });
  assert.deepEqual(asked.variants, [{ name: 'two', window: 4, draws: 1 }]);
});

test('a position filled from a field is read as one that is typed', () => {
  const { samples } = experimentOf(`${small}  position: "{year}"\n`.replace('1.50', 'y#2'));
  assert.deepEqual(
    samples.map(({ target }) => target.position),
    [
      { kind: 'text', text: 'y', occurrence: 2 },
      { kind: 'index', index: 7 },
    ],
  );
});

test('samples from a file of their own are as those in the experiment', () => {
  const inline = `name: a
samples: [{ name: "paul\\nquill", job: 'a "cook", mostly', ids: "1 70" }, { name: vera, job: " judge", ids: "2,3" }]
sample: "{name}"
answer: "{job}"
source: { prompt: { tokens: "{ids}" } }
target: { prompt: "{name}: {job}" }
`;
  const expected = experimentOf(inline);
  const csv = 'name,job,ids\r\n"paul\nquill","a ""cook"", mostly",1 70\r\nvera, judge,"2,3"\r\n';
  const jsonl = [
    { name: 'paul\nquill', job: 'a "cook", mostly', ids: [1, 70], more: { a: 1 }, none: null },
    { name: 'vera', job: ' judge', ids: '2, 3' },
  ].map((row) => `${JSON.stringify(row)}\n`);
  const files: Readonly<Record<string, string>> = {
    's.csv': csv,
    'bom.csv': `\ufeff${csv}`,
    's.jsonl': jsonl.join('\n'),
    's.tsv': 'name\tjob\tids\n"paul\nquill"\t"a ""cook"", mostly"\t1 70\nvera\t judge\t2,3',
    's.txt': csv,
  };
  for (const [name, content] of Object.entries(files)) {
    write(name, content);
    const format = name === 's.txt' ? ', format: csv' : '';
    const samples = `samples: { file: ${name}${format} }`;
    assert.deepEqual(experimentOf(inline.replace(/samples:.*/, samples)), expected, name);
  }
  write('other.csv', 'person;job;ids\n"paul\nquill";"a ""cook"", mostly";1 70\nvera; judge;2,3\nx;y;4\n');
  const samples = 'samples: { file: other.csv, delimiter: ;, columns: { name: person }, limit: 2 }';
  assert.deepEqual(experimentOf(inline.replace(/samples:.*/, samples)), expected);
  write('bare.tsv', 'name\tjob\tids\n"paul" quill\tcook "a"\t1\n');
  const [bare] = experimentOf(
    inline.replace(/samples:.*/, 'samples: { file: bare.tsv, quotes: false }'),
  ).samples;
  assert.deepEqual([bare!.name, bare!.answer], ['"paul" quill', ['cook "a"']]);
});

test('a limit takes the first samples, and what lies behind them is not looked at', () => {
  assert.deepEqual(experimentOf(small, { limit: 1 }).samples, experimentOf(small).samples.slice(0, 1));
  write('long.jsonl', '{"prompt": "a"}\n{"prompt": "b"}\nno JSON\n');
  const content = small.replace(/samples:[\s\S]*?source/, 'samples: { file: long.jsonl }\nsource');
  assert.equal(experimentOf(content, { limit: 2 }).samples.length, 2);
  assertBadInput(() => read(content), /long\.jsonl:3: this line is not JSON/);
  assertBadInput(() => read(small, { limit: 0 }), /^The limit is 0 where a whole number of at least 1/);
});

test('samples may begin further behind, and a limit counts from there', () => {
  const ofSentences = (samples: string) =>
    experimentOf(
      `name: s\nsamples: ${samples}\nsource: { prompt: "{text}" }\ntarget: { prompt: x }\n`,
    ).samples.map(({ name }) => name);
  const all = ofSentences('{ data: sentences }');
  assert.deepEqual(ofSentences('{ data: sentences, from: 101 }'), all.slice(100));
  assert.deepEqual(ofSentences('{ data: sentences, from: 5, limit: 3 }'), all.slice(4, 7));
  write('few.jsonl', '{"text": "a"}\n{"text": "b"}\n{"text": "c"}\nno JSON\n');
  assert.deepEqual(ofSentences('{ file: few.jsonl, from: 2, limit: 2 }'), ['b', 'c']);
  // or single ones are named, and what is behind the last of them is not read
  assert.deepEqual(ofSentences('{ data: sentences, only: [7, 300, 7, 2] }'), [all[6], all[299], all[1]]);
  assert.deepEqual(ofSentences('{ file: few.jsonl, only: [3, 1] }'), ['c', 'a']);
});

test('a mapping that the run fits says to what, and follows the source prompt of its variant', () => {
  const content = small.replace(/samples:[\s\S]*?source/, 'samples: [{ prompt: a }]\nsource');
  const { mapping, variants } = experimentOf(`${content}mapping:
  { kind: linear, ridge: 0.5, positions: all, target-site: final_norm, held-out: 0, samples: [{ prompt: b }] }
variants:
  - name: same
  - { name: other, source: { prompt: "so {prompt}" } }
  - { name: own, mapping: { samples: [{ prompt: c }] } }
  - { name: none, mapping: identity }
`);
  const fit = { kind: 'linear', ridge: 0.5, positions: 'all', targetSite: 'final_norm', heldOut: 0 };
  assert.deepEqual(mapping, { kind: 'unfitted', fit, prompts: [at(text('b'))] });
  assert.deepEqual(variants, [
    { name: 'same' },
    { name: 'other', mapping: { kind: 'unfitted', fit, prompts: [at(text('so b'))] } },
    { name: 'own', mapping: { kind: 'unfitted', fit: { kind: 'affine' }, prompts: [at(text('c'))] } },
    { name: 'none', mapping: { kind: 'identity' } },
  ]);
});

test('--set is as if it stood in the file', () => {
  const set = [
    'reading.tokens=20',
    'target.position=x',
    'samples.1.prompt="#"',
    'variants=[{name: k, edit: {alpha: 2}}]',
  ];
  const written = `${small.replace('hello there', '"#"')}  position: x
reading: { tokens: 20 }
variants: [{ name: k, edit: { alpha: 2 } }]
`;
  assert.deepEqual(experimentOf(small, { set }), experimentOf(written));
  assert.deepEqual(experimentOf(`${small}seed: 3\n`, { set: ['seed=null'] }), experimentOf(small));
});

test('--set changes one place where an alias wrote two', () => {
  const content = small.replace('source: {', 'source: &a {').replace(/target:[\s\S]*/, 'target: *a\n');
  const [sample] = experimentOf(content, { set: ['target.position=0'] }).samples;
  assert.deepEqual([sample!.source, sample!.target], [at(text('hello world')), at(text('hello world'), 0)]);
});

test('paths count from the file they stand in, and from where they are typed', () => {
  write('near.csv', 'prompt\nnear\n');
  const content = `${small.replace(/samples:[\s\S]*?source/, 'samples: { file: near.csv }\nsource')}model: m.gguf\n`;
  assert.equal(experimentOf(content).samples[0]!.name, 'near');
  const typed = relative('.', join(home, 'near.csv'));
  const { experiment, models } = read(content, { set: [`samples.file=${typed}`, 'model=./m.gguf'] });
  assert.equal(experiment.samples[0]!.name, 'near');
  assert.deepEqual(models, { source: 'm.gguf', target: 'm.gguf' });
  assert.deepEqual(read(`${small}model: gemma-3-270m\n`).models, {
    source: 'gemma-3-270m',
    target: 'gemma-3-270m',
  });
});

test('each mistake is one sentence that says where it stands and what would be right', () => {
  const samples = (value: string) => small.replace(/samples:[\s\S]*?source/, `samples: ${value}\nsource`);
  const mapping = (more: string) => `${small}mapping: { samples: { data: sentences }, ${more} }`;
  const target = (value: string) => small.replace('prompt: x y', value);
  const mistakes: readonly (readonly [string, RegExp])[] = [
    ['', /:1:1: the experiment is empty where a set of keys \(.*name, .*seed\) is needed/],
    ['- a', /:1:1: the experiment is a list where/],
    [
      small.replace('source:', 'sorce:'),
      /:5:1: there is no key 'sorce' in an experiment, perhaps source was meant/,
    ],
    [small.replace(/source:.*\n/, ''), /:1:1: source is missing: it must be a set of keys \(prompt, /],
    [`${small}sed: 1`, /:8:1: there is no key 'sed' in an experiment, perhaps seed was meant: its keys are/],
    [`${small}  postion: 1`, /:8:3: there is no key 'postion' in target, perhaps position was meant/],
    [`${small}constructor: 1`, /:8:1: there is no key 'constructor'/],
    [`${small}__proto__: 1`, /:8:1: no key may be called __proto__/],
    [`${small}name: b`, /:8:1: the key 'name' is there twice/],
    [`${small}about: "b`, /:8:10: this is not YAML: Missing closing/],
    [`${small}about: !x b`, /:8:8: this is not YAML: Unresolved tag: !x/],
    [`${small}about: *x`, /:8:8: the alias \*x has no anchor before it/],
    [`${small}about: &x [*x]`, /:8:12: the alias \*x lies inside what it names/],
    [`${small}about: "\\ud800"`, /:8:8: the text holds half a character/],
    [`${small}? [a]\n: b`, /:8:3: this is not YAML: .*keys must be strings/],
    [`${small}---\nname: b`, /:8:1: a second document begins/],
    [small.replace('small', '[]'), /:1:7: name is an empty list where a text is needed/],
    [small.replace('small', '2024'), /:1:7: name is 2024 where a text is needed/],
    [small.replace('small', ''), /:1:7: name is empty where a text is needed/],
    [samples('[]'), /:2:10: samples is an empty list where a list of at least one sample is needed/],
    [
      samples('x'),
      /:2:10: samples is 'x' where a list of samples, or a set of keys with data or a file is needed/,
    ],
    [samples('[x]'), /:2:11: samples\[0\] is 'x' where a set of fields such as/],
    [samples('{ limit: 2 }'), /:2:10: samples has neither data nor a file where one of them is needed/],
    [samples('{ data: entities, file: a.csv }'), /:2:10: samples has both data and a file/],
    [samples('{ data: entities, format: csv }'), /:2:36: samples.format is for a file: leave it out/],
    [samples('{ data: [entities], subjects: 2 }'), /:2:40: samples.subjects means nothing for entities/],
    [samples('{ file: a.csv, keep: [] }'), /:2:31: samples.keep means nothing for csv: it is for patch/],
    [samples('{ file: a.jsonl, quotes: no }'), /samples.quotes is 'no' where true or false/],
    [samples('{ file: a.jsonl, delimiter: ; }'), /means nothing for jsonl: it is for csv and tsv/],
    [
      samples('{ data: relations/country_capital }'),
      /:2:18: samples.data is 'relations\/country_capital', .* perhaps relations\/country_capital_city was/,
    ],
    [samples('{ data: nothing }'), /samples.data is 'nothing', which does not come with the package: there/],
    [
      samples('{ data: [] }'),
      /:2:18: samples.data is an empty list where a name or a list of names is needed/,
    ],
    [samples('{ fil: a.csv }'), /:2:12: there is no key 'fil' in samples, perhaps file was meant/],
    [target('layers: all'), /:7:3: target.prompt is missing: it must be a text, or/],
    [target('prompt: ""'), /:7:11: target.prompt is '' where a text that is not empty is needed/],
    [
      target('prompt: 12'),
      /:7:11: target.prompt is 12 where a text, or a set of keys with text, tokens or same/,
    ],
    [target('prompt: { chat: true }'), /:7:11: target.prompt has neither text nor tokens/],
    [target('prompt: { text: a, tokens: [1] }'), /:7:11: target.prompt has both text and tokens/],
    [target('prompt: { tokens: [1], bos: no }'), /:7:31: target.prompt.bos is 'no' where true or false/],
    [target('prompt: { tokens: [1], bos: true }'), /:7:11: .* are used as they are: leave bos out/],
    [target('prompt: { tokens: [1, -1] }'), /:7:25: target.prompt.tokens\[1\] is -1 where a whole number/],
    [
      target('prompt: { tokens: "{prompt}" }'),
      /:7:21: .* gives 'hello' for sample 1 \(.*:3:5\) where token ids/,
    ],
    [
      target('prompt: { text: a, chta: true }'),
      /:7:22: there is no key 'chta' in target.prompt, perhaps chat/,
    ],
    [
      target('prompt: x {promt}'),
      /:7:11: target.prompt takes {promt}, which sample 1 \(\S+:3:5\) does not have, perhaps {prompt} was meant: its fields are prompt, ids, year/,
    ],
    [target('prompt: x {ids}'), /takes {ids}, which is a list where a text is needed, for sample 1/],
    [
      target('prompt: {prompt}'),
      /:7:12: target\.prompt is {prompt} without quotes: put quotes around a text/,
    ],
    [small.replace('small', '{who}'), /:1:7: name is a {field} without quotes where a text is needed/],
    [target('prompt: { text: x {y} }'), /:7:21: this is not YAML: .*put quotes around a text that holds {/],
    [target('prompt: {{}}'), /:7:12: this is not YAML: .*put quotes around a text that holds {/],
    [target('prompt: x {y'), /:7:11: target.prompt holds a single { in 'x {y': write/],
    [target('prompt: x y}'), /holds a single } .*}} for the brace itself/],
    [`${small}  layers: 1..x`, /:8:11: target.layers is '1..x' where same, below or above/],
    [`${small}  layers: [1, x]`, /:8:15: target.layers\[1\] is 'x' where a layer \(/],
    [`${small}  layers: [same]`, /:8:12: target.layers\[0\] is 'same' where a layer \(/],
    [`${small}  layers: []`, /:8:11: target.layers is an empty list where/],
    [small.replace('}" }', '}", layers: same }'), /source.layers is 'same' where a layer, a range/],
    [
      `${small}  position: 1.5`,
      /:8:13: target.position is 1.5 where a whole number, a text of the prompt, same, a list of these, or \{ random: true \}/,
    ],
    [`${small}  site: mlp`, /:8:9: target.site is 'mlp' where one of embed, resid_mid/],
    [`${small}edit: { op: mul }`, /:8:13: edit.op is 'mul' where one of replace, add/],
    [`${small}edit: { alpha: .inf }`, /:8:16: edit.alpha is .inf where a number is needed/],
    [`${small}mapping: affine`, /:8:10: mapping is 'affine' where identity, a .safetensors file/],
    [`${small}mapping: { kind: affine }`, /:8:10: mapping\.samples is missing: it must be a list of samples/],
    [mapping('kind: mpl'), /:8:48: mapping\.kind is 'mpl' where one of identity, scale, /],
    [mapping('ridge: -1'), /:8:49: mapping\.ridge is -1 where a number of at least 0/],
    [mapping('held-out: 1'), /:8:52: mapping\.held-out is 1 where a number from 0 to below 1/],
    [mapping('positions: some'), /:8:53: mapping\.positions is 'some' where one of sample, all/],
    [mapping('target-site: embed'), /:8:55: mapping\.target-site is 'embed' where one of resid_mid/],
    [mapping('rigde: 1'), /:8:42: there is no key 'rigde' in mapping, perhaps ridge was meant/],
    [`${small}mapping: { samples: { from: 3 } }`, /:8:21: mapping\.samples has neither data nor a file/],
    [`${small}mapping: { samples: { data: x } }`, /:8:29: mapping\.samples\.data is 'x', which does not/],
    [
      `${small}mapping: { samples: { data: sentences, from: 301 } }`,
      /:8:46: mapping\.samples\.from is 301 where there are 300/,
    ],
    [
      `${small}mapping: { samples: { data: sentences } }`,
      /:5:19: source\.prompt takes {prompt}, which sample 1 \(sentences\.txt:1\) does not have/,
    ],
    [
      `${small}mapping: { samples: [{ prompt: new }, { prompt: hello there }] }`,
      /:8:21: mapping\.samples has in sample 2 \(\S+:8:39\) the source prompt of the experiment's sample 2 \(\S+:4:5\), .*\(from: 3\)/,
    ],
    [`${small}variants: [{ name: a, mapping: x }]`, /variants\[0\].mapping is 'x' where identity/],
    [
      samples('{ data: entities, only: [1, 121] }'),
      /:2:34: samples\.only names sample 121 where there are 120/,
    ],
    [
      samples('{ data: entities, only: [1], limit: 2 }'),
      /samples\.only says which samples are taken: leave out/,
    ],
    [samples('{ data: entities, from: 1000 }'), /:2:34: samples\.from is 1000 where there are 120/],
    [target('prompt: { tokens: [1], padded: true }'), /:7:11: .* are used as they are: leave padded out/],
    [small.replace('"{prompt}"', '{ text: a, padded: true }'), /:5:19: .* has padded, which is for a target/],
    [`${small}mapping: no.safetensors`, /no.safetensors', which does not exist: patchscopes fit makes one/],
    [
      `${small}answer: x\nmetrics: [answer-found]\nexpected: [{ about: p, metric: probe, least: 1 }]`,
      /expected\[0\]\.metric is probe, and the experiment has none/,
    ],
    [
      `${small}probe: { class: "{prompt}", subject: "{prompt}" }\nexpected: [{ about: p, metric: probe, target: [0], least: 1 }]`,
      /expected\[0\]\.target is for patched cells, and the probe patches nothing/,
    ],
    [`${small}known: []`, /known is an empty list where a name or a list of names/],
    [`${small}variants: [{ name: a }, { name: a }]`, /:8:33: variants\[1\].name is 'a', as that of another/],
    [`${small}variants: []`, /variants is an empty list where a list of at least one variant/],
    [
      `${small}variants: [{ name: a, target: { prompt: "{x}" } }]`,
      /:8:41: variants\[0\].target.prompt takes {x}/,
    ],
    [`${small}reading: { top: 0 }`, /:8:17: reading.top is 0 where a whole number of at least 1/],
    [`${small}reading: { stop: [newlin] }`, /:8:19: reading.stop\[0\] is 'newlin' where newline, answer, or/],
    [`${small}reading: { top-k: 4 }`, /:8:19: reading.top-k means nothing where no token is drawn/],
    [`${small}reading: { top-p: 2 }`, /:8:19: reading.top-p is 2 where a number from 0 to 1/],
    [`${small}reading: { track-answer: true }`, /:8:26: reading.track-answer can only be had with answers/],
    [`${small}reading: { stop: answer }`, /:8:18: reading.stop can only be had with answers/],
    [`${small}metrics: [answer-found]`, /:8:10: metrics can only be had with answers/],
    [`${small}metrics: [answer-fond]`, /:8:11: metrics\[0\] is 'answer-fond' where one of answer-found/],
    [
      `${small}answer: x\nmetrics: [answer-rank]\nreading: { track-answer: false }`,
      /:10:26: reading.track-answer is false, where the metric answer-rank needs it/,
    ],
    [`${small.replace('"7"', '""')}answer: "{year}"`, /:8:9: answer is empty for sample 2 \(\S+:4:5\)/],
    [`${small.replace('[3]', '[]')}answer: "{ids}"`, /:8:9: answer takes {ids}, which is empty/],
    [`${small}controls: { random: -1 }`, /:8:21: controls.random is -1 where a whole number from 0 to 1000/],
    [
      `${small}expected: [{ about: a, metric: answer-rank, most: 0 }]`,
      /:8:32: expected\[0\]\.metric is answer-rank, which metrics does not name: there is none/,
    ],
    ...(
      [
        ['{ about: a, metric: surprisal }', /expected\[0\] bounds nothing: give least, most or both/],
        ['{ about: a, metric: surprisal, most: x }', /expected\[0\]\.most is 'x' where a number/],
        [
          '{ about: a, metric: surprisal, most: 1, variant: b }',
          /variant is 'b', which is no variant: there is none/,
        ],
        [
          '{ about: a, metric: surprisal, most: 1, control: random }',
          /control is random, which controls does not/,
        ],
        [
          '{ about: a, metric: surprisal, most: 1, source: [all] }',
          /source\[0\] is 'all' where embed or the number/,
        ],
        ['{ about: a, metric: surprisal, mots: 1 }', /there is no key 'mots' in expected\[0\], perhaps most/],
      ] as const
    ).map(([expected, sentence]): [string, RegExp] => [
      `${small}metrics: [surprisal]\nexpected: [${expected}]`,
      sentence,
    ]),
    [
      `${small}metrics: [surprisal]\ncontrols: { unpatched: true }\nexpected: [{ about: a, metric: surprisal, most: 1, control: unpatched, target: [0] }]`,
      /expected\[0\]\.target is for cells without layers/,
    ],
    [`${small}seed: 99999999999999999999`, /:8:7: seed is 99999999999999999999 where a whole number/],
  ];
  for (const [content, sentence] of mistakes) {
    assertBadInput(() => read(content), sentence);
  }
});

test('mistakes behind --set name it', () => {
  for (const [setting, sentence] of [
    ['reading', /^--set is 'reading' where key=value is needed/],
    ['reading.tokns=2', /^--set reading\.tokns=2: there is no key 'tokns' in reading, perhaps tokens/],
    ['reading.tokens=x', /^--set reading\.tokens=x: reading\.tokens is 'x' where a whole number/],
    ['reading.tokens=[', /^--set reading\.tokens=\[: this is not YAML/],
    [
      'target.prompt.chat=true',
      /^--set target\.prompt\.chat=true: there is nothing that the key 'chat' could/,
    ],
    ['samples.2.prompt=a', /^--set samples\.2\.prompt=a: '2' is no number of the list, which are 0 to 1/],
    ['target.prompt="{promt}"', /^--set target\.prompt="{promt}": target\.prompt takes {promt}/],
    ['__proto__.x=1', /^--set __proto__\.x=1: '__proto__' is no key/],
    ['target=null', /e\.yaml:1:1: target is missing/],
  ] as const) {
    assertBadInput(() => read(small, { set: [setting] }), sentence);
  }
});

test('a file of samples that is none is told with its line', () => {
  const utf16 = Buffer.from('\ufeffprompt\na\n', 'utf16le');
  const files: readonly (readonly [string, string | Uint8Array, RegExp])[] = [
    ['short.csv', 'prompt,a\n"b\nc",d,e\n', /short\.csv:3: this is no table: /],
    ['quote.csv', 'prompt,a\n"b"c,d\n', /quote\.csv:2: this is no table: .*samples\.quotes: false/],
    ['open.csv', 'prompt,a\nb,"c\n', /open\.csv:\d: this is no table: .*samples\.quotes: false/],
    ['twice.csv', 'prompt,prompt\nb,c\n', /twice\.csv:1: the column 'prompt' is there twice/],
    ['utf16.csv', utf16, /utf16\.csv', which is not text in UTF-8: save it in that encoding/],
    ['latin.csv', Buffer.from('prompt\n\xe9\n', 'latin1'), /latin\.csv', which is not text in UTF-8/],
    ['empty.csv', '', /:2:18: samples\.file is '\S+empty\.csv', which holds no samples/],
    ['head.csv', 'prompt,a\n', /which holds no samples/],
    ['empty.jsonl', '\n\n', /which holds no samples/],
    ['list.jsonl', '{"prompt": "a"}\n\n[1]\n', /list\.jsonl:3: this line is '\[1\]' where/],
    ['cut.jsonl', '{"prompt":', /cut\.jsonl:1: this line is not JSON: /],
    ['half.jsonl', '{"prompt": "\\ud800"}', /takes {prompt}, which is a text with half a character/],
    ['far.jsonl', '{"prompt": 12345678901234567890}', /takes {prompt}, which is a number too large/],
    ['nested.jsonl', '{"prompt": {"a": 1}}', /takes {prompt}, which is a set of keys where a text is needed/],
    ['some.jsonl', '{"prompt": "a"}\n{"promt": "b"}', /which sample 2 \(\S+some\.jsonl:2\) does not have/],
    ['what.dat', 'prompt\na\n', /whose ending tells no format: end it in/],
  ];
  for (const [name, content, sentence] of files) {
    write(name, content);
    const experiment = small.replace(/samples:[\s\S]*?source/, `samples: { file: ${name} }\nsource`);
    assertBadInput(() => read(experiment), sentence);
  }
  const named = (keys: string) => small.replace(/samples:[\s\S]*?source/, `samples: { ${keys} }\nsource`);
  assertBadInput(
    () => read(named('file: no.csv')),
    /:2:18: samples\.file is '\S+no\.csv', which does not exist/,
  );
  assertBadInput(() => read(named('file: ., format: csv')), /samples\.file is '\S+', which is no file/);
  write('cap.csv', 'prompt,cap\na,b\n');
  assertBadInput(
    () => read(named('file: cap.csv, columns: { x: capp }')),
    /:2:41: samples\.columns\.x is 'capp', which is no column of the samples, perhaps cap was meant: they are prompt, cap/,
  );
});

test('an experiment that is not there is told with those that are', () => {
  assertBadInput(
    () => readExperiment('token-identty'),
    /no built-in experiment 'token-identty', perhaps token-identity/,
  );
  assertBadInput(
    () => readExperiment('./none.yaml'),
    /^The experiment is '\.\/none\.yaml', which does not exist/,
  );
  assertBadInput(() => readExperiment(`${home}/.`), /which is no file/);
  assertBadInput(() => read(Buffer.from([0x6e, 0xff])), /which is not text in UTF-8/);
});

test('nothing is too deep or too large to be refused', () => {
  for (const open of ['[', '{a: ', '- ', '? ', '[a: ']) {
    assertBadInput(() => read(open.repeat(5000)), /it is nested too deeply/);
  }
  const names = [...'abcdefghi'];
  const bomb = names.map(
    (name, i) => `${name}: &${name} [${Array(10).fill(i === 0 ? '1' : `*${names[i - 1]}`)}]`,
  );
  assertBadInput(() => read(bomb.join('\n')), /it holds more than 1000000 values/);
  assertBadInput(() => read(`# ${'x'.repeat(5 * 2 ** 20)}`), /is larger than 4 MiB/);
});

test('the built-ins are files as those that people write', () => {
  const source = new URL('../src/experiments/', import.meta.url);
  const files = readdirSync(source).filter((file) => file.endsWith('.yaml'));
  assert.deepEqual(files.map((file) => file.replace('.yaml', '')).sort(), builtInNames());
  for (const file of files) {
    const content = readFileSync(new URL(file, source), 'utf8');
    assert.match(content, /^# yaml-language-server: \$schema=\.\/schema\.json\n/);
    const name = file.replace('.yaml', '');
    const { experiment, about, text: asWritten } = readExperiment(name);
    assert.deepEqual([experiment.name, asWritten], [name, content]);
    assert.ok(about);
    // files are named relative to the experiment's
    assert.equal(identityOf(experimentOf(content)), identityOf(experiment));
  }
});

test('the logit lens is a patch into the last layer of the same place', () => {
  const { samples, targetLayers } = readExperiment('logit-lens').experiment;
  assert.equal(targetLayers, '-1');
  for (const { source, target } of samples) assert.deepEqual(target, source);
});

test('the published JSON Schema is that of the format', () => {
  const published = readFileSync(new URL('../src/experiments/schema.json', import.meta.url), 'utf8');
  assert.equal(published, jsonSchema(), 'stale: npm run schema:experiment writes it anew');
});

test('a damaged file is read or refused in one sentence, whatever was done to it', async () => {
  const ended = { accepted: 0, refused: 0, wrong: 0 };
  for (let index = 0; index < 2000; index++) {
    let what = '';
    const tell = (said: string) => {
      what = said;
    };
    const { kind, detail } = await experimentFiles.run(new Random(5, index), home, tell);
    ended[kind]++;
    assert.notEqual(kind, 'wrong', `case ${index}, ${what}: ${detail}`);
  }
  assert.ok(ended.accepted > 50 && ended.refused > 500, JSON.stringify(ended));
});
