/** Experiment files: right ones with keys, values and bytes changed; each is read or refused in one sentence. */
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { parse, stringify } from 'yaml';
import { builtInNames, readExperiment } from '../../src/experiment-file/read-experiment.js';
import type { Experiment, Prompt } from '../../src/patchscope.js';
import { judged, type Outcome, type Part } from './cases.js';
import type { Random } from './random.js';

/** Every key of the format. */
const whole = {
  name: 'all of it',
  about: 'Everything?',
  model: { source: './a.gguf', target: 'smollm2-135m-instruct' },
  samples: {
    file: 'samples.csv',
    format: 'csv',
    columns: { who: 'name' },
    delimiter: ',',
    quotes: true,
    limit: 3,
  },
  sample: '{who}, {{once}}',
  group: '{relation}',
  answer: ['{answer}', 'or {who}'],
  source: { prompt: 'I saw {who}', position: '{who}', layers: '0..9', site: 'mlp_out', side: 'decoder' },
  target: {
    prompt: { text: 'the {relation} of x is', bos: false, chat: true, special: true },
    position: 'x#1',
    layers: 'below',
    site: 'resid_out',
    side: 'encoder',
  },
  edit: { op: 'add', alpha: 0.5, 'at-generated': true },
  mapping: 'identity',
  variants: [
    { name: 'ids', source: { prompt: { tokens: '{ids}' }, position: -1, layers: ['embed', '1..2', -1] } },
    {
      name: 'more',
      target: { prompt: { tokens: [1, 70, 71] }, layers: 'same' },
      edit: { alpha: 2 },
      mapping: 'identity',
    },
  ],
  reading: {
    top: 5,
    tokens: 20,
    track: [' yes', 12],
    'track-answer': true,
    stop: ['newline', 'answer', { text: ';' }],
    temperature: 0.7,
    'top-k': 40,
    'top-p': 0.9,
  },
  metrics: ['answer-found', 'answer-word', 'answer-first-token', 'answer-rank', 'answer-logprob', 'rouge-l'],
  controls: { random: 2, shuffled: 1, unpatched: true },
  seed: 7,
};

const table =
  'name,relation,answer,ids\npaul quill,city,bergen,1 70\n"vera\nupton",job,judge,1 71\nemma,pet,"a ""cat""",2\n';
const lines = table
  .split('\n')
  .slice(1)
  .filter((line) => line.startsWith('emma') || line.startsWith('paul'))
  .map((line) =>
    JSON.stringify({ name: line.split(',')[0], relation: 'x', answer: ['a', 'b'], ids: [1, 2], n: 1.5 }),
  )
  .join('\n');

type Holder = Record<PropertyKey, unknown>;

const builtIns = builtInNames().map(
  (name) =>
    parse(readFileSync(new URL(`../../src/experiments/${name}.yaml`, import.meta.url), 'utf8')) as Holder,
);

const values: readonly unknown[] = [
  ...[null, true, false, 0, -1, 0.5, -0, 1e308, 2 ** 31, 2 ** 53, Number.NaN, Number.POSITIVE_INFINITY],
  ...[
    '',
    ' ',
    'x',
    '{',
    '}',
    '{}',
    '{{',
    '{who}',
    '{nobody}',
    '-1',
    '0..',
    '9..0',
    'all',
    'embed',
    'same',
    'identity',
  ],
  ...[
    'newline',
    '\n',
    '\0',
    '\ud800',
    '\u2028',
    '#1',
    'x#0',
    '../samples.csv',
    'samples.jsonl',
    'relations/company_ceo',
    'patchscopes-tsv',
    'popqa',
    'lre',
    'text',
    '/',
    'x'.repeat(5000),
  ],
  ...[
    [],
    {},
    [[]],
    [null],
    [''],
    { text: '' },
    { text: 'x' },
    { tokens: [] },
    { tokens: [-1] },
    { tokens: '{ids}' },
  ],
  ...[
    { constructor: 1 },
    { toString: 1 },
    ['a', 'a'],
    Array(300).fill(1),
    { file: 'samples.tsv' },
    { file: 'samples.jsonl' },
  ],
];

const signs: readonly string[] = [
  ...[
    '*a',
    '&a ',
    '- ',
    '? ',
    ': ',
    '{',
    '}',
    '[',
    ']',
    '"',
    "'",
    '\t',
    '\0',
    '\ufeff',
    '\r',
    '\n',
    '|\n',
    '>-\n',
    '#',
  ],
  ...[
    '!!binary ',
    '!x ',
    '<<: *a\n',
    '---\n',
    '...\n',
    '%YAML 1.1\n---\n',
    '__proto__: 1\n',
    '{[',
    '\u0085',
    'ü',
    '0x1',
    '.nan',
  ],
  ...['['.repeat(5000), '- '.repeat(3000), '{a: '.repeat(3000), '"'.repeat(999), 'k: &a [*a]\n', '\u{1f408}'],
];

/** Every place in a value: a holder and a key of it. */
function places(value: unknown, found: [Holder, string][] = []): [Holder, string][] {
  if (typeof value !== 'object' || value === null) return found;
  for (const key of Object.keys(value)) {
    found.push([value as Holder, key]);
    places((value as Holder)[key], found);
  }
  return found;
}

