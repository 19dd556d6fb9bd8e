/** Laws of runs and fits between two models: other weights, widths, kinds and vocabularies. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { alignedTokens } from '../src/alignment.js';
import { convertModel } from '../src/convert.js';
import type { Engine, Tokenizer } from '../src/engine.js';
import { openEngineProcess } from '../src/engine-process/engine-process.js';
import { type FitOptions, fitMapping } from '../src/fit-mapping/fit-mapping.js';
import { fitMappings } from '../src/fit-mapping/fit-mappings.js';
import { type EnginePair, type ModelsChoice, openPair } from '../src/llama/engine-pair.js';
import { readMapping } from '../src/mapping/mapping-file.js';
import type { Outcome } from '../src/observation.js';
import type { Experiment, FileMapping, Mapping, Prompt, PromptAt } from '../src/patchscope.js';
import { modelNotes } from '../src/plan/model-notes.js';
import { cellAt, chunkCount, makePlan, type Plan } from '../src/plan/plan.js';
import { parsePosition } from '../src/positions.js';
import { GroupProber } from '../src/probing/group-prober.js';
import { resolvePrompt } from '../src/prompts.js';
import { uniforms } from '../src/random.js';
import { ChunkRunner } from '../src/run.js';
import { CapturedStates } from '../src/source-states.js';
import { query } from '../src/store/query.js';
import { t5 } from './fixtures/architectures/t5.js';
import { writeGguf } from './fixtures/gguf.js';
import type { ModelKind } from './fixtures/models.js';
import { dumpResults } from './results-dump.js';
import { asFile, assertRefused, folder, promptOf, SOURCE, TARGET, tinyPath, writeFile } from './support.js';
import { words, wordTokenizer } from './word-tokenizer.js';

const refused = (work: () => unknown, says: RegExp) => assertRefused(work, 'bad_input', says);
const options = { threads: 1, gpu: 'off' } as const;
const resolved = (path: string) => ({ ...asFile(path), sha256: path });
const t5Path = writeFile('two-t5.gguf', writeGguf(t5()));
const pathOf = (kind: ModelKind | 't5') => (kind === 't5' ? t5Path : tinyPath(kind));

const opened = new Map<string, Promise<EnginePair>>();
after(async () => {
  for (const pair of opened.values()) await (await pair).close();
});

function pairAt(source: string, target: string, models: ModelsChoice = 'together'): Promise<EnginePair> {
  const key = [source, target, models].join();
  const pair =
    opened.get(key) ??
    openPair(resolved(source), { ...resolved(target), sha256: `${target} too` }, { ...options, models });
  opened.set(key, pair);
  return pair;
}

const pairFor = (source: ModelKind | 't5', target: ModelKind | 't5', models?: ModelsChoice) =>
  pairAt(pathOf(source), pathOf(target), models);

const vocabulary = `${SOURCE} ${TARGET}`.split(' ');
const prompts = Array.from({ length: 40 }, (_, i) =>
  Array.from(
    { length: 6 },
    (_, k) => vocabulary[(i * 7 + k * (1 + (i % 5)) + ((i * k) % 3)) % vocabulary.length],
  ).join(' '),
);
const at = (prompt: Prompt, position = '-1'): PromptAt => ({ prompt, position: parsePosition(position) });
const text = (written: string): Prompt => ({ kind: 'text', text: written });
const SAME: Prompt = { kind: 'source' };

const experiment = (more: Partial<Experiment> = {}): Experiment => ({
  name: 'two models',
  samples: prompts
    .slice(0, 12)
    .map((prompt, i) => ({ name: `${i}`, source: at(text(prompt)), target: at(SAME) })),
  sourceLayers: 'all',
  targetLayers: '0,1',
  mapping: { kind: 'identity' },
  reading: { topK: 4, maxTokens: 2, stop: [] },
  metrics: ['precision-at-1', 'surprisal', 'surprisal-of-own'],
  controls: { random: 1, shuffled: 1, unpatched: true },
  seed: 0,
  ...more,
});

interface Done {
  readonly plan: Plan;
  readonly outcomes: readonly Outcome[];
}

async function runOn(
  { source, target }: Pick<EnginePair, 'source' | 'target'>,
  what: Experiment,
): Promise<Done> {
  const plan = makePlan(what, source.tokenizer, source.record, target);
  const runner = new ChunkRunner(plan, target, new CapturedStates(plan, source));
  const outcomes: Outcome[] = [];
  for (let chunk = 0; chunk < chunkCount(plan); chunk++) outcomes.push(...(await runner.run(chunk)));
  assert.deepEqual(
    outcomes.filter(({ status }) => status === 'failed'),
    [],
  );
  return { plan, outcomes };
}

let files = 0;

async function fitted(
  pair: EnginePair,
  more: Partial<Experiment> = {},
  fit: Partial<FitOptions> = {},
): Promise<FileMapping & { readonly notes: readonly string[] }> {
  const notes: string[] = [];
  const file = join(folder(), `two-${files++}.safetensors`);
  const { source, target, areInTurn } = pair;
  const samples = prompts.map((prompt, i) => ({ name: `${i}`, source: at(text(prompt)), target: at(SAME) }));
  await fitMapping(experiment({ samples, ...more }), source, file, {
    ...{ kind: 'affine', positions: 'all', ridge: 1e-3, target, areInTurn },
    ...fit,
    onNote: (line) => notes.push(line),
  });
  return { ...readMapping(file), notes };
}

test('two engines of one file give the bits that one gives', async () => {
  const pair = await pairFor('llama', 'llama');
  assert.notEqual(pair.source, pair.target);
  const one = await runOn({ source: pair.target, target: pair.target }, experiment());
  const two = await runOn(pair, experiment());
  assert.deepEqual(two, one);
  const first = await openPair(resolved(pathOf('llama')), resolved(pathOf('llama')), options);
  assert.equal(first.source, first.target, 'one file is loaded once');
  await first.close();
});

test('states of one copy of a model read nearly the same in a copy of other weights', async () => {
  const output = join(folder(), 'two-q8_0.gguf');
  await convertModel(asFile(pathOf('llama')), output, { to: 'q8_0', threads: 1 });
  const pair = await pairAt(pathOf('llama'), output);
  const what = experiment({ sourceLayers: '-1', targetLayers: 'same', controls: {} });
  const { plan, outcomes } = await runOn(pair, what);
  assert.deepEqual(modelNotes(plan, pair), [
    'mapping none: states of one model are patched into the other as they are',
  ]);
  const { outcomes: own } = await runOn({ source: pair.source, target: pair.source }, what);
  assert.notDeepEqual(outcomes, own);
  for (const [i, { scores }] of outcomes.entries()) {
    assert.equal(own[i]!.scores['precision-at-1'], 1);
    assert.ok(Math.abs(scores['surprisal-of-own']! - own[i]!.scores['surprisal-of-own']!) < 0.3);
  }
  const identity = await fitted(
    pair,
    { sourceLayers: 'embed,all', targetLayers: 'same' },
    { kind: 'identity', ridge: 0, heldOut: 0.5 },
  );
  const cosines = identity.record.maps.map(({ cosine }) => cosine.heldOut!);
  assert.equal(cosines.length, 5);
  assert.ok(
    cosines.every((cosine) => cosine > 0.98 && cosine < 1),
    `${cosines}`,
  );
});

test('states of another width need a mapping, and the sentence says what makes one', async () => {
  const pair = await pairFor('llama', 'gpt2');
  await refused(
    () => runOn(pair, experiment()),
    /^The source's states have 64 floats and the target's 32, so they need a mapping: the key mapping .* patchscopes fit with the same two models/,
  );
});

test('a variant that only scales takes no state, and so needs no mapping between widths', async () => {
  const pair = await pairFor('llama', 'gpt2');
  const what: Partial<Experiment> = {
    samples: prompts.map((prompt, i) => ({
      ...{ name: `${i}`, source: at(text(prompt)), target: at(SAME), answer: ['a'] },
    })),
    variants: [{ name: 'mapped' }, { name: 'plain', patch: { op: 'scale' } }],
    ...{ known: ['plain'], metrics: ['answer-found'], controls: { unpatched: true } },
  };
  await refused(() => runOn(pair, experiment(what)), /so they need a mapping/);
  const mapping = await fitted(pair, what, { variant: 'mapped' });
  const variants = [{ name: 'mapped', mapping }, what.variants![1]!];
  const { plan, outcomes } = await runOn(pair, experiment({ ...what, variants }));
  assert.deepEqual(modelNotes(plan, pair), []);
  const plain = outcomes.filter((_, i) => cellAt(plan, i).pair.variant === 'plain');
  assert.equal(plain.length, 40 * (pair.source.record.layerCount * 2 + 1));
  assert.ok(plain.every(({ normRatio }) => normRatio === undefined));
});

const crossings = [
  ['llama', 'gpt2', {}],
  ['gpt2', 'gemma3', {}],
  ['llama', 'mamba', {}],
  ['rwkv7', 'llama', {}],
  ['t5', 'llama', { sourceSide: 'encoder' }],
  ['mamba', 't5', { targetSide: 'encoder' }],
] as const;

for (const [from, to, sides] of crossings) {
  test(`a fitted mapping carries states from ${from} to ${to}, and nowhere else`, async () => {
    const pair = await pairFor(from, to);
    const mapping = await fitted(pair, sides);
    const { source, target, data } = mapping.record;
    assert.deepEqual(
      [source.sha256, source.width, target.sha256, target.width],
      [pair.source, pair.target].flatMap(({ record }) => [record.sha256, record.embeddingSize]),
    );
    assert.ok(data.pairs.train > 100);
    const isEncoder = 'sourceSide' in sides;
    const what = experiment({
      ...sides,
      mapping,
      metrics: [],
      ...((isEncoder || 'targetSide' in sides) && {
        samples: prompts.slice(0, 12).map((prompt, i) => ({
          name: `${i}`,
          // the encoder reads an end token behind the prompt
          source: at(text(prompt), isEncoder ? '-2' : '-1'),
          target: at(text(prompt), 'targetSide' in sides ? '-2' : '-1'),
        })),
      }),
    });
    const { plan, outcomes } = await runOn(pair, what);
    assert.equal(outcomes.length, plan.cellCount);
    const read = outcomes.filter((_, i) => cellAt(plan, i).control === 'none');
    assert.ok(new Set(read.map(({ steps }) => steps[0]![0]!.logprob)).size > read.length / 2);
    await refused(
      () => runOn({ source: pair.target, target: pair.target }, { ...what, sourceSide: what.targetSide! }),
      /was fitted to (another source model|source states of \d+ floats)/,
    );
  });
}

test('a map across the same model is the identity, also between two engines', async () => {
  const pair = await pairFor('llama', 'llama');
  const { record } = await fitted(pair, { targetLayers: 'same' }, { ridge: 0 });
  for (const { r2, cosine } of record.maps) {
    assert.ok(r2.heldOut! > 0.9999 && cosine.heldOut! > 0.9999, `${r2.heldOut} ${cosine.heldOut}`);
  }
});

const bytesOf = (tokenizer: Tokenizer, ids: readonly number[]) =>
  Buffer.concat(ids.map((id) => tokenizer.tokenBytes(id))).toString('latin1');

test('tokens are aligned where both models have read the same text, and all such tokens are', async () => {
  const { source, target } = await pairFor('llama', 'gpt2');
  const uniform = uniforms(3);
  const pieces = [...vocabulary, 'é', '😀', 'x', '  ', '\n', ' '];
  for (let i = 0; i < 50; i++) {
    const written = Array.from({ length: 8 }, () => pieces[Math.floor(uniform() * pieces.length)]).join(
      i % 2 ? ' ' : '',
    );
    const sides = [source, target].map(({ tokenizer }) => ({
      prompt: resolvePrompt(text(written), parsePosition('0'), tokenizer, 'source'),
      tokenizer,
    })) as [Parameters<typeof alignedTokens>[0], Parameters<typeof alignedTokens>[0]];
    // SentencePiece puts <s> and a blank before the text
    const prefixes = sides.map(({ prompt: { tokenIds }, tokenizer }, side) =>
      tokenIds.map((_, k) => {
        const read = bytesOf(tokenizer, tokenIds.slice(side === 0 ? 1 : 0, k + 1));
        return side === 0 ? read.slice(1) : read;
      }),
    );
    const expected = prefixes[0]!.flatMap((read, k) => {
      const match = read === '' ? -1 : prefixes[1]!.indexOf(read);
      return match < 0 || prefixes[0]![k - 1] === read ? [] : [[k, match]];
    });
    assert.deepEqual(alignedTokens(...sides), expected, JSON.stringify(written));
    assert.ok(expected.length > 0);
  }
});

test('where vocabularies differ, tokens are compared by their text', async () => {
  const pair = await pairFor('llama', 'gpt2');
  const mapping = await fitted(pair);
  const { plan, outcomes } = await runOn(pair, experiment({ mapping }));
  const [note] = modelNotes(plan, pair);
  const [, shared, all] = /which (\d+) of the source's (\d+) share/.exec(note!)!;
  assert.ok(Number(shared) > 200 && Number(shared) < Number(all), note);
  const textIn = ({ tokenizer }: Engine, id: number) => bytesOf(tokenizer, [id]);
  const logitsOf = async (tokenIds: readonly number[]) => {
    const [row] = await pair.source.patch([{ tokenIds, edits: [] }], { topK: 1, maxTokens: 1, logits: true });
    assert.ok(row?.status === 'ok');
    return row.steps[0]!;
  };
  const seen = { right: 0, wrong: 0, absent: 0 };
  const inTarget = new Set(
    Array.from({ length: pair.target.tokenizer.vocabularySize }, (_, id) => textIn(pair.target, id)),
  );
  const byTextOfSource = new Map<string, number[]>();
  for (let id = 0; id < pair.source.tokenizer.vocabularySize; id++) {
    const own = textIn(pair.source, id);
    byTextOfSource.set(own, [...(byTextOfSource.get(own) ?? []), id]);
  }
  for (const [i, { scores, steps }] of outcomes.entries()) {
    const { top, logits } = await logitsOf(promptOf(cellAt(plan, i).pair.source).tokenIds);
    const own = textIn(pair.source, top[0]!.tokenId);
    const said = textIn(pair.target, steps[0]![0]!.tokenId);
    if (inTarget.has(own)) {
      assert.equal(scores['precision-at-1'], Number(own === said));
      assert.ok(scores['surprisal-of-own']! >= 0);
      seen[own === said ? 'right' : 'wrong']++;
    } else {
      assert.equal(scores['precision-at-1'], undefined);
      assert.equal(scores['surprisal-of-own'], undefined);
      seen.absent++;
    }
    const same = byTextOfSource.get(said);
    if (same === undefined) assert.equal(scores.surprisal, undefined);
    else {
      const total = Math.log(logits!.reduce((sum, value) => sum + Math.exp(value), 0));
      const expected = total - Math.max(...same.map((id) => logits![id]!));
      assert.ok(Math.abs(scores.surprisal! - expected) < 0.05, `${scores.surprisal} ${expected}`);
    }
  }
  assert.ok(seen.wrong > 0 && seen.right + seen.absent > 0, JSON.stringify(seen));
});

/** `wordTokenizer` with other ids. */
function turned(): Tokenizer {
  const tokenizer = wordTokenizer();
  const last = words.length - 1;
  return {
    ...tokenizer,
    bosToken: last,
    tokenize: (...asked) => tokenizer.tokenize(...asked).map((id) => last - id),
    tokenBytes: (id) => tokenizer.tokenBytes(last - id),
  };
}

