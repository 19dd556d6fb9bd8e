/** Samples of the package and of other people's files: what they are, and what each format's traps become. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { test } from 'node:test';
import { parse } from 'csv-parse/sync';
import { parse as parseYaml } from 'yaml';
import { readExperiment } from '../src/experiment-file/read-experiment.js';
import { parsePosition } from '../src/positions.js';
import { folder } from './fixtures/disk.js';
import { assertBadInput, givenPrompt } from './support.js';

const home = mkdtempSync(join(folder(), 'samples-'));
const data = new URL('../src/data/', import.meta.url);
const content = (name: string) => readFileSync(new URL(name, data), 'utf8');
const tableOf = (name: string) => parse(content(name), { columns: true }) as Record<string, string>[];

interface Wanted {
  readonly source: string;
  readonly answer?: string;
  readonly group?: string;
}

/** Each sample's source prompt, answers and group. */
function samplesOf(samples: string, { source, answer = 'none', group = 'none' }: Wanted) {
  const file = join(home, 'e.yaml');
  const keys = { name: 'a', answer, group, source: { prompt: source }, target: { prompt: 'x' } };
  writeFileSync(file, `{ samples: ${samples}, ${JSON.stringify(keys).slice(1)}\n`);
  return readExperiment(file).experiment.samples.map((sample) => {
    const prompt = givenPrompt(sample.source);
    assert.ok(prompt.kind === 'text');
    return { prompt: prompt.text, answer: sample.answer, group: sample.group };
  });
}

function write(name: string, text: string | Uint8Array): string {
  writeFileSync(join(home, name), text);
  return name;
}

interface Relations {
  readonly neutral: readonly string[];
  readonly relations: Readonly<Record<string, { phrase: string; 'as-of'?: string; sentences: string[] }>>;
}
const { neutral, relations } = parseYaml(content('relations.yaml')) as Relations;

const despaced = (text: string) => text.replaceAll(' ', '').toLowerCase();

test('there are at least 14 relations of 40 facts, each with its sentences and its table', () => {
  const names = Object.keys(relations);
  const tables = readdirSync(new URL('relations/', data)).map((file) => basename(file, '.csv'));
  assert.deepEqual(tables.sort(), [...names].sort());
  assert.ok(names.length >= 14);
  assert.ok(neutral.length >= 2);
  for (const [name, { phrase, sentences, ...rest }] of Object.entries(relations)) {
    assert.match(phrase, /\S$/, name);
    assert.ok(sentences.length >= 3, name);
    if (/^(company|country)_/.test(name)) assert.match(String(rest['as-of']), /^20\d\d-\d\d-\d\d$/, name);
    assert.ok(tableOf(`relations/${name}.csv`).length >= 40, name);
  }
});

test('a subject stands once in its table and once in each of its sentences, and its objects nowhere', () => {
  for (const [name, { sentences }] of Object.entries(relations)) {
    const facts = tableOf(`relations/${name}.csv`);
    assert.deepEqual(Object.keys(facts[0]!), ['subject', 'object']);
    assert.equal(new Set(facts.map(({ subject }) => subject!.toLowerCase())).size, facts.length, name);
    const templates = [...sentences, ...neutral];
    assert.equal(new Set(templates).size, templates.length);
    for (const template of templates) assert.deepEqual(template.match(/\{.*?\}/g), ['{subject}'], template);
    for (const { subject, object } of facts) {
      assert.deepEqual(parsePosition(subject!), { kind: 'text', text: subject });
      const objects = object!.split('|');
      assert.equal(new Set(objects).size, objects.length, object);
      for (const text of [subject!, ...objects]) assert.match(text, /^\S(?:.*\S)?$/, `${name}: ${subject}`);
      for (const template of templates) {
        const sentence = template.replace('{subject}', subject!);
        assert.equal(sentence.split(subject!).length, 2, sentence);
        for (const text of objects)
          assert.ok(!despaced(sentence).includes(despaced(text)), `${text}: ${sentence}`);
      }
    }
  }
});