function change(root: Holder, random: Random): string {
  const found = places(root);
  const [holder, key] = found.length > 0 ? random.pick(found) : [root, 'name'];
  const put = (name: string, value: unknown) => {
    if (Array.isArray(holder) && name !== key) holder.push(value);
    else holder[name] = value;
  };
  switch (random.below(6)) {
    case 0:
      delete holder[key];
      return `${key} gone`;
    case 1: {
      const other = scrambled(key, random);
      put(other, holder[key]);
      if (!Array.isArray(holder)) delete holder[key];
      return `${key} called ${JSON.stringify(other)}`;
    }
    case 2: {
      const [from, name] = random.pick(places(whole));
      put(random.chance(0.5) ? key : name, structuredClone(from[name]));
      return `${name} at ${key}`;
    }
    case 3:
      holder[key] = random.times(0, 3, () => holder[key]);
      return `${key} several times`;
    case 4: {
      let deep: unknown = holder[key];
      for (let i = random.below(60); i > 0; i--) deep = random.chance(0.5) ? [deep] : { text: deep };
      holder[key] = deep;
      return `${key} deeper`;
    }
    default: {
      const value = random.pick(values);
      holder[key] = structuredClone(value);
      return `${key}: ${JSON.stringify(value)?.slice(0, 40)}`;
    }
  }
}

function scrambled(text: string, random: Random): string {
  const letters = [...text];
  for (let i = 1 + random.below(3); i > 0; i--) {
    const at = random.below(letters.length + 1);
    letters.splice(at, random.below(4), ...(random.chance(0.7) ? [random.pick(signs)] : []));
  }
  return letters.join('');
}

function damaged(text: string, random: Random): Buffer {
  if (random.chance(0.5)) return Buffer.from(scrambled(text, random));
  if (random.chance(0.4)) {
    const rows = text.split('\n');
    const at = random.below(rows.length);
    rows.splice(at, random.below(2), ...random.times(0, 2, () => random.pick(rows)));
    return Buffer.from(rows.join('\n'));
  }
  const bytes = Buffer.from(text);
  for (let i = random.below(4); i > 0 && bytes.length > 0; i--)
    bytes[random.below(bytes.length)] = random.below(256);
  return bytes.subarray(0, random.chance(0.3) ? random.below(bytes.length + 1) : bytes.length);
}

function written(root: Holder, random: Random): string {
  const loose = { aliasDuplicateObjects: random.chance(0.5), version: '1.2' } as const;
  return random.chance(0.3) ? JSON.stringify(root, null, random.below(3)) : stringify(root, loose);
}

function settings(random: Random): string[] {
  const typed = [
    'reading.tokens=3',
    'samples.limit=1',
    'variants.0.name=x',
    'target.prompt="{who}"',
    'controls=null',
  ];
  if (!random.chance(0.2)) return [];
  return random.times(1, 2, () =>
    random.chance(0.5) ? scrambled(random.pick(typed), random) : random.pick(typed),
  );
}

export const experimentFiles: Part = {
  async run(random, folder, tell) {
    const root = structuredClone(random.chance(0.7) ? whole : random.pick(builtIns)) as Holder;
    const done = random.chance(0.75) ? random.times(1, 3, () => change(root, random)) : [];
    const text = written(root, random);
    const bytes = random.chance(0.3) || done.length === 0 ? damaged(text, random) : Buffer.from(text);
    const set = settings(random);
    for (const [name, content] of [
      ['samples.csv', table],
      ['samples.tsv', table.replaceAll(',', '\t')],
      ['samples.jsonl', lines],
    ] as const) {
      writeFileSync(path.join(folder, name), random.chance(0.15) ? damaged(content, random) : content);
    }
    tell(`${done.join(', ')} ${set.map((setting) => `--set ${setting}`).join(' ')}`);
    const file = path.join(folder, 'experiment.yaml');
    writeFileSync(file, bytes);
    return read(file, set, random.chance(0.2) ? 1 + random.below(3) : undefined);
  },
};

function read(file: string, set: string[], limit: number | undefined): Outcome {
  try {
    const { experiment } = readExperiment(file, limit === undefined ? { set } : { set, limit });
    const fault = faultOf(experiment, limit);
    return fault === undefined ? { kind: 'accepted', detail: '' } : { kind: 'wrong', detail: fault };
  } catch (error) {
    const outcome = judged(error);
    return outcome.kind === 'refused' && (error as { code?: string }).code !== 'bad_input'
      ? { kind: 'wrong', detail: `not bad input: ${(error as Error).stack}` }
      : outcome;
  }
}

/** What is no experiment in what was read as one. */
function faultOf(experiment: Experiment, limit = Number.POSITIVE_INFINITY): string | undefined {
  const { name, samples, variants, reading, seed } = experiment;
  if (JSON.stringify(experiment) !== JSON.stringify(JSON.parse(JSON.stringify(experiment))))
    return 'not plain data';
  if (/null/.test(JSON.stringify({ ...experiment, samples: [] }).replaceAll(/"(?:[^"\\]|\\.)*"/g, '')))
    return 'a number that is none';
  if (name === '' || samples.length === 0 || samples.length > limit) return 'no name, no samples or too many';
  if (!Number.isSafeInteger(seed) || reading.topK < 1 || reading.maxTokens < 1)
    return 'a number out of bounds';
  const names = variants?.map((variant) => variant.name) ?? [];
  if (new Set(names).size !== names.length) return 'two variants of one name';
  const prompts = samples.flatMap((sample) => [sample, ...Object.values(sample.variants ?? {})]);
  const wrong = prompts
    .flatMap(({ source, target }) => [source, target])
    .find((at) => at !== undefined && 'prompt' in at && !isPrompt(at.prompt));
  if (wrong !== undefined) return `no prompt: ${JSON.stringify(wrong)}`;
  return undefined;
}

function isPrompt(prompt: Prompt): boolean {
  if (prompt.kind === 'text') return prompt.text.length > 0;
  if (prompt.kind === 'source') return true;
  return prompt.tokenIds.length > 0 && prompt.tokenIds.every((id) => Number.isSafeInteger(id) && id >= 0);
}