test("a target that is the source has the source's text in the target's own tokens", async () => {
  const shape = {
    layerCount: 3,
    sha256: 'a',
    embeddingSize: 4,
    promptTokens: 20,
    batchRows: 8,
    noStreams: null,
  };
  const other = { tokenizer: turned(), record: { ...shape, sha256: 'b' } };
  const source = at(text('a b c a'), '3');
  const planFor = (from: PromptAt, target = other) =>
    makePlan(
      experiment({ samples: [{ name: 'one', source: from, target: at(SAME) }], controls: {}, metrics: [] }),
      wordTokenizer(),
      shape,
      target,
    ).pairs[0]!;
  const same = planFor(source, { ...other, tokenizer: wordTokenizer() });
  const { source: of, target } = planFor(source);
  const from = promptOf(of);
  assert.deepEqual(from.tokenIds.slice(0, 4), same.target.tokenIds);
  assert.equal(target.text, 'a b');
  assert.deepEqual(
    target.tokenIds,
    same.target.tokenIds.map((id) => words.length - 1 - id),
  );
  assert.equal(target.token, from.token);
  await refused(
    () => planFor(at({ kind: 'text', text: 'a', chat: true })),
    /^The target can't be the source up to its position, since .* chat template of its own model: give the target a prompt/,
  );
  await refused(() => planFor(at(text('a b'), '0')), /there is no text up to there/);
  const deaf = { ...turned(), tokenize: () => [2, 2] };
  await refused(() => planFor(source, { ...other, tokenizer: deaf }), /its tokenizer reads "a b" as "bb"/);
});