test('there are 60 popular and 60 rare entities, each described without its name', () => {
  const entities = tableOf('entities.csv');
  assert.equal(new Set(entities.map(({ entity }) => entity!.toLowerCase())).size, 120);
  for (const group of ['popular', 'rare']) {
    const kinds = entities.filter(({ popularity }) => popularity === group).map(({ kind }) => kind!);
    assert.equal(kinds.length, 60);
    assert.deepEqual([...new Set(kinds)].sort(), ['organisation', 'person', 'place', 'species', 'work']);
  }
  for (const { entity, description } of entities) {
    assert.match(description!, /^[A-Z].{9,80}[^.\s]$/);
    assert.ok(!description!.includes(entity!), description);
  }
});

test('there are 300 sentences of 8 to 30 words', () => {
  const sentences = content('sentences.txt').trimEnd().split('\n');
  assert.equal(new Set(sentences).size, 300);
  for (const sentence of sentences) {
    const words = sentence.split(' ').length;
    assert.ok(words >= 8 && words <= 30, sentence);
    assert.match(sentence, /^[A-Z][^"“”{}]*[a-z]\.$/);
  }
});

const ofRelations = { source: '{sentence}', answer: '{object}', group: '{relation}: {phrase} {subject}' };

test('a relation is each of its sentences about each of its subjects', () => {
  const name = 'country_currency';
  const { phrase, sentences } = relations[name]!;
  const facts = tableOf(`relations/${name}.csv`);
  const all = [...sentences, ...neutral].flatMap((sentence) =>
    facts.map(({ subject, object }) => ({
      prompt: sentence.replace('{subject}', subject!),
      answer: object!.split('|'),
      group: `${name}: ${phrase} ${subject}`,
    })),
  );
  assert.deepEqual(samplesOf(`{ data: relations/${name} }`, ofRelations), all);
  const few = samplesOf(`{ data: relations/${name}, subjects: 3, sentences: 2 }`, ofRelations);
  assert.deepEqual(few, [...all.slice(0, 3), ...all.slice(facts.length, facts.length + 3)]);
  assert.deepEqual(samplesOf(`{ data: relations/${name}, limit: 7 }`, ofRelations), all.slice(0, 7));
});

test('relations are taken one, some or all', () => {
  const groups = (samples: string) => {
    const read = samplesOf(samples, { source: '{sentence}', group: '{relation}' });
    return [...new Set(read.map(({ group }) => group))];
  };
  assert.deepEqual(groups('{ data: [relations/company_ceo, relations/person_father], subjects: 2 }'), [
    'company_ceo',
    'person_father',
  ]);
  assert.deepEqual(groups('{ data: relations }'), Object.keys(relations));
  const twice = '{ data: [relations, relations/company_ceo], subjects: 1, sentences: 1 }';
  assert.equal(samplesOf(twice, ofRelations).length, Object.keys(relations).length);
});

test('entities and sentences are read as they are written', () => {
  const wanted = { source: '{entity}', answer: '{description}', group: '{popularity} {kind}' };
  assert.deepEqual(
    samplesOf('{ data: entities }', wanted),
    tableOf('entities.csv').map(({ entity, description, popularity, kind }) => ({
      prompt: entity,
      answer: [description],
      group: `${popularity} ${kind}`,
    })),
  );
  const lines = content('sentences.txt').trimEnd().split('\n');
  const read = samplesOf('{ data: sentences, columns: { prompt: text } }', { source: '{prompt}' });
  assert.deepEqual(
    read.map(({ prompt }) => prompt),
    lines,
  );
});

test('a text is a sample a line', () => {
  write('lines.txt', '\ufeffone line\r\n\r\n  two lines \nthree');
  const prompts = samplesOf('{ file: lines.txt }', { source: '{text}' }).map(({ prompt }) => prompt);
  assert.deepEqual(prompts, ['one line', '  two lines ', 'three']);
  assert.equal(samplesOf('{ file: lines.txt, limit: 2 }', { source: '{text}' }).length, 2);
  const rest = (from: number, limit = '') =>
    samplesOf(`{ file: lines.txt, from: ${from}${limit} }`, { source: '{text}' }).map(({ prompt }) => prompt);
  assert.deepEqual(rest(2), prompts.slice(1));
  assert.deepEqual(rest(2, ', limit: 1'), prompts.slice(1, 2));
  assertBadInput(() => rest(4), /samples.from is 4 where there are 3\.$/);
  write('wide.txt', Buffer.from('one line\n', 'utf16le'));
  assertBadInput(
    () => samplesOf('{ file: wide.txt }', { source: '{text}' }),
    /is not text in UTF-8: save it/,
  );
  write('empty.txt', '\n\n');
  assertBadInput(() => samplesOf('{ file: empty.txt }', { source: '{text}' }), /which holds no samples/);
});

const columns = [
  ...['', 'sample_id', 'prompt_target', 'position_target', 'target_baseline', 'object', 'subject'],
  ...['generations_baseline_str', 'is_correct_baseline', 'prompt_source', 'position_source'],
  'source_cropped_toks',
];

interface Published {
  readonly target?: string;
  readonly known?: string;
  readonly prompt?: string;
  readonly toks?: string;
  readonly object?: string;
}

function published(rows: readonly Published[], names = columns): string {
  const quoted = (cell: string) => (/["\n\t]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
  const lines = rows.map(
    ({ target = 'The hue of x', known = 'True', prompt = ' a b', toks, object = 'red' }, i) => {
      const said = [' is', '\n', ' "quoted"\tred'].join('');
      const list = toks ?? `['${prompt}']`;
      const cells = [`${i}`, '0', target, '-1', 'The hue of b', object, 'b', said, known, prompt, '1', list];
      return cells.map(quoted).join('\t');
    },
  );
  return `${[names.join('\t'), ...lines].join('\n')}\n`;
}

const ofPublished = { source: '{source}', answer: '{object}', group: '{relation}' };

function publishedPrompts(rows: readonly Published[], keys = '') {
  write('hue.tsv', published(rows));
  return samplesOf(`{ file: hue.tsv, format: patchscopes-tsv${keys} }`, ofPublished);
}

test('of the published tables those rows are kept that the paper counts', () => {
  const rows: Published[] = [
    { prompt: ' one b' },
    { prompt: ' unknown b', known: 'False' },
    { prompt: ' two b', known: 'True' },
    { prompt: '', toks: "['b']" },
    { prompt: ' a\n', toks: "[' a', '\\n', 'b']" },
    { prompt: ' one b' },
    { prompt: ' service b' },
    { prompt: ' service b', target: 'The name of the constellation including x' },
    { prompt: ' Swainson ’ s hawk b', target: 'Among the superclasses of animal, the superclass of x' },
    { prompt: ' one b', known: 'False' },
  ];
  const counts = ['[]', '[known]', '[known, intact]', '[known, intact, distinct]', '[distinct]'].map(
    (keep) => publishedPrompts(rows, `, keep: ${keep}`).length,
  );
  assert.deepEqual(counts, [10, 8, 4, 3, 7]);
  const kept = publishedPrompts(rows);
  assert.deepEqual(
    kept.map(({ prompt }) => prompt),
    [' one b', ' two b', ' service b'],
  );
  assert.deepEqual(kept[0], { prompt: ' one b', answer: ['red'], group: 'hue' });
  assert.equal(publishedPrompts(rows, ', limit: 2').length, 2);
});

test('a source of the published tables ends with its subject, as its tokens say', () => {
  const sourceOf = (row: Published) => publishedPrompts([row])[0]!.prompt;
  assert.equal(sourceOf({ prompt: ' a bs and more', toks: "[' a', ' b']" }), ' a b');
  assert.equal(
    sourceOf({ prompt: ' x', toks: `[" it's", ' "b"', ' \\\\', '\\'', '\\x41\\u0160\\U0001f600']` }),
    ` it's "b" \\'AŠ😀`,
  );
  const parts = "[' Peter', ' \ufffd', '\ufffd', 'a\ufffd', '\ufffd', 'n']";
  assert.equal(sourceOf({ prompt: ' Peter Šaťn (1) goes', toks: parts }), ' Peter Šaťn');
  assertBadInput(
    () => sourceOf({ prompt: ' Paul Šaťn', toks: parts }),
    /tokens that are parts of a character/,
  );
  assert.deepEqual(publishedPrompts([{ object: 'Bras\\u00edlia' }])[0]!.answer, ['Brasília']);
});

test('columns of a published table may have other names', () => {
  const names = columns.map((name) => (name === 'prompt_source' ? 'utterance' : name));
  write('other.tsv', published([{ prompt: ' a b', object: 'r\\u00e9d' }], names));
  const samples = (keys: string) => `{ file: other.tsv, format: patchscopes-tsv, columns: { ${keys} } }`;
  const wanted = { source: '{source}', answer: '{hue}' };
  assert.deepEqual(samplesOf(samples('prompt_source: utterance, hue: object'), wanted)[0]!.answer, ['réd']);
  assertBadInput(
    () => samplesOf(samples('hue: object'), wanted),
    /other\.tsv:2: there is no column 'prompt_source', which patchscopes-tsv needs: the columns are .*utterance/,
  );
  assertBadInput(
    () => samplesOf(samples('prompt_source: utterance, hue: objct'), wanted),
    /columns\.hue is 'objct', .* perhaps object was/,
  );
});

test('what is wrong in a published table is told with its line', () => {
  for (const [row, sentence] of [
    [{ known: 'yes' }, /hue\.tsv:2: is_correct_baseline is 'yes' where True or False is needed/],
    [{ toks: '[1, 2]' }, /hue\.tsv:2: source_cropped_toks is '\[1, 2\]' where a list such as \[' a', ' b'\]/],
    [{ toks: "['a'" }, /source_cropped_toks is/],
    [{ toks: "['\\ud800']" }, /takes {source}, which is a text with half a character/],
    [{ toks: '[]' }, /source\.prompt is empty for sample 1 \(\S+hue\.tsv:2\)/],
    [{ object: '' }, /answer is empty for sample 1 \(\S+hue\.tsv:2\)/],
    [{ known: 'False' }, /samples\.file is '\S+hue\.tsv', of whose 1 rows samples\.keep leaves none/],
  ] as const) {
    assertBadInput(() => publishedPrompts([row]), sentence);
  }
});

const questions = [
  'id\tsubj\tprop\tobj\ts_wiki_title\ts_pop\tpossible_answers',
  '1\tRiver Oz\tcountry\tFrance\tOz\t300\t"[""France"", ""FR""]"',
  '2\tAnn Lee\toccupation\tpoet\tAnn Lee\t20\t"[""poet""]"',
  '3\tRiver Oz\tlength\tlong\tOz\t300\t"[""long""]"',
  '4\tAnn Lee\toccupation\tcook\tAnn Lee (cook)\t1000\t"[""cook""]"',
  '5\tTown\tcountry\tItaly\tTown\t100\t"[""Italy""]"',
];

test('PopQA gives its questions, or its rarest and most popular subjects', () => {
  write('popQA.tsv', `${questions.join('\n')}\n`);
  const popqa = (keys: string) => `{ file: popQA.tsv, format: popqa, ${keys} }`;
  const wanted = { source: '{entity}', answer: '{right}', group: '{prop}' };
  const read = samplesOf(popqa('columns: { entity: subj, right: possible_answers }'), wanted);
  assert.deepEqual(
    read.map(({ answer }) => answer),
    [['France', 'FR'], ['poet'], ['long'], ['cook'], ['Italy']],
  );
  const ends = samplesOf(popqa('extremes: 2'), { source: '{id} {subj}', group: '{popularity}' });
  assert.deepEqual(
    ends.map(({ prompt, group }) => [prompt, group]),
    [
      ['2 Ann Lee', 'rare'],
      ['5 Town', 'rare'],
      ['1 River Oz', 'popular'],
      ['4 Ann Lee', 'popular'],
    ],
  );
  assertBadInput(
    () => samplesOf(popqa('extremes: 3'), { source: '{subj}' }),
    /samples\.extremes is 3, which needs 6 different subjects: there are 4/,
  );
});

test('what is wrong in PopQA’s table is told with its line', () => {
  const bad = (line: string, says: RegExp, keys = '') => {
    write('bad.tsv', `${questions[0]}\n${line}\n`);
    assertBadInput(
      () =>
        samplesOf(`{ file: bad.tsv, format: popqa${keys} }`, {
          source: '{subj}',
          answer: '{possible_answers}',
        }),
      says,
    );
  };
  bad(
    '1\tA\tp\to\tA\t3\tFrance',
    /bad\.tsv:2: possible_answers is 'France' where a list such as \["a", "b"\]/,
  );
  bad('1\tA\tp\to\tA\t3\t[]', /answer takes {possible_answers}, which is empty/);
  bad('1\tA\tp\to\tA\t3\t"[""""]"', /holds an empty text for sample 1 \(\S+bad\.tsv:2\)/);
  bad('1\tA\tp\to\tA\tmany\t[]', /bad\.tsv:2: s_pop is 'many' where a number of page views/, ', extremes: 1');
  write('bad.tsv', 'subject\tanswer\nA\tB\n');
  assertBadInput(
    () => samplesOf('{ file: bad.tsv, format: popqa }', { source: '{subj}' }),
    /bad\.tsv:2: there is no column 'subj', which popqa needs: the columns are subject, answer/,
  );
});

const lre = {
  name: 'coat colour',
  prompt_templates: ['The coat of {} is', '{} has a coat that is'],
  prompt_templates_zs: [],
  properties: { relation_type: 'factual', symmetric: false },
  samples: [
    { subject: 'Ann $& Lee', object: 'red' },
    { subject: 'Bo', object: 'blue' },
  ],
};

test('a relation of LRE is each of its prompts about each of its subjects', () => {
  const wanted = { source: '{sentence}', answer: '{object}', group: '{relation}' };
  for (const indent of [undefined, 4, '\t']) {
    write('coat.json', JSON.stringify(lre, null, indent));
    const read = samplesOf('{ file: coat.json, format: lre }', wanted);
    assert.deepEqual(
      read.map(({ prompt, answer }) => [prompt, answer]),
      [
        ['The coat of Ann $& Lee is', ['red']],
        ['The coat of Bo is', ['blue']],
        ['Ann $& Lee has a coat that is', ['red']],
        ['Bo has a coat that is', ['blue']],
      ],
    );
    assert.deepEqual(new Set(read.map(({ group }) => group)), new Set(['coat colour']));
  }
  const few = '{ file: coat.json, format: lre, subjects: 1, columns: { who: subject } }';
  assert.equal(samplesOf(few, { ...wanted, group: '{who}' })[1]!.group, 'Ann $& Lee');
});

test('what is wrong in a relation of LRE is told with its place', () => {
  for (const [change, sentence] of [
    [[], /bad\.json:1:1: the relation is an empty list where a set of keys \(name, /],
    [{ ...lre, samples: [] }, /samples is an empty list where a list of at least one fact is needed/],
    [
      { ...lre, samples: [{ subject: 'a', object: '' }] },
      /samples\[0\]\.object is '' where a text that is not/,
    ],
    [{ ...lre, samples: [{ subject: 'a' }] }, /samples\[0\]\.object is missing: it must be a text/],
    [{ ...lre, prompt_templates: ['The coat'] }, /prompt_templates\[0\] is 'The coat' where a text with {}/],
  ] as const) {
    write('bad.json', JSON.stringify(change));
    assertBadInput(() => samplesOf('{ file: bad.json, format: lre }', { source: '{sentence}' }), sentence);
  }
  write('bad.json', Buffer.from(JSON.stringify(lre), 'utf16le'));
  assertBadInput(
    () => samplesOf('{ file: bad.json, format: lre }', { source: 'a' }),
    /bad\.json', which is not text in UTF-8/,
  );
});
