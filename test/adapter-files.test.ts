/** LoRAs on their way from a file to the record of a run; what is wrong with one is told, and ends nothing. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { adaptersOf, readAdapter } from '../src/adapters.js';
import { openEngineProcess } from '../src/engine-process/engine-process.js';
import { readExperiment } from '../src/experiment-file/read-experiment.js';
import { openPair } from '../src/llama/engine-pair.js';
import { cellAt, makePlan } from '../src/plan/plan.js';
import { summarize } from '../src/plan/summary.js';
import { ChunkRunner } from '../src/run.js';
import { query } from '../src/store/query.js';
import { type Gguf, list, scalar, type Tensor, tensor, type Value, writeGguf } from './fixtures/gguf.js';
import { loraFor } from './fixtures/lora.js';
import { tinyModel } from './fixtures/models.js';
import { damagedBytes } from './fuzz/damage-bytes.js';
import { Random } from './fuzz/random.js';
import { dumpResults } from './results-dump.js';
import {
  asFile,
  assertBadInput,
  assertRefused,
  assertSameBits,
  captured,
  folder,
  open,
  patched,
  promptOf,
  tinyPath,
  tokens,
  writeFile,
} from './support.js';

const llama = tinyModel('llama');
const weights = ['blk.0.attn_q.weight', 'blk.1.ffn_down.weight', 'blk.2.attn_v.weight'];
const good = loraFor(llama, weights, { alpha: 4 });
const goodBytes = writeGguf(good);
const lora = writeFile('good.gguf', goodBytes);
const otherLora = writeFile('other.gguf', writeGguf(loraFor(llama, weights, { seed: 9 })));

// --- bad input

const withKeys = (keys: Record<string, Value | undefined>): Gguf => ({
  ...good,
  metadata: new Map(
    [...new Map<string, Value | undefined>([...good.metadata, ...Object.entries(keys)])].filter(
      (entry): entry is [string, Value] => entry[1] !== undefined,
    ),
  ),
});
const withTensors = (change: (tensors: readonly Tensor[]) => readonly Tensor[]): Gguf => ({
  ...good,
  tensors: change(good.tensors),
});
const wide = tinyModel('gemma3');

const wrong: [what: string, file: () => Uint8Array | string, says: RegExp][] = [
  ['an empty file', () => '', /is not a readable GGUF file/],
  ['a text file', () => 'Dear model,\n'.repeat(99), /is not a readable GGUF file/],
  ['a model', () => writeGguf(llama), /is no adapter \(general\.type is not adapter\)/],
  ['a control vector', () => writeGguf(withKeys({ 'adapter.type': scalar('string', 'cvec') })), /'cvec'/],
  ['an adapter of no type', () => writeGguf(withKeys({ 'adapter.type': undefined })), /of the type ''/],
  ['a key of another type', () => writeGguf(withKeys({ 'general.type': scalar('u32', 1) })), /not a text/],
  [
    'a LoRA for another architecture',
    () => writeGguf(loraFor(wide, ['blk.0.attn_q.weight'])),
    /for the architecture 'gemma3', and the model is of the architecture 'llama'/,
  ],
  [
    'a LoRA for another width',
    () => writeGguf(withTensors(() => loraFor(otherWidth(), ['blk.0.attn_q.weight']).tensors)),
    /another model: its blk\.0\.attn_q\.weight is 32 x 2 by 2 x \d+, which does not fit the model's of 64 x/,
  ],
  [
    'a LoRA for more layers',
    () =>
      writeGguf(
        withTensors((all) => all.map((one) => ({ ...one, name: one.name.replace('blk.2', 'blk.9') }))),
      ),
    /another model: this one has no blk\.9\.attn_v\.weight/,
  ],
  [
    'a LoRA of which one half is turned',
    () => writeGguf(withTensors(([a, ...rest]) => [{ ...a!, shape: [...a!.shape].reverse() }, ...rest])),
    /does not fit/,
  ],
  [
    'one half of a pair',
    () => writeGguf(withTensors((all) => all.slice(1))),
    /it has no blk\.\d\.\w+\.weight\.lora_a/,
  ],
  ['a LoRA without tensors', () => writeGguf(withTensors(() => [])), /has no tensors/],
  [
    'a LoRA that changes a norm',
    () =>
      writeGguf(withTensors((all) => [...all, tensor('blk.0.attn_norm.weight', [64], new Float32Array(64))])),
    /changes blk\.0\.attn_norm\.weight, which is more than llama\.cpp takes/,
  ],
  [
    'a name with two ends',
    () => writeGguf(withTensors((all) => all.map((one) => ({ ...one, name: `x.lora_a${one.name}` })))),
    /has a tensor of the name x\.lora_a/,
  ],
  [
    'a LoRA that begins at certain tokens',
    () => writeGguf(withKeys({ 'adapter.alora.invocation_tokens': list('u32', [1, 2]) })),
    /on only after certain tokens/,
  ],
  [
    'an alpha of another type',
    () => writeGguf(withKeys({ 'adapter.lora.alpha': scalar('u32', 4) })),
    /alpha/,
  ],
  [
    'an alpha that is none',
    () => writeGguf(withKeys({ 'adapter.lora.alpha': scalar('f32', Number.NaN) })),
    /alpha/,
  ],
  ['a LoRA that is cut off', () => goodBytes.subarray(0, -200), /is cut off/],
];

function otherWidth(): Gguf {
  return { ...llama, tensors: [tensor('blk.0.attn_q.weight', [32, 64], new Float32Array(32 * 64))] };
}

for (const [what, file, says] of wrong) {
  test(`${what} is refused as a LoRA, by name, and a good one is taken afterwards`, async () => {
    const path = writeFile('wrong.gguf', file());
    await assertRefused(() => open(tinyPath('llama'), { adapters: [readAdapter(path)] }), 'bad_model', says);
    await assertRefused(
      () => open(tinyPath('llama'), { adapters: [readAdapter(path)] }),
      'bad_model',
      /wrong\.gguf/,
    );
    await (await open(tinyPath('llama'), { adapters: [readAdapter(lora)] })).close();
  });
}

test('a LoRA that is not there, or another than it was, is refused', async () => {
  assertBadInput(() => readAdapter(join(folder(), 'none.gguf')), /none\.gguf', which does not exist/);
  assertBadInput(() => readAdapter(folder()), /can't be read \(EISDIR\)/);
  assertBadInput(() => readAdapter(lora, Number.NaN), /scale of the LoRA .* is NaN/);
  const changing = writeFile('changing.gguf', goodBytes);
  const adapter = readAdapter(changing);
  fs.copyFileSync(otherLora, changing);
  await assertRefused(
    () => open(tinyPath('llama'), { adapters: [adapter] }),
    'bad_input',
    /was changed after/,
  );
});

test('a damaged LoRA is taken or refused in one sentence, whatever was done to it', async () => {
  const header =
    goodBytes.length - good.tensors.reduce((size, { bytes }) => size + 32 * Math.ceil(bytes.length / 32), 0);
  const ended = { taken: 0, refused: 0 };
  for (let index = 0; index < 150; index++) {
    const { bytes } = damagedBytes(goodBytes, header, new Random(8, index));
    const adapter = readAdapter(writeFile('damaged.gguf', bytes));
    const engine = await open(tinyPath('llama'), { adapters: [adapter] }).catch(async (error: unknown) => {
      await assertRefused(() => Promise.reject(error), /^bad_model$|^out_of_memory$/, /./);
      return undefined;
    });
    ended[engine === undefined ? 'refused' : 'taken']++;
    await engine?.close();
  }
  assert.ok(ended.refused > 50, JSON.stringify(ended));
});

// --- experiments

const place = fs.mkdtempSync(join(folder(), 'loras-'));
fs.copyFileSync(lora, join(place, 'here.gguf'));

const fileOf = (more: string) => {
  const path = join(place, 'loras.yaml');
  fs.writeFileSync(
    path,
    `name: loras
samples: [{ s: the cat is on a mat, a: cat }, { s: the dog and the sea, a: dog }]
answer: "{a}"
source: { prompt: "{s}", layers: [1, 2] ${more.includes('source:') ? '' : ', lora: here.gguf'} }
target: { prompt: in the house there are men, layers: same }
variants:
  - { name: source-alone }
  - { name: both, target: { lora: { file: here.gguf } } }
  - { name: neither, source: { lora: none } }
  - { name: half, source: { lora: { file: here.gguf, scale: 0.5 } }, target: { prompt: { same: source }, lora: here.gguf } }
reading: { top: 2, tokens: 2 }
metrics: [answer-rank, surprisal]
controls: { shuffled: 1, unpatched: true }
${more}
`,
  );
  return path;
};

const { experiment } = readExperiment(fileOf(''));
const opened = await openPair(asFile(tinyPath('llama')), asFile(tinyPath('llama')), {
  threads: 1,
  adapters: adaptersOf(experiment).target,
  sourceAdapters: adaptersOf(experiment).source,
});
after(() => opened.close());
const engine = opened.target;
const plan = makePlan(experiment, engine.tokenizer, engine.record);

test('a file says which prompt is read with which LoRA, and where it lies is no part of the plan', () => {
  const [name, half] = [readAdapter(lora).name, readAdapter(lora, 0.5).name].map((one) =>
    one.replace('good', 'here'),
  );
  assert.match(half!, / x 0\.5$/);
  const pairs = plan.pairs
    .slice(0, 4)
    .map(({ source, target }) => [promptOf(source).adapter, target.adapter]);
  assert.deepEqual(pairs, [
    [name, undefined],
    [name, name],
    [undefined, undefined],
    [half, name],
  ]);
  assert.equal(summarize(plan, engine.record, 64).sources, 6, 'two prompts, each in three ways');
  const elsewhere = fs.mkdtempSync(join(folder(), 'elsewhere-'));
  fs.copyFileSync(lora, join(elsewhere, 'here.gguf'));
  const moved = join(elsewhere, 'loras.yaml');
  fs.copyFileSync(join(place, 'loras.yaml'), moved);
  const planAt = (file: string) =>
    makePlan(readExperiment(file).experiment, engine.tokenizer, engine.record).sha256;
  assert.equal(planAt(moved), plan.sha256);
  fs.copyFileSync(otherLora, join(elsewhere, 'here.gguf'));
  assert.notEqual(planAt(moved), plan.sha256);
});

test('each cell is what its captured state gives in its target, each read in its own way', async () => {
  const outcomes = await new ChunkRunner(plan, engine).run(0);
  const texts = new Map<string, string>();
  for (const [i, outcome] of outcomes.entries()) {
    const { pair, sourcePair, source, target, control } = cellAt(plan, i);
    if (control === 'unpatched') continue;
    const plainEngine = {
      ...engine,
      capture: (requests: Parameters<typeof engine.capture>[0]) =>
        engine.capture(requests.map((one) => ({ ...one, ...adapter(promptOf(sourcePair.source).adapter) }))),
    };
    const at = await captured(plainEngine as typeof engine, promptOf(sourcePair.source).tokenIds, [
      source.layer,
    ]);
    const vector = at(source.layer, promptOf(sourcePair.source).tokenIndex);
    const [row] = await patched(
      engine,
      [
        {
          tokenIds: pair.target.tokenIds,
          ...adapter(pair.target.adapter),
          edits: [{ site: 'resid_out', layer: target.layer, tokenIndex: pair.target.tokenIndex, vector }],
        },
      ],
      { maxTokens: 2 },
    );
    const expected = row!.steps[0]!.chosen;
    const chosen = outcome.steps[0]!.find(({ tokenId }) => tokenId === expected.tokenId);
    assert.ok(
      Math.abs(chosen!.logprob - expected.logprob) < 1e-2,
      `cell ${i}: ${chosen?.logprob} ${expected.logprob}`,
    );
    if (control === 'none')
      texts.set(`${pair.variant} ${pair.sample} ${source.layer}`, `${expected.logprob}`);
  }
  for (const key of ['0 1', '1 2'])
    assert.equal(
      new Set(['source-alone', 'both', 'neither'].map((name) => texts.get(`${name} ${key}`))).size,
      3,
    );
});

const adapter = (name: string | undefined) => (name === undefined ? {} : { adapter: name });

test('an engine in a process of its own gives the same bits', async () => {
  const { source: sourceAdapters, target: adapters } = adaptersOf(experiment);
  const child = await openEngineProcess({
    model: asFile(tinyPath('llama')),
    engine: { threads: 1, adapters, sourceAdapters },
  });
  try {
    const own = await child.plan(experiment);
    assert.equal(own.sha256, plan.sha256);
    assert.deepEqual(await child.run(0), await new ChunkRunner(plan, engine).run(0));
    assert.deepEqual(child.record.adapters, engine.record.adapters);
  } finally {
    await child.close();
  }
});

test('a model that reads nothing with a LoRA gives the bits that it gives without one at hand', async () => {
  const plain = await open(tinyPath('llama'));
  const row = { tokenIds: tokens(plain, 'the cat is on a mat'), edits: [] };
  const [a, b] = [await patched(plain, [row]), await patched(engine, [row])];
  assertSameBits(a[0]!.steps[0]!.logits!, b[0]!.steps[0]!.logits!, 'the same row');
  await plain.close();
});

// --- commands

const command = fileURLToPath(new URL('../dist/cli.js', import.meta.url));
const model = ['-m', tinyPath('llama'), '-t', '1'];

function patchscopes(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [command, ...args, ...model], {
    cwd: place,
    encoding: 'utf8',
    timeout: 60_000,
  });
  return { code: status, stdout, stderr };
}

test('run keeps what was read with which LoRA, goes on only with the same one, and shards are the whole', () => {
  const file = fileOf('');
  const whole = patchscopes('run', file, '--db', 'whole.db');
  assert.equal(whole.code, 0, whole.stderr);
  const db = join(place, 'whole.db');
  const [[kept] = []] = query(db, 'SELECT adapters FROM run').rows;
  assert.deepEqual(
    (JSON.parse(`${kept}`) as { sha256: string; scale: number; alpha: number }[]).map(
      ({ sha256, scale, alpha }) => [sha256, scale, alpha],
    ),
    [1, 0.5].map((scale) => [readAdapter(lora).sha256, scale, 4]),
  );
  const names = query(
    db,
    'SELECT DISTINCT name, source_adapter, target_adapter FROM variant ORDER BY name',
  ).rows;
  assert.deepEqual(
    names.map(([name, source, target]) => [name, source === null, target === null]),
    [
      ['both', false, false],
      ['half', false, false],
      ['neither', true, true],
      ['source-alone', false, true],
    ],
  );
  assert.equal(patchscopes('run', file, '--db', 'shard.db', '--shard', '1/1').code, 0);
  spawnSync(process.execPath, [command, 'merge', 'shard.db', '-o', 'merged.db'], { cwd: place });
  assert.deepEqual(dumpResults(join(place, 'merged.db')), dumpResults(db));

  const set = ['--set', 'samples=[{s: the cat is on a mat, a: x}, {s: the sea, a: y}]', '--db', 'broken.db'];
  assert.equal(patchscopes('run', file, ...set).code, 0);
  const broken = join(place, 'broken.db');
  spawnSync(process.execPath, [
    '-e',
    `require('better-sqlite3')(${JSON.stringify(broken)}).exec("UPDATE run SET status = 'interrupted'")`,
  ]);
  fs.copyFileSync(otherLora, join(place, 'here.gguf'));
  const changed = patchscopes('run', file, ...set, '--resume');
  fs.copyFileSync(lora, join(place, 'here.gguf'));
  assert.equal(changed.code, 2, changed.stderr);
  assert.match(changed.stderr, /sourceAdapter of the experiment changed/);
  assert.equal(patchscopes('run', file, ...set, '--resume').code, 0);
});

test('patch takes a LoRA for either prompt or both', () => {
  const patch = (...more: string[]) => {
    const args = ['patch', '--source', 'the cat', '--source-position', '-1', '--source-layer', '1', '--json'];
    const { code, stdout, stderr } = patchscopes(
      ...args,
      ...[
        '--target',
        'a mat is',
        '--target-position',
        '-1',
        '--target-layer',
        'same',
        '--db',
        'off',
        ...more,
      ],
    );
    return code === 0
      ? JSON.stringify(JSON.parse(stdout).top)
      : `${code} ${stderr.trim().split('\n').at(-1)}`;
  };
  const [plain, both] = [patch(), patch('--lora', 'here.gguf')];
  const [source, target] = [patch('--source-lora', 'here.gguf'), patch('--target-lora', 'here.gguf')];
  assert.equal(new Set([plain, both, source, target]).size, 4, `${plain} ${both} ${source} ${target}`);
  assert.equal(patch('--lora', 'here.gguf', '--source-lora', 'here.gguf:0'), target);
  assert.match(patch('--lora', 'no.gguf'), /^2 patchscopes: The LoRA is 'no\.gguf', which does not exist/);
  assert.match(patch('--lora', 'here.gguf:much'), /^2 .*scale of a LoRA is 'much' where a number is needed/);
  fs.writeFileSync(join(place, 'bad.gguf'), goodBytes.subarray(0, -200));
  assert.match(patch('--lora', 'bad.gguf'), /^2 patchscopes: The file .*bad\.gguf is cut off/);
});

test('an activation oracle asks for its LoRA, and runs with one', () => {
  const args = ['run', 'activation-oracle', '--limit', '2', '--db', 'oracle.db', '--set', 'reading.tokens=2'];
  const set = ['--set', 'source.layers=1', '--set', 'target.prompt.chat=false'];
  const missing = patchscopes(...args, ...set);
  assert.equal(missing.code, 2, missing.stderr);
  assert.match(
    missing.stderr,
    /^patchscopes: The target's LoRA is still to be given, an activation oracle .*\.$/m,
  );
  const given = patchscopes(...args, ...set, '--set', 'target.lora=here.gguf');
  assert.equal(given.code, 0, given.stderr);
  const rows = query(
    join(place, 'oracle.db'),
    'SELECT DISTINCT name, op, target_adapter FROM variant ORDER BY name',
  ).rows;
  assert.deepEqual(rows, [
    ['oracle', 'norm-matched-add', readAdapter(join(place, 'here.gguf')).name],
    ['untrained', 'norm-matched-add', null],
  ]);
});