test('what is not text, or reads none, is refused', async () => {
  const pair = await pairFor('llama', 't5');
  const ids = experiment({
    samples: [{ name: 'ids', source: at({ kind: 'tokens', tokenIds: [5, 6] }), target: at(SAME) }],
  });
  const fit = (what: Experiment) =>
    fitMapping(what, pair.source, join(folder(), 'never.safetensors'), {
      kind: 'scale',
      target: pair.target,
    });
  await refused(
    () => fit({ ...ids, targetSide: 'encoder' }),
    /give source prompts as text, not as token ids/,
  );
  await refused(
    () => fit(experiment()),
    /the decoder of the target model starts from a token .*: take the target side encoder/,
  );
  const apart = { name: 'apart', source: at(text('the cat'), '0'), target: at(SAME) };
  await refused(
    () => fit(experiment({ samples: [apart], targetSide: 'encoder', controls: {} })),
    /The two models never end a token at the same place of a prompt, at any of the 1 positions/,
  );
});

test('models in memory in turn give the bits, and the mapping, that they give together', async () => {
  const [together, inTurn] = [await pairFor('llama', 'gpt2'), await pairFor('llama', 'gpt2', 'in-turn')];
  assert.ok(inTurn.areInTurn && !together.areInTurn);
  const [mapping, again] = [await fitted(together), await fitted(inTurn)];
  assert.deepEqual(readFileSync(again.path), readFileSync(mapping.path));
  const what = experiment({
    mapping,
    samples: Array.from({ length: 200 }, (_, i) => ({
      name: `${i}`,
      source: at(text(`${prompts[i % 40]} ${i}`)),
      target: at(text(TARGET)),
    })),
  });
  const { plan, outcomes } = await runOn(together, what);
  assert.ok(plan.blockStarts.length > 2, 'more than one block');
  const process = await openEngineProcess({
    model: resolved(pathOf('llama')),
    engine: options,
    target: {
      model: { ...resolved(pathOf('gpt2')), sha256: `${pathOf('gpt2')} too` },
      models: 'in-turn',
      folder: folder(),
    },
    states: join(folder(), 'two-states.safetensors'),
  });
  try {
    assert.deepEqual(await process.plan(what), plan);
    assert.deepEqual([process.record.architecture, process.sourceRecord.architecture], ['gpt2', 'llama']);
    const all: Outcome[] = [];
    for (let chunk = 0; chunk < chunkCount(plan); chunk++) {
      if (chunk === 2) {
        const pid = process.pid!;
        globalThis.process.kill(pid, 'SIGKILL');
      }
      all.push(...(await process.run(chunk)));
    }
    assert.deepEqual(all, outcomes, 'also after the process died');
  } finally {
    await process.close();
  }
});

test('a probe learns from the states of the source model, also in turn', async () => {
  const pair = await pairFor('llama', 'gpt2');
  const what = experiment({
    samples: prompts.map((prompt, i) => ({
      ...{ name: `${i}`, source: at(text(prompt)), target: at(SAME) },
      ...{ subject: `${i}`, class: i % 2 ? 'odd' : 'even' },
    })),
    ...{ mapping: await fitted(pair), metrics: [], controls: {}, probe: { folds: 2 } },
  });
  const plan = makePlan(what, pair.source.tokenizer, pair.source.record, pair.target);
  const [expected] = await new GroupProber(plan, pair.source).probe(0, null);
  assert.equal(expected!.predictions.length, 40 * pair.source.record.layerCount);
  const target = { ...resolved(pathOf('gpt2')), sha256: `${pathOf('gpt2')} too` };
  const process = await openEngineProcess({
    model: resolved(pathOf('llama')),
    engine: options,
    target: { model: target, models: 'in-turn', folder: folder() },
  });
  try {
    await process.plan(what);
    assert.deepEqual(await process.probe(0, null), [expected]);
  } finally {
    await process.close();
  }
});

const command = fileURLToPath(new URL('../dist/cli.js', import.meta.url));

function cli(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [command, ...args, '-t', '1', '--gpu', 'off'],
    {
      cwd: folder(),
      encoding: 'utf8',
      timeout: 120_000,
      killSignal: 'SIGKILL',
    },
  );
  return { code: status, stdout, stderr };
}

test('from the command line: a fit, a run and the models in its results, and a patch', () => {
  const [source, target] = [pathOf('llama'), pathOf('gpt2')];
  const file = join(folder(), 'cross.json');
  writeFileSync(
    file,
    JSON.stringify({
      name: 'cross',
      model: { source, target },
      samples: prompts.map((prompt) => ({ prompt })),
      source: { prompt: '{prompt}', position: -1, layers: 'all' },
      target: { prompt: { same: 'source' }, position: -1, layers: '0,2' },
      metrics: ['precision-at-1', 'surprisal'],
    }),
  );
  const none = cli('run', 'cross.json', '--no-db');
  assert.equal(none.code, 2);
  assert.match(none.stderr, /patchscopes fit with the same two models makes a file/);
  const fit = cli('fit', 'cross.json', '-o', 'cross.safetensors', '--all-positions', '--ridge', '0.01');
  assert.equal(fit.code, 0, fit.stderr);
  const run = (...more: string[]) => cli('run', 'cross.json', '--set', 'mapping=cross.safetensors', ...more);
  const whole = run('--db', 'whole.db');
  assert.equal(whole.code, 0, whole.stderr);
  const turns = run('--db', 'turns.db', '--models', 'in-turn');
  assert.equal(turns.code, 0, turns.stderr);
  const db = (name: string) => join(folder(), name);
  assert.deepEqual(dumpResults(db('turns.db')), dumpResults(db('whole.db')));
  assert.deepEqual(
    query(
      db('whole.db'),
      'SELECT source_model.architecture, target_model.architecture FROM run JOIN model AS source_model ON source_model.id = source_model_id JOIN model AS target_model ON target_model.id = target_model_id',
    ).rows,
    [['llama', 'gpt2']],
  );
  assert.deepEqual(
    query(
      db('whole.db'),
      'SELECT count(*) FROM token_score JOIN observation ON observation.id = observation_id JOIN run ON run.id = run_id LEFT JOIN token ON model_id = target_model_id AND token.token_id = token_score.token_id WHERE token.text IS NULL',
    ).rows,
    [[0]],
    'each token that was read has its text',
  );
  const other = cli(
    'run',
    'cross.json',
    '--set',
    'mapping=cross.safetensors',
    '--target-model',
    source,
    '--no-db',
  );
  assert.match(other.stderr, /was fitted to target states of 32 floats/);
  const patch = cli(
    ...[
      'patch',
      '-m',
      source,
      '--target-model',
      target,
      '--mapping',
      'cross.safetensors',
      '--no-db',
      '--json',
    ],
    ...['--source', 'the cat', '--source-position', '-1', '--source-layer', '1'],
    ...['--target', 'the dog', '--target-position', '-1', '--target-layer', '2'],
  );
  assert.equal(patch.code, 0, patch.stderr);
  assert.equal(JSON.parse(patch.stdout).target_layer, 2);
});

/** A killed run of an experiment, gone on with, and one that was let be, each with its own folder of mappings. */
async function killedAndWhole(file: string, how: { readonly whole: string[]; readonly broken: string[] }) {
  const name = basename(file, '.json');
  const [whole, broken] = ['whole', 'broken'].map((which) => join(folder(), `${name}-${which}`, 'two.db'));
  const asked = (db: string | undefined, more: string[]) => ['run', file, '--db', db!, ...more];
  const done = cli(...asked(whole, how.whole));
  assert.equal(done.code, 0, done.stderr);
  const chunks = () =>
    existsSync(broken!) && query(broken!, "SELECT 1 FROM sqlite_schema WHERE name = 'chunk'").rows.length > 0
      ? (query(broken!, 'SELECT count(*) FROM chunk').rows[0]![0] as number)
      : 0;
  const child = spawn(process.execPath, [command, ...asked(broken, how.broken), '-t', '1', '--gpu', 'off'], {
    stdio: 'ignore',
  });
  while (chunks() === 0) await sleep(5);
  child.kill('SIGKILL');
  await once(child, 'close');
  assert.ok(chunks() < (query(whole!, 'SELECT chunks_planned FROM run').rows[0]![0] as number));
  return {
    whole: whole!,
    broken: broken!,
    resume: (...more: string[]) => cli(...asked(broken, [...more, '--resume', '1'])),
  };
}

test('a run between two models that was killed goes on to the same results, with the same two models', async () => {
  const [source, target, other] = [pathOf('llama'), pathOf('gptneox-sequential'), pathOf('gemma3')];
  const file = join(folder(), 'killed.json');
  writeFileSync(
    file,
    JSON.stringify({
      name: 'killed',
      samples: Array.from({ length: 150 }, (_, i) => ({
        prompt: `${prompts[i % 40]} ${'abcdefghij'[i % 10]}${i}`,
      })),
      source: { prompt: '{prompt}', position: -1, layers: 'all' },
      target: { prompt: { same: 'source' }, position: -1, layers: 'all' },
      metrics: ['precision-at-1'],
    }),
  );
  const two = ['-m', source, '--target-model', target];
  const { whole, broken, resume } = await killedAndWhole(file, {
    whole: two,
    broken: [...two, '--models', 'in-turn'],
  });
  const wrong = resume('-m', source, '--target-model', other);
  assert.equal(wrong.code, 2);
  assert.match(wrong.stderr, /the target model was .* and is /);
  assert.match(resume('-m', other, '--target-model', target).stderr, /the source model was .* and is /);
  const rest = resume(...two);
  assert.equal(rest.code, 0, rest.stderr);
  assert.deepEqual(dumpResults(broken), dumpResults(whole));
});

test('a run that fits its own mapping between two widths goes on after it was killed, to the same bits', async () => {
  const file = join(folder(), 'own-map.json');
  const lines = (begin: number, count: number) =>
    Array.from({ length: count }, (_, i) => ({
      prompt: `${prompts[(begin + i) % 40]} ${'abcdefghij'[i % 10]}${begin + i}`,
    }));
  writeFileSync(
    file,
    JSON.stringify({
      name: 'own-map',
      model: { source: pathOf('llama'), target: pathOf('gpt2') },
      samples: lines(0, 150),
      source: { prompt: '{prompt}', position: -1, layers: 'all' },
      target: { prompt: { same: 'source' }, position: -1, layers: '0,2' },
      mapping: { positions: 'all', ridge: 0.01, samples: lines(150, 30) },
      variants: [
        { name: 'same' },
        { name: 'other', target: { prompt: TARGET } },
        { name: 'alone', edit: { op: 'scale' }, mapping: 'identity' },
      ],
      metrics: ['precision-at-1', 'surprisal'],
      controls: { shuffled: 1, unpatched: true, repeat: 2 },
    }),
  );
  const dry = cli('run', file, '--db', join(folder(), 'own-map-whole', 'two.db'), '--dry-run', '--json');
  assert.equal(dry.code, 0, dry.stderr);
  const { planSha256, mappings } = JSON.parse(dry.stdout);
  assert.deepEqual([planSha256, mappings.length, mappings[0].file], [null, 2, mappings[1].file]);
  const { whole, broken, resume } = await killedAndWhole(file, {
    whole: [],
    broken: ['--models', 'in-turn'],
  });
  const map = (db: string) => join(dirname(db), 'mappings', basename(mappings[0].file));
  const { mtimeMs } = statSync(map(broken));
  const rest = resume('--models', 'in-turn');
  assert.equal(rest.code, 0, rest.stderr);
  assert.deepEqual(readdirSync(dirname(map(broken))), [basename(mappings[0].file)]);
  assert.equal(statSync(map(broken)).mtimeMs, mtimeMs, 'what was fitted is not fitted again');
  assert.deepEqual(readFileSync(map(broken)), readFileSync(map(whole)));
  assert.deepEqual(dumpResults(broken), dumpResults(whole));
  const count = (what: string) => query(whole, `SELECT count(*) FROM ${what}`).rows[0]![0] as number;
  assert.ok(count('observation WHERE norm_ratio IS NOT NULL') > 150 * 3 * 2 * 2);
  assert.ok(count('observation WHERE differs = 0') > 0);
  assert.equal(count('observation WHERE differs = 1'), 0);
});

for (const kind of ['linear', 'low-rank', 'kernel', 'mlp'] as const) {
  test(`a map of kind ${kind} is fitted and used between two widths, and no other pair of models shares it`, async () => {
    const own = join(folder(), `own-${kind}`);
    const unfitted: Mapping = {
      kind: 'unfitted',
      fit: {
        kind,
        positions: 'all',
        ...(kind !== 'mlp' && { ridge: 1e-3 }),
        ...(kind === 'low-rank' && { options: { rank: 5 } }),
        ...(kind === 'kernel' && { options: { features: 40 } }),
        ...(kind === 'mlp' && { options: { hidden: 20, epochs: 5 } }),
      },
      prompts: prompts.slice(12).map((prompt) => at(text(prompt))),
    };
    for (const [i, to] of (['gpt2', 'gemma3'] as const).entries()) {
      const pair = await pairFor('llama', to);
      const { source, target } = pair;
      const ready = await fitMappings(experiment({ mapping: unfitted, metrics: [] }), source, {
        ...{ folder: own, target },
      });
      assert.equal(readdirSync(own).length, i + 1);
      const { plan, outcomes } = await runOn(pair, ready);
      const read = outcomes.filter((_, i) => cellAt(plan, i).control === 'none');
      assert.ok(read.every(({ normRatio }) => normRatio! > 0));
    }
  });
}
