/** The command as its users meet it: what it prints where, what it keeps, how it refuses, with which exit code. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { query } from '../src/store/query.js';
import { t5 } from './fixtures/architectures/t5.js';
import { type Gguf, scalar, tensor, writeGguf } from './fixtures/gguf.js';
import { tinyModel } from './fixtures/models.js';
import { assertSentence, folder, realModel, tinyPath, writeFile } from './support.js';

const command = fileURLToPath(new URL('../dist/cli.js', import.meta.url));
const world = fileURLToPath(new URL('world/world.gguf', import.meta.url));
const env = { ...process.env, PATCHSCOPES_CACHE: join(folder(), 'cache') };

interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

const temporaryFolder = () => mkdtempSync(join(folder(), 'cli-'));

function cli(args: readonly string[], cwd = temporaryFolder(), environment: NodeJS.ProcessEnv = env): Ended {
  const { status, stdout, stderr } = spawnSync(process.execPath, [command, ...args], {
    cwd,
    env: environment,
    encoding: 'utf8',
    timeout: 20_000,
    killSignal: 'SIGKILL',
    maxBuffer: 1e8,
  });
  return { code: status, stdout, stderr };
}

type Options = Readonly<Record<string, string | true | undefined>>;

/** `true` for a switch; `undefined` takes an option away. */
function words(options: Options): string[] {
  return Object.entries(options).flatMap(([name, value]) =>
    value === undefined ? [] : value === true ? [name] : [name, value],
  );
}

/** In which city does the person live of whom the known-answers model read? */
const question: Options = {
  '-m': world,
  '-t': '1',
  '--source': 'i saw paul quill',
  '--source-position': '-1',
  '--source-layer': '0',
  '--target': 'the city of x is',
  '--target-position': 'x',
  '--target-layer': '0',
};
const truth = ' bergen';

const patchWords = (options: Options = {}) => ['patch', ...words({ ...question, ...options })];
const lensWords = (options: Options = {}) => [
  'lens',
  ...words({ '-m': world, '-t': '1', '--prompt': 'the city of paul quill is', ...options }),
];

interface Score {
  readonly token_id: number;
  readonly token: string;
  readonly logprob: number;
}

interface PatchCell {
  readonly source_site: string;
  readonly source_layer: number | 'embed';
  readonly target_site: string;
  readonly target_layer: number | 'embed';
  readonly op: string;
  readonly alpha: number;
  readonly source_position: number;
  readonly source_token: string;
  readonly target_position: number;
  readonly target_token: string;
  readonly text: string | null;
  readonly token_ids: readonly number[];
  readonly tokens: readonly string[];
  readonly logprobs: readonly number[];
  readonly ranks: readonly number[];
  readonly top: readonly Score[];
  readonly status: 'ok' | 'failed';
  readonly error: string | null;
}

interface LensCell {
  readonly layer: number | 'embed';
  readonly position: number;
  readonly prompt_token: string;
  readonly top: readonly Score[];
}

const lines = (text: string) => text.split('\n').slice(0, -1);
const parsed = <T>(text: string): T[] => lines(text).map((line) => JSON.parse(line) as T);

/** Cells of a `patch` that must be well; nothing is stored unless `--db` is among the options. */
function cells(options: Options = {}, cwd?: string): PatchCell[] {
  const { code, stdout, stderr } = cli(
    patchWords({ '--no-db': '--db' in options ? undefined : true, '--json': true, ...options }),
    cwd,
  );
  assert.equal(code, 0, stderr);
  return parsed(stdout);
}

const cell = (options: Options = {}) => cells(options)[0]!;

/** Rows of a results file. */
function sql<T = Record<string, unknown>>(
  cwd: string,
  statement: string,
  db = 'results/patchscopes.db',
): T[] {
  const { columns, rows } = query(join(cwd, db), statement);
  return rows.map((row) => Object.fromEntries(row.map((value, i) => [columns[i], value])) as T);
}

/** Says in one sentence what was wrong, has done nothing and has kept nothing. */
function assertBadInput(args: readonly string[], says: RegExp, cwd = temporaryFolder()): void {
  const before = readdirSync(cwd);
  const { code, stdout, stderr } = cli(args, cwd);
  assert.equal(code, 2, `exit code ${code}, ${stderr}`);
  assert.equal(stdout, '');
  const [message = '', ...others] = lines(stderr).filter(
    (line) => !/^(model|source|target|layers) {2}/.test(line),
  );
  assert.deepEqual(others, [], 'one line');
  assert.match(message, says);
  assert.match(message, /^patchscopes: /);
  assertSentence(message);
  assert.deepEqual(readdirSync(cwd), before, 'nothing is written');
}

/** The tiny `llama` model with other tensors. */
function tinyVariant(name: string, change: (model: Gguf) => Gguf): string {
  const path = join(folder(), name);
  return existsSync(path) ? path : writeFile(name, writeGguf(change(tinyModel('llama'))));
}

/** Whatever goes through block 2 becomes NaN; a state that is patched in behind the last block does not. */
const brokenBlock = () =>
  tinyVariant('broken-block.gguf', ({ metadata, tensors }) => ({
    metadata,
    tensors: tensors.map((each) =>
      each.name === 'blk.2.ffn_norm.weight'
        ? tensor(each.name, each.shape, new Float32Array(64).fill(Number.NaN))
        : each,
    ),
  }));

/** Forty blocks: more cells than are computed at once. */
const deepModel = () =>
  tinyVariant('deep.gguf', ({ metadata, tensors }) => {
    const block = tensors.filter(({ name }) => name.startsWith('blk.0.'));
    const blocks = Array.from({ length: 40 }, (_, i) =>
      block.map((each) => ({ ...each, name: each.name.replace('blk.0.', `blk.${i}.`) })),
    );
    return {
      metadata: new Map([...metadata, ['llama.block_count', scalar('u32', blocks.length)]]),
      tensors: [...tensors.filter(({ name }) => !name.startsWith('blk.')), ...blocks.flat()],
    };
  });

// --- patch: cells

test('patch --json: a cell has the keys and types that are promised, in one line', () => {
  const [first, ...others] = cells({ '--source-layer': 'embed,-1', '--target-layer': 'same' });
  assert.equal(others.length, 1);
  assert.deepEqual(Object.keys(first!), [
    'source_site',
    'source_layer',
    'target_site',
    'target_layer',
    'op',
    'alpha',
    'source_position',
    'source_token',
    'target_position',
    'target_token',
    'text',
    'token_ids',
    'tokens',
    'logprobs',
    'ranks',
    'top',
    'status',
    'error',
  ]);
  assert.equal(first!.source_layer, 'embed');
  assert.equal(first!.target_layer, 'embed');
  assert.equal(others[0]!.source_layer, 5);
  assert.equal(others[0]!.target_layer, 5);
  assert.equal(first!.source_position, 4);
  assert.equal(first!.source_token, ' quill');
  assert.equal(first!.target_position, 4);
  assert.equal(first!.target_token, ' x');
  assert.equal(typeof first!.text, 'string');
  assert.ok(first!.token_ids.every(Number.isInteger));
  assert.equal(first!.status, 'ok');
  assert.equal(first!.error, null);
  for (const score of first!.top) {
    assert.deepEqual(Object.keys(score), ['token_id', 'token', 'logprob']);
    assert.ok(Number.isInteger(score.token_id) && typeof score.token === 'string' && score.logprob <= 0);
  }
});

test('patch: the known answer is read, one token of it and the five most probable, unless told otherwise', () => {
  const { text, token_ids, top } = cell();
  assert.equal(text, truth);
  assert.equal(token_ids.length, 1);
  assert.equal(top.length, 5);
  assert.deepEqual([top[0]!.token, top[0]!.token_id], [truth, token_ids[0]]);
  const logprobs = top.map(({ logprob }) => logprob);
  assert.deepEqual(
    logprobs,
    logprobs.toSorted((a, b) => b - a),
  );
});

test('-n generates so many tokens, whose text is text, the first being the most probable of top', () => {
  const { text, token_ids, top } = cell({ '-n': '3', '--top': '2' });
  assert.equal(text, `${truth} . the`);
  assert.equal(token_ids.length, 3);
  assert.equal(token_ids[0], top[0]!.token_id);
  assert.equal(top.length, 2);
});

test('each generated token has its text and its rank, and together they are the text', () => {
  const { text, tokens, token_ids, ranks } = cell({ '-n': '3' });
  assert.equal(tokens.join(''), text);
  assert.deepEqual([tokens.length, ranks], [token_ids.length, [0, 0, 0]]);
});

test('--continuation scores the tokens of a text: of the text that would be generated, as they were generated', () => {
  const layers = { '--source-layer': 'embed,0,5', '--target-layer': 'same' };
  for (const made of cells({ ...layers, '-n': '3' })) {
    const own = { '--source-layer': String(made.source_layer), '--target-layer': 'same' };
    const [scored] = cells({ ...own, '--continuation': made.text! });
    assert.deepEqual(
      [scored!.token_ids, scored!.tokens, scored!.ranks, scored!.text],
      [made.token_ids, made.tokens, [0, 0, 0], made.text],
    );
    scored!.logprobs.forEach((logprob, i) => {
      assert.ok(Math.abs(logprob - made.logprobs[i]!) < 1e-3, `${made.source_layer} token ${i}`);
    });
  }
});

test('--continuation: each token is scored behind those before it, however improbable, and is kept', () => {
  const cwd = temporaryFolder();
  const [other] = cells({ '--continuation': ' oslo is', '--top': '2', '--db': 'x.db' }, cwd);
  assert.deepEqual(other!.tokens, [' oslo', ' is']);
  assert.ok(other!.ranks[0]! > 2);
  const { top } = cell({ '--top': '971' });
  const first = top.find(({ token }) => token === ' oslo')!;
  assert.ok(Math.abs(first.logprob - other!.logprobs[0]!) < 1e-3);
  assert.equal(top.indexOf(first), other!.ranks[0]);
  const behind = cell({ '--target': 'the city of x is oslo', '--top': '971' }).top;
  const second = behind.find(({ token }) => token === ' is')!;
  assert.ok(Math.abs(second.logprob - other!.logprobs[1]!) < 1e-2);

  const [{ reading }] = sql<{ reading: string }>(cwd, 'SELECT reading FROM run', 'x.db') as [
    { reading: string },
  ];
  const { continuation, continuationTokenIds } = JSON.parse(reading);
  assert.deepEqual([continuation, continuationTokenIds], [' oslo is', other!.token_ids]);
  const kept = sql(cwd, 'SELECT step, rank, logprob FROM token_score WHERE rank > 1 ORDER BY step', 'x.db');
  assert.deepEqual(kept[0], { step: 0, rank: other!.ranks[0], logprob: other!.logprobs[0] });
  assert.deepEqual(sql(cwd, 'SELECT text, token_ids FROM observation', 'x.db'), [
    { text: ' oslo is', token_ids: JSON.stringify(other!.token_ids) },
  ]);
});

test('--continuation prints what is scored, and a table with log-probability, probabilities and ranks', () => {
  const asked = { '--continuation': ' bergen .', '--source-layer': '0,5', '--target-layer': 'same' };
  const { code, stdout, stderr } = cli(patchWords({ ...asked, '--no-db': true }));
  assert.equal(code, 0, stderr);
  assert.match(stderr, /^scored {2}" bergen" " \."$/m);
  const [head, ...rows] = lines(stdout);
  assert.match(
    head!,
    /^source layer +target layer +log-probability +its tokens, rank 0 being the most probable$/,
  );
  const scored = cells(asked);
  assert.equal(rows.length, scored.length);
  for (const [i, { source_layer, logprobs, ranks }] of scored.entries()) {
    const [, layer, total, first, second] =
      /^ *(\d) +\d +(-?[\d.]+) +" bergen" [\d.]+% rank (\d+) {2}" \." [\d.]+% rank (\d+)$/.exec(rows[i]!)!;
    assert.deepEqual([Number(layer), Number(first), Number(second)], [source_layer, ...ranks]);
    assert.equal(total, logprobs.reduce((sum, logprob) => sum + logprob, 0).toFixed(3));
  }
});

test('--top beyond the vocabulary gives all of it, and its probabilities make 1', () => {
  const { top } = cell({ '--top': '100000' });
  assert.equal(top.length, 971);
  assert.ok(Math.abs(top.reduce((sum, { logprob }) => sum + Math.exp(logprob), 0) - 1) < 1e-4);
});

// --- patch: layers

const selectors: [selector: string, layers: readonly (number | 'embed')[]][] = [
  ['3', [3]],
  ['-1', [5]],
  ['-6', [0]],
  ['0..2', [0, 1, 2]],
  ['-2..-1', [4, 5]],
  ['embed', ['embed']],
  ['embed,0..2,-1', ['embed', 0, 1, 2, 5]],
  ['4, 2, 4', [4, 2]],
  ['all', [0, 1, 2, 3, 4, 5]],
  ['embed,all', ['embed', 0, 1, 2, 3, 4, 5]],
];

for (const [selector, layers] of selectors) {
  test(`the layers '${selector}' of six are ${layers.join(' ')}, whether given for the source or for the target`, () => {
    const targets = cells({ '--target-layer': selector }).map(({ target_layer }) => target_layer);
    assert.deepEqual(targets, layers);
    const same = cells({ '--source-layer': selector, '--target-layer': 'same' });
    assert.deepEqual(
      same.map(({ source_layer, target_layer }) => [source_layer, target_layer]),
      layers.map((layer) => [layer, layer]),
    );
  });
}

test('cells are all pairs of layers, each once; same is their diagonal', () => {
  const layers = ['embed', 0, 1, 5];
  const all = cells({ '--source-layer': 'embed,0,1,5', '--target-layer': 'embed,0,1,5' });
  const key = ({ source_layer, target_layer }: PatchCell) => `${source_layer} ${target_layer}`;
  assert.deepEqual(
    all.map(key).sort(),
    layers.flatMap((source) => layers.map((target) => `${source} ${target}`)).sort(),
  );
  for (const one of cells({ '--source-layer': 'embed,0,1,5', '--target-layer': 'same' })) {
    const other = all.find((each) => key(each) === key(one))!;
    assert.deepEqual(one.token_ids, other.token_ids);
    assert.ok(Math.abs(one.top[0]!.logprob - other.top[0]!.logprob) < 1e-3, key(one));
  }
});

// --- patch: prompts and positions

const positions: [prompt: string, position: string, index: number, token: string][] = [
  ['i saw paul quill', '0', 0, '<s>'],
  ['i saw paul quill', '4', 4, ' quill'],
  ['i saw paul quill', '-1', 4, ' quill'],
  ['i saw paul quill', '-5', 0, '<s>'],
  ['i saw paul quill', 'paul', 3, ' paul'],
  ['i saw paul quill', 'saw paul', 3, ' paul'],
  ['i saw paul quill', 'au', 3, ' paul'],
  ['cat -> cat ; x', 'cat#1', 1, ' cat'],
  ['cat -> cat ; x', 'cat#2', 3, ' cat'],
];

for (const [prompt, position, index, token] of positions) {
  test(`the position '${position}' of '${prompt}' is token ${index}, for source and target, and is echoed`, () => {
    const { code, stdout, stderr } = cli(
      patchWords({
        '--source': prompt,
        '--source-position': position,
        '--target': prompt,
        '--target-position': position,
        '--json': true,
        '--no-db': true,
      }),
    );
    assert.equal(code, 0, stderr);
    const [read] = parsed<PatchCell>(stdout);
    assert.deepEqual([read!.source_position, read!.source_token], [index, token]);
    assert.deepEqual([read!.target_position, read!.target_token], [index, token]);
    for (const which of ['source', 'target']) {
      assert.match(stderr, new RegExp(`^${which} +position ${index} of \\d+: "${token}"$`, 'm'));
    }
  });
}

/** What the tokens of the only run were. */
function promptsOf(options: Options) {
  const cwd = temporaryFolder();
  const [read] = cells({ '--db': 'x.db', ...options }, cwd);
  const [sample] = sql<Record<'source' | 'target', string> & { text: string | null }>(
    cwd,
    'SELECT source_token_ids AS source, target_token_ids AS target, source_prompt AS text FROM pair',
    'x.db',
  );
  const ids = (text: string) => JSON.parse(text) as number[];
  return { read: read!, source: ids(sample!.source), target: ids(sample!.target), text: sample!.text };
}

test('--source-ids and --target-ids are used as they are', () => {
  const { source, target, read } = promptsOf({});
  const given = promptsOf({
    '--source': undefined,
    '--target': undefined,
    '--source-ids': source.join(','),
    '--target-ids': target.join(' '),
    '--target-position': '4',
  });
  assert.deepEqual([given.source, given.target, given.text], [source, target, null]);
  assert.deepEqual(given.read, read);
  const bare = promptsOf({ '--source': undefined, '--source-ids': String(source.at(-1)) });
  assert.deepEqual(bare.source, source.slice(-1), 'no token is put in front');
  assert.equal(bare.read.source_position, 0);
});

test('--no-bos leaves out the first token, in source and target', () => {
  const { source, target } = promptsOf({});
  const without = promptsOf({ '--no-bos': true });
  assert.deepEqual([without.source, without.target], [source.slice(1), target.slice(1)]);
  assert.equal(without.read.source_position, 3);
});

test('special tokens in text are plain text unless --special', () => {
  const plain = promptsOf({ '--source': 'paul</s>' });
  assert.equal(plain.read.source_token, '>');
  const special = promptsOf({ '--source': 'paul</s>', '--special': true });
  assert.equal(special.read.source_token, '</s>');
  assert.equal(special.source.length, 3);
});

test("--chat wraps texts in the model's own template", { skip: realModel.skip }, () => {
  const model = { '-m': realModel.path(), '--target-position': '-1' };
  const { source } = promptsOf({ ...model, '--chat': true, '--source': 'Hi!' });
  const turn = '<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n';
  const system =
    '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n';
  const written = promptsOf({ ...model, '--special': true, '--source': `${system}${turn}` });
  assert.deepEqual(source, written.source);
});

for (const prompt of ['日本語 🦄', 'two\nlines\tand a tab', '-1', '--json', ' ', `it's "so"`]) {
  test(`the prompt ${JSON.stringify(prompt)} is taken as it is`, () => {
    const cwd = temporaryFolder();
    cells({ '--source': prompt, '--db': 'x.db' }, cwd);
    const [sample] = sql(cwd, 'SELECT sample, source_prompt FROM pair', 'x.db');
    assert.deepEqual(sample, { sample: prompt, source_prompt: prompt });
  });
}

test('quotation marks around a prompt belong to it', () => {
  const cwd = temporaryFolder();
  cells({ '--source': '"quoted"', '--db': 'x.db' }, cwd);
  assert.deepEqual(sql(cwd, 'SELECT source_prompt FROM pair', 'x.db'), [{ source_prompt: '"quoted"' }]);
});

// --- what is printed where

test('only data on stdout: a table, or with --json an object a line; echo and log on stderr', () => {
  const table = cli(patchWords({ '--source-layer': 'embed,0', '-n': '2', '--no-db': true }));
  assert.equal(table.code, 0, table.stderr);
  const [head, ...rows] = lines(table.stdout);
  assert.match(head!, /^source layer +target layer +text +most probable next tokens$/);
  assert.equal(rows.length, 2);
  assert.match(rows[0]!, /^embed +0 +" \S+ \S+" +" bergen" \d+\.\d%/);
  assert.match(rows[1]!, /^ *0 +0 +" bergen \." +" bergen" 100\.0%/);
  assert.match(
    table.stderr,
    /^model +\S+world\.gguf: patchscopes test world F16, 6 layers, on CPU \(llama\.cpp .*-t 1\)$/m,
  );
  assert.match(table.stderr, /^source +position 4 of 5: " quill"$/m);
  assert.match(table.stderr, /^target +position 4 of 6: " x"$/m);
  assert.match(
    table.stderr,
    /^layers +l is the output of block l, counted from 0; embed is the input of block 0$/m,
  );
});

test('lens --json: an object for each layer and position', () => {
  const { code, stdout, stderr } = cli(lensWords({ '--json': true, '--no-db': true, '--top': '2' }));
  assert.equal(code, 0, stderr);
  const read = parsed<LensCell>(stdout);
  assert.equal(read.length, 6 * 7);
  for (const each of read) {
    assert.deepEqual(Object.keys(each).slice(0, 5), ['site', 'layer', 'position', 'prompt_token', 'top']);
    assert.equal(each.top.length, 2);
    assert.deepEqual(Object.keys(each.top[0]!), ['token_id', 'token', 'logprob']);
  }
  assert.equal(new Set(read.map(({ layer, position }) => `${layer} ${position}`)).size, read.length);
  const last = read.find(({ layer, position }) => layer === 5 && position === 6)!;
  assert.deepEqual([last.prompt_token, last.top[0]!.token], [' is', truth]);
});

test('lens: layers are chosen as in patch, the prompt may be raw ids, and the table is by position', () => {
  const { source } = promptsOf({});
  const { code, stdout, stderr } = cli(
    lensWords({
      '--prompt': undefined,
      '--prompt-ids': source.join(),
      '--layer': 'embed,-1',
      '--no-db': true,
    }),
  );
  assert.equal(code, 0, stderr);
  const [head, ...rows] = lines(stdout);
  assert.match(head!, /^position +prompt token +layer +most probable next tokens$/);
  assert.deepEqual(
    rows.map((row) => row.trim().split(/ {2,}/).slice(0, 3)),
    ['<s>', ' i', ' saw', ' paul', ' quill'].flatMap((token, i) =>
      ['embed', '5'].map((layer) => [String(i), JSON.stringify(token), layer]),
    ),
  );
});

// --- what is kept

test('results go to results/patchscopes.db, run after run; --db names another file, --no-db none', () => {
  const cwd = temporaryFolder();
  cli(patchWords({ '--no-db': true }), cwd);
  assert.deepEqual(readdirSync(cwd), []);
  cli(patchWords(), cwd);
  cli(lensWords(), cwd);
  assert.deepEqual(readdirSync(cwd), ['results']);
  assert.deepEqual(sql(cwd, 'SELECT run_name, status, cells_planned, cells_stored FROM run_summary'), [
    { run_name: 'patch', status: 'done', cells_planned: 1, cells_stored: 1 },
    { run_name: 'logit-lens', status: 'done', cells_planned: 42, cells_stored: 42 },
  ]);
  cli(patchWords({ '--db': join('a', 'b.db') }), cwd);
  assert.equal(sql(cwd, 'SELECT * FROM run', join('a', 'b.db')).length, 1);
});

test('the tables hold what patch printed', () => {
  const cwd = temporaryFolder();
  const printed = cells(
    { '--source-layer': 'embed,0,-1', '--target-layer': 'embed,1', '-n': '3', '--top': '4', '--db': 'x.db' },
    cwd,
  );
  const layer = (number: unknown) => (number === -1 ? 'embed' : number);
  const observations = sql(
    cwd,
    'SELECT reading.*, token_ids FROM reading JOIN observation ON id = observation_id ORDER BY id',
    'x.db',
  );
  const scores = sql<Score & { observation_id: number }>(
    cwd,
    `SELECT observation_id, token_score.token_id, token.text AS token, logprob FROM token_score
     JOIN token ON token.token_id = token_score.token_id WHERE step = 0 ORDER BY observation_id, rank`,
    'x.db',
  );
  const chosen = sql<Score & { observation_id: number; rank: number }>(
    cwd,
    `SELECT observation_id, logprob, rank, token.text AS token FROM token_score
     JOIN token ON token.token_id = token_score.token_id WHERE rank = 0 ORDER BY observation_id, step`,
    'x.db',
  );
  const kept = observations.map((row) => {
    const own = chosen.filter(({ observation_id }) => observation_id === row.observation_id);
    return {
      source_site: row.source_site,
      source_layer: layer(row.source_layer),
      target_site: row.site,
      target_layer: layer(row.target_layer),
      op: row.op,
      alpha: row.alpha,
      source_position: row.source_position,
      source_token: row.source_token,
      target_position: row.target_position,
      target_token: row.target_token,
      text: row.text,
      token_ids: JSON.parse(String(row.token_ids)),
      tokens: own.map(({ token }) => token),
      logprobs: own.map(({ logprob }) => logprob),
      ranks: own.map(({ rank }) => rank),
      top: scores
        .filter(({ observation_id }) => observation_id === row.observation_id)
        .map(({ token_id, token, logprob }) => ({ token_id, token, logprob })),
      status: row.status,
      error: row.error,
    };
  });
  assert.deepEqual(kept, printed);
  assert.equal(
    sql(cwd, 'SELECT DISTINCT step FROM token_score', 'x.db').length,
    3,
    'each token read has scores',
  );
  const [sample] = sql(cwd, 'SELECT source_prompt, target_prompt FROM pair', 'x.db');
  assert.deepEqual(sample, { source_prompt: question['--source'], target_prompt: question['--target'] });
  const [model] = sql(cwd, 'SELECT path, architecture, layers, width, vocabulary FROM model', 'x.db');
  assert.deepEqual(model, { path: world, architecture: 'llama', layers: 6, width: 128, vocabulary: 971 });
});

test('the tables hold what lens printed', () => {
  const cwd = temporaryFolder();
  const { stdout } = cli(lensWords({ '--layer': '0,-1', '--top': '1', '--json': true }), cwd);
  const kept = sql(
    cwd,
    'SELECT source_layer, source_position, source_token, top_token, top_probability FROM reading ORDER BY observation_id',
  );
  assert.deepEqual(
    kept,
    parsed<LensCell>(stdout).map(({ layer, position, prompt_token, top: [best] }) => ({
      source_layer: layer,
      source_position: position,
      source_token: prompt_token,
      top_token: best!.token,
      top_probability: Math.exp(best!.logprob),
    })),
  );
});

test('the command of a run, as it was kept, can be given to a shell and prints the same', () => {
  const cwd = temporaryFolder();
  const first = cells({ '--source': `it's $HOME "or"\nnot`, '-n': '2', '--db': 'x.db' }, cwd);
  const [run] = sql<{ command: string }>(cwd, 'SELECT command FROM run', 'x.db');
  const again = spawnSync(
    'sh',
    ['-c', `patchscopes() { '${process.execPath}' '${command}' "$@"; }\n${run!.command}`],
    { cwd, env, encoding: 'utf8' },
  );
  assert.equal(again.status, 0, again.stderr);
  assert.deepEqual(parsed(again.stdout), first);
});

test("llama.cpp's spellings mean what they mean there, and the run's row says so", () => {
  const cwd = temporaryFolder();
  const columns = 'gpu_layers, threads, flash_attention, type_k, type_v, seed, exact';
  const rowOf = (options: Options) => {
    cells({ ...options, '--db': 'x.db' }, cwd);
    return sql(cwd, `SELECT ${columns} FROM run ORDER BY id DESC LIMIT 1`, 'x.db')[0];
  };
  const usual = {
    gpu_layers: 0,
    threads: 1,
    flash_attention: 1,
    type_k: 'f16',
    type_v: 'f16',
    seed: 0,
    exact: 0,
  };
  const short = {
    '-ngl': '0',
    '-fa': 'off',
    '-ctk': 'f32',
    '-ctv': 'f32',
    '-s': '7',
    '-c': '100',
    '-n': '1',
  };
  const long = {
    '-m': undefined,
    '--model': world,
    '-t': undefined,
    '--threads': '1',
    '--gpu-layers': '0',
    '--flash-attn': 'off',
    '--cache-type-k': 'f32',
    '--cache-type-v': 'f32',
    '--seed': '7',
    '--ctx-size': '100',
    '--predict': '1',
  };
  const changed = { ...usual, flash_attention: 0, type_k: 'f32', type_v: 'f32', seed: 7 };
  assert.deepEqual(rowOf({}), usual);
  assert.deepEqual(rowOf(short), changed);
  assert.deepEqual(rowOf(long), changed);
  assert.deepEqual(rowOf({ '-fa': 'on', '-ctk': 'q8_0' }), { ...usual, type_k: 'q8_0' });
  assert.deepEqual(rowOf({ '--exact': true }), { ...usual, exact: 1 });
});

test('-c is the size of the context: five tokens fit in five and not in four', () => {
  const bare = { '--target-ids': '1', '--target': undefined, '--target-position': '0' };
  cell({ '-c': '5', ...bare });
  assertBadInput(
    patchWords({ '-c': '4', ...bare }),
    /source prompt needs 5 tokens where the context holds 4/,
  );
});

test('an option given again replaces its first value', () => {
  const { code, stdout, stderr } = cli([
    ...patchWords({ '--json': true, '--no-db': true, '--source': 'i saw vera upton', '--source-layer': '5' }),
    ...words({ '--source': 'i saw paul quill', '--source-layer': '0', '-t': '1' }),
  ]);
  assert.equal(code, 0, stderr);
  assert.deepEqual(
    parsed<PatchCell>(stdout).map(({ source_layer, text }) => [source_layer, text]),
    [[0, truth]],
  );
});

// --- sql

test('sql prints a table, JSON lines or CSV', () => {
  const cwd = temporaryFolder();
  cells({ '--source-layer': '0,1', '--db': 'x.db' }, cwd);
  const ask = (...options: string[]) =>
    cli(
      [
        'sql',
        'SELECT source_layer AS layer, top_token AS token, error FROM reading',
        '--db',
        'x.db',
        ...options,
      ],
      cwd,
    );
  assert.equal(ask().stdout, 'layer  token    error\n    0   bergen\n    1   bergen\n');
  assert.equal(
    ask('--json').stdout,
    '{"layer":0,"token":" bergen","error":null}\n{"layer":1,"token":" bergen","error":null}\n',
  );
  assert.equal(ask('--csv').stdout.replaceAll('\r', ''), 'layer,token,error\n0, bergen,\n1, bergen,\n');
});

test('sql only reads', () => {
  const cwd = temporaryFolder();
  cells({ '--db': 'x.db' }, cwd);
  const before = readFileSync(join(cwd, 'x.db'));
  for (const statement of [
    'DELETE FROM run',
    'DELETE FROM observation RETURNING id',
    "ATTACH 'other.db' AS other",
    'PRAGMA user_version = 3',
  ]) {
    const { code, stdout, stderr } = cli(['sql', statement, '--db', 'x.db'], cwd);
    assert.deepEqual([code, stdout], [2, ''], statement);
    assert.match(stderr, /^patchscopes: \S[^\n]*\n$/);
  }
  assert.ok(readFileSync(join(cwd, 'x.db')).equals(before));
  assert.deepEqual(databases(cwd), ['x.db']);
});

test('sql says what there is where a name is wrong, and makes no file', () => {
  const cwd = temporaryFolder();
  cells({ '--db': 'x.db' }, cwd);
  const ask = (statement: string, db = 'x.db') => cli(['sql', statement, '--db', db], cwd);
  assert.match(ask('SELECT * FROM runs').stderr, /no such table: runs.*observation.*run_summary/s);
  assert.match(ask('SELECT layer FROM run').stderr, /no such column: layer.*source_model_id/s);
  assert.match(ask('SELECT 1', 'none.db').stderr, /no results file none\.db/);
  assert.equal(ask('SELECT 1', 'none.db').code, 2);
  assert.deepEqual(databases(cwd), ['x.db']);
});

/** Without the two files that SQLite keeps beside a database for those who read while others write. */
function databases(cwd: string): string[] {
  return readdirSync(cwd).filter((name) => !/-(wal|shm)$/.test(name));
}

// --- pull and convert

test('pull prints the path alone', { skip: realModel.skip || notTheCatalogues() }, () => {
  const cache = dirname(dirname(realModel.path()));
  const { code, stdout } = cli(['pull', realModel.name], undefined, { ...env, PATCHSCOPES_CACHE: cache });
  assert.deepEqual([code, stdout], [0, `${realModel.path()}\n`]);
});

function notTheCatalogues(): string | false {
  return basename(dirname(realModel.path())) === 'models' &&
    basename(realModel.path()) === `${realModel.name}.gguf`
    ? false
    : `not run: ${realModel.path()} is not in a cache folder`;
}

test('pull without a name lists the catalogue', () => {
  const { code, stdout } = cli(['pull']);
  assert.equal(code, 0);
  assert.match(stdout, /^smollm2-135m-instruct .*Apache-2\.0/m);
  assert.match(stdout, /^gemma-3-270m .*Gemma/m);
});

test('convert --to f32 writes a model that says the same, prints its path alone, and overwrites nothing', () => {
  const cwd = temporaryFolder();
  const args = ['convert', world, '--to', 'f32', '-o', 'full.gguf', '-t', '1'];
  const { code, stdout, stderr } = cli(args, cwd);
  assert.equal(code, 0, stderr);
  assert.equal(stdout, 'full.gguf\n');
  assert.deepEqual(readdirSync(cwd), ['full.gguf']);
  const [full] = cells({ '-m': 'full.gguf', '--db': 'x.db' }, cwd);
  assert.equal(full!.text, truth);
  assert.ok(Math.abs(full!.top[0]!.logprob - cell().top[0]!.logprob) < 1e-3);
  assert.match(String(sql(cwd, 'SELECT quantization FROM model', 'x.db')[0]!.quantization), /F32/);
  assertBadInput(args, /full\.gguf exists/, cwd);
});

test('convert says what was rounded twice, which matrices fell back, and the types that came out', () => {
  const cwd = temporaryFolder();
  const convert = (from: string, to: string, output: string) => {
    const { code, stdout, stderr } = cli(['convert', from, '--to', to, '-o', output, '-t', '1'], cwd);
    assert.deepEqual([code, stdout], [0, `${output}\n`], stderr);
    return lines(stderr);
  };
  assert.deepEqual(convert(world, 'q8_0', 'once.gguf'), ['types   43 q8_0, 13 f32']);
  const [twice, fallen, types, ...more] = convert('once.gguf', 'q4_k_m', 'twice.gguf');
  assert.match(twice!, /^Note: the weights of once\.gguf were quantized already \(Q8_0\).*second time/);
  assert.match(fallen!, /^Note: .*blocks.*width: 36\.$/);
  assert.match(types!, /^types {3}\d+ q5_0, /);
  assert.deepEqual(more, []);
  assert.deepEqual(convert('once.gguf', 'f32', 'full.gguf'), ['types   56 f32']);
});

// --- inspect

test('inspect tells a model in aligned lines', () => {
  const { code, stdout, stderr } = cli(['inspect', world, '--gpu', 'off']);
  assert.deepEqual([code, stderr], [0, '']);
  const facts = new Map(lines(stdout).map((line) => [line.slice(0, 12).trimEnd(), line.slice(12)]));
  assert.deepEqual(
    [...facts.keys()],
    'model layers heads vocabulary context chat file types weights K/V free sites CPU'.split(' '),
  );
  assert.equal(facts.get('layers'), '6, of width 128');
  assert.equal(facts.get('heads'), '4 of size 32, 4 for K and V');
  assert.match(facts.get('vocabulary')!, /^971 tokens \(llama\); BOS <s>, put before prompts; EOS <\/s>$/);
  assert.match(facts.get('file')!, /^F16, 2\.25 MB$/);
  assert.match(facts.get('K/V')!, /^3\.07 kB a token \(f16\), 512 bytes in each of 6 layers$/);
  assert.match(facts.get('free')!, /^\S+ GB of memory: the weights and [\d,]+ tokens of context/);
  assert.match(facts.get('sites')!, /^embed, (\w+, )*resid_out\b/);
  assert.match(facts.get('CPU')!, /cpu/i);
});

test('inspect --json is one object with every tensor', () => {
  const { code, stdout, stderr } = cli(['inspect', world, '--json', '--gpu', 'off']);
  assert.deepEqual([code, stderr], [0, '']);
  const [inspection, ...more] = parsed<Record<string, unknown>>(stdout);
  assert.deepEqual(more, []);
  const { architecture, layer_count, embedding_size, bos, no_sites, chat_template } = inspection!;
  assert.deepEqual([architecture, layer_count, embedding_size, no_sites], ['llama', 6, 128, null]);
  assert.deepEqual([bos, chat_template], [{ token_id: 1, text: '<s>' }, null]);
  const tensors = inspection!.tensors as Record<string, unknown>[];
  assert.equal(tensors.length, 56);
  assert.deepEqual(tensors[0], {
    name: 'token_embd.weight',
    type: 'f16',
    is_quantized: false,
    shape: [128, 971],
    bytes: 248576,
    side: null,
    block: null,
  });
});

test('inspect tells both sides of an encoder-decoder model', () => {
  const path = writeFile('inspected-t5.gguf', writeGguf(t5()));
  const { code, stdout, stderr } = cli(['inspect', path, '--gpu', 'off']);
  assert.deepEqual([code, stderr], [0, '']);
  assert.match(stdout, /^layers {6}3 in the encoder and 2 in the decoder, of width 64$/m);
  assert.match(stdout, /^weights .*, each block of the encoder \d+ kB, each block of the decoder \d+ kB, /m);
  assert.match(stdout, /^K\/V .* in each of 3 layers$/m);
  assert.match(
    stdout,
    /^sites {7}of the encoder: embed, resid_mid, attn_out, mlp_out, resid_out, final_norm$/m,
  );
  assert.match(
    stdout,
    /^sites {7}of the decoder: embed, resid_mid, no attn_out \(.*\), mlp_out, resid_out, final_norm$/m,
  );
});

test('a model that is refused is inspected all the same, with the reason', () => {
  for (const [kind, says] of [
    ['embedding', /^sites {7}none, because: .*is an embedding model/m],
    ['altup', /^sites {7}none, because: \S/m],
    ['vocab-only', /^sites {7}none, because: .*no weights/m],
  ] as const) {
    const { code, stdout, stderr } = cli(['inspect', tinyPath(kind), '--gpu', 'off']);
    assert.deepEqual([code, stderr], [0, '']);
    assert.match(stdout, says);
  }
});

test('inspect names each site that a model lacks, with the reason', () => {
  const { stdout } = cli(['inspect', tinyPath('gptneox'), '--gpu', 'off']);
  assert.match(
    stdout,
    /^sites {7}embed, no resid_mid \(attention and MLP read the same input.*\), attn_out, /m,
  );
});

test('a name with control characters steers no terminal', () => {
  const { metadata, tensors } = tinyModel('llama');
  const name = scalar('string', 'model\u001b[2J\n\u202emodel');
  const path = writeFile(
    'control.gguf',
    writeGguf({ metadata: new Map([...metadata, ['general.name', name]]), tensors }),
  );
  const { stdout } = cli(['inspect', path, '--gpu', 'off']);
  assert.match(stdout, /^model {7}model\\u001b\[2J\\n\\u202emodel \(llama\)$/m);
});

test('quantized weights without a fast kernel are warned of, with the command that helps', {
  skip: realModel.skip,
}, () => {
  const cwd = temporaryFolder();
  const { stdout } = cli(['inspect', realModel.path(), '--gpu', 'off'], cwd);
  const warning = lines(stdout).find((line) => line.startsWith('warning'));
  const json = JSON.parse(cli(['inspect', realModel.path(), '--gpu', 'off', '--json'], cwd).stdout);
  assert.equal(warning !== undefined, json.kernels.advice !== null);
  if (warning === undefined) return;
  const [, ...args] = /: patchscopes (convert) (.*) --to (\S+) -o FILE$/.exec(warning)!;
  assert.deepEqual(args, ['convert', realModel.path(), json.kernels.advice.to]);
});

// --- help

const commands =
  'list new fit patch lens demo pull inspect convert runs show sql export merge delete doctor worker build'.split(
    ' ',
  );

for (const name of commands) {
  test(`${name} --help has an example`, () => {
    const { code, stdout, stderr } = cli([name, '--help']);
    assert.deepEqual([code, stderr], [0, '']);
    assert.match(stdout, new RegExp(`Examples:\\n +patchscopes ${name}`));
  });
}

test('--help names every command, --version the version', () => {
  const { stdout } = cli(['--help']);
  for (const name of commands) assert.match(stdout, new RegExp(`^ +patchscopes ${name} `, 'm'));
  const { version } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'));
  assert.equal(cli(['--version']).stdout, `${version}\n`);
});

// --- exit codes

test('some cells failed: they are printed and kept with their reason, and the exit code is 1', () => {
  const cwd = temporaryFolder();
  const broken = {
    '-m': brokenBlock(),
    '--source': 'ab',
    '--target': 'cde',
    '--target-position': '-1',
    '--target-layer': 'all',
  };
  const { code, stdout, stderr } = cli(patchWords({ ...broken, '--json': true }), cwd);
  assert.equal(code, 1, stderr);
  const read = parsed<PatchCell>(stdout);
  assert.deepEqual(
    read.map(({ target_layer, status }) => [target_layer, status]),
    [
      [0, 'failed'],
      [1, 'failed'],
      [2, 'failed'],
      [3, 'ok'],
    ],
  );
  const { text, token_ids, top, error } = read[0]!;
  assert.deepEqual({ text, token_ids, top }, { text: null, token_ids: [], top: [] });
  assert.match(error!, /^not_finite: \S.*NaN.*\.$/);
  assert.deepEqual(Object.keys(read[0]!), Object.keys(read[3]!));
  assert.deepEqual(sql(cwd, 'SELECT status, cells_planned, cells_stored, cells_failed FROM run_summary'), [
    { status: 'done', cells_planned: 4, cells_stored: 4, cells_failed: 3 },
  ]);
  assert.equal(sql(cwd, 'SELECT error FROM observation WHERE target_layer = 0')[0]!.error, error);
  const table = cli(patchWords({ ...broken, '--no-db': true }));
  assert.equal(table.code, 1);
  assert.match(table.stdout, /^0 +0 +failed: not_finite: /m);
});

test('lens: failed cells give exit code 1', () => {
  const { code, stdout } = cli(
    lensWords({ '-m': brokenBlock(), '--prompt': 'ab', '--json': true, '--no-db': true }),
  );
  assert.equal(code, 1);
  assert.ok(parsed<PatchCell>(stdout).some(({ status, error }) => status === 'failed' && /NaN/.test(error!)));
});

const files: [what: string, path: () => string, says: RegExp][] = [
  ['a missing file', () => 'none.gguf', /no file at .*none\.gguf/],
  ['an empty file', () => writeFile('empty.gguf', ''), /empty\.gguf is empty/],
  [
    'a truncated file',
    () => writeFile('short.gguf', readFileSync(world).subarray(0, 100_000)),
    /short\.gguf is cut off/,
  ],
  [
    'a corrupted file',
    () => writeFile('corrupt.gguf', readFileSync(world).fill(255, 100, 10_000)),
    /corrupt\.gguf/,
  ],
  ['a text file', () => writeFile('text.gguf', 'Dear model,\n'), /text\.gguf is not a GGUF file/],
  ['a folder', () => folder(), /is a folder; give the path of a \.gguf file/],
  ['a model without a residual stream', () => tinyPath('no-residual'), /./],
  ['an embedding model', () => tinyPath('embedding'), /./],
  ['a vocabulary without a model', () => tinyPath('vocab-only'), /./],
  ['a misspelt name', () => 'smolm2-135m-instruct', /perhaps "smollm2-135m-instruct" was meant/],
  ['an URI that is none', () => 'hf:model', /"hf:model" is not a model URI/],
];

for (const [what, path, says] of files) {
  test(`${what} for a model is bad input`, () => {
    assertBadInput(patchWords({ '-m': path() }), says);
  });
}

test('what is no model is not converted or inspected, and the lens refuses it too', () => {
  for (const [, path, says] of files.slice(1, 4)) {
    assertBadInput(['convert', path(), '--to', 'f32', '-o', 'out.gguf', '-t', '1'], says);
    assertBadInput(lensWords({ '-m': path() }), says);
  }
  for (const [, path, says] of [files[0]!, files[1]!, files[3]!, files[4]!, files[5]!]) {
    assertBadInput(['inspect', path()], says);
  }
});

const badInputs: [what: string, args: readonly string[], says: RegExp][] = [
  ['a source layer out of range', patchWords({ '--source-layer': '6' }), /Layer 6 .* 6 layers are 0 to 5/],
  ['a target layer out of range', patchWords({ '--target-layer': '0..9' }), /Layer 9 /],
  ['a layer that is none', patchWords({ '--source-layer': 'ALL' }), /'ALL' is not a layer: write a number/],
  ['same as a source layer', patchWords({ '--source-layer': 'same' }), /'same' is not a layer/],
  ['a layer of the lens out of range', lensWords({ '--layer': '-7' }), /Layer -7 /],
  [
    'a source position out of range',
    patchWords({ '--source-position': '5' }),
    /Position 5 is outside the source prompt, whose 5 tokens are 0 to 4/,
  ],
  [
    'a target position out of range',
    patchWords({ '--target-position': '-7' }),
    /Position -7 .*target prompt/,
  ],
  [
    'text not in the prompt',
    patchWords({ '--source-position': 'vera' }),
    /'vera' does not occur in the source/,
  ],
  [
    'text that is in the prompt twice',
    patchWords({ '--source': 'cat -> cat', '--source-position': 'cat' }),
    /occurs 2 times .*choose one by 'cat#1' to 'cat#2'/,
  ],
  ['an occurrence that is not there', patchWords({ '--target-position': 'x#2' }), /there is no 'x#2'/],
  ['an empty source', patchWords({ '--source': '' }), /source prompt is empty/],
  ['an empty target', patchWords({ '--target': '' }), /target prompt is empty/],
  ['an empty lens prompt', lensWords({ '--prompt': '' }), /prompt is empty/],
  [
    'an empty list of ids',
    patchWords({ '--source': undefined, '--source-ids': '' }),
    /source prompt is empty/,
  ],
  [
    'a prompt longer than the context',
    patchWords({ '--source': 'paul '.repeat(300) }),
    /source prompt needs 302 tokens where the context holds 256/,
  ],
  [
    'a continuation longer than the context',
    patchWords({ '-n': '100000' }),
    /target prompt needs 100005 tokens/,
  ],
  [
    'a token id outside the vocabulary',
    patchWords({ '--source': undefined, '--source-ids': '1,971' }),
    /Token id 971 .* ids are 0 to 970/,
  ],
  [
    'a token id that is none',
    patchWords({ '--target': undefined, '--target-ids': '1,-2' }),
    /--target-ids holds '-2' where token ids/,
  ],
  ['text and ids at once', patchWords({ '--source-ids': '1' }), /--source as text or --source-ids/],
  ['neither text nor ids', patchWords({ '--target': undefined }), /--target as text or --target-ids/],
  ['no source layer', patchWords({ '--source-layer': undefined }), /source-layer/],
  ['--chat with a model that has no template', patchWords({ '--chat': true }), /no chat template/],
  ['a GPU that is not there', patchWords({ '--gpu': 'metal' }), /metal/],
  [
    'layers for a GPU that is switched off',
    patchWords({ '-ngl': '3', '--gpu': 'off' }),
    /-ngl 3 .*use -ngl 0/,
  ],
  ['a K/V type that is none', patchWords({ '-ctk': 'f33' }), /no K\/V type f33/],
  [
    'a target model of another width, without a mapping',
    patchWords({ '--target-model': tinyPath('moe') }),
    /floats and the target's 32, so they need a mapping: .*patchscopes fit/,
  ],
  ['a quantised V cache without flash attention', patchWords({ '-fa': 'off', '-ctv': 'q8_0' }), /use -fa on/],
  ['an empty continuation', patchWords({ '--continuation': '' }), /continuation is empty/],
  [
    'a continuation and a number of tokens',
    patchWords({ '--continuation': ' a', '-n': '1' }),
    /With --continuation nothing is generated: leave -n, --temp/,
  ],
  [
    'a continuation and drawn tokens',
    patchWords({ '--continuation': ' a', '--temp': '1', '--top-k': '3' }),
    /With --continuation nothing is generated: leave -n, --temp/,
  ],
  [
    'a given continuation longer than the context',
    patchWords({ '--continuation': ' paul'.repeat(300) }),
    /target prompt needs 305 tokens where the context holds 256/,
  ],
  ['-n 0', patchWords({ '-n': '0' }), /-n is '0' where a whole number of at least 1/],
  ['--top 0', patchWords({ '--top': '0' }), /--top is '0' where/],
  ['-t 0', patchWords({ '-t': '0' }), /-t is '0' where/],
  ['-s x', patchWords({ '-s': 'x' }), /-s is 'x' where/],
  ['-c 1.5', patchWords({ '-c': '1.5' }), /-c is '1\.5' where/],
  ['-fa maybe', patchWords({ '-fa': 'maybe' }), /-fa.*maybe.*auto.*on.*off/],
  ['a type that nothing is converted to', ['convert', world, '--to', 'f33', '-o', 'x.gguf'], /f33.*f32/],
  [
    'an output in a folder that is not there',
    ['convert', world, '--to', 'f32', '-o', 'no/x.gguf'],
    /no\/x\.gguf can't be written/,
  ],
  ['an output without a name', ['convert', world, '--to', 'f32', '-o', ''], /./],
  ['a results file that is a folder', patchWords({ '--db': folder() }), /is a folder/],
  [
    'a results file that is a text',
    patchWords({ '--db': writeFile('text.db', 'x\n'.repeat(9000)) }),
    /not a SQLite/,
  ],
  ['a results file where none can be', patchWords({ '--db': '/proc/none/x.db' }), /\/proc\/none/],
  ['--json and --csv at once', ['sql', 'SELECT 1', '--json', '--csv'], /--json or --csv, not both/],
  ['a word too many', [...patchWords(), 'again'], /again/],
  ['no query', ['sql'], /query/],
  ['no command', [], /Name a command: explain, run, .*, patch, .*; patchscopes --help/],
];

for (const [what, args, says] of badInputs) test(`${what} is bad input`, () => assertBadInput(args, says));

test('more memory than there is is bad input', { skip: realModel.skip }, () => {
  const args = { '-m': realModel.path(), '-c': '2000000000', '--target-position': '-1' };
  assertBadInput(patchWords({ ...args, '-n': '100000000' }), /takes \d.* GB where .* GB are free/);
});

test('a run that is refused leaves the results file as it was', () => {
  const cwd = temporaryFolder();
  cells({ '--db': 'x.db' }, cwd);
  for (const options of [{ '--source-layer': '6' }, { '--source': '' }, { '-ctk': 'f33' }]) {
    assert.equal(cli(patchWords({ ...options, '--db': 'x.db' }), cwd).code, 2);
  }
  assert.equal(sql(cwd, 'SELECT * FROM run', 'x.db').length, 1);
});

const misspelt: [args: readonly string[], says: RegExp][] = [
  [['pacth'], /no command 'pacth', perhaps patch was meant/],
  [['lense', '--prompt', 'x'], /no command 'lense', perhaps lens was meant/],
  [['__proto__'], /no command '__proto__'/],
  [['len\ns'], /no command 'len\\u000as', perhaps lens was meant/],
  [['xyzzy'], /no command 'xyzzy'[^,]*$/],
  [
    [...patchWords(), '--source-posision', '1'],
    /no option --source-posision, perhaps --source-position was meant/,
  ],
  [[...patchWords(), '--jsn'], /no option --jsn, perhaps --json was meant/],
  [[...patchWords(), '--nodb'], /no option --nodb, perhaps --no-db was meant/],
  [lensWords({ '--promt': 'x' }), /no option --promt, perhaps --prompt was meant/],
  [['sql', 'SELECT 1', '--jsn'], /no option --jsn, perhaps --json was meant/],
  [[...patchWords(), '-x', '3'], /no option -x/],
];

for (const [args, says] of misspelt) {
  test(`${args.slice(0, 1)} ${args.at(-1)}: what is misspelt is named, with what may have been meant`, () => {
    assertBadInput(args, says);
  });
}

test('more threads than there are cores get a warning', () => {
  const { stderr } = cli(lensWords({ '-t': '4000', '-m': 'none.gguf' }));
  assert.match(stderr, /^Warning: -t 4000 is more than the \d+ /m);
});

// --- interrupts and pipes

interface Running {
  readonly child: ChildProcess;
  /** Resolves once the text has come on that stream. */
  readonly said: (stream: 'stdout' | 'stderr', text: string) => Promise<void>;
  readonly ended: Promise<Ended & { readonly milliseconds: number }>;
}

function start(args: readonly string[], cwd: string): Running {
  const child = spawn(process.execPath, [command, ...args], {
    cwd,
    env,
    timeout: 120_000,
    killSignal: 'SIGKILL',
  });
  const out = { stdout: '', stderr: '' };
  for (const stream of ['stdout', 'stderr'] as const) {
    child[stream].setEncoding('utf8').on('data', (text: string) => {
      out[stream] += text;
    });
  }
  const said: Running['said'] = (stream, text) =>
    new Promise((resolve, reject) => {
      const look = () => {
        if (out[stream].includes(text)) resolve();
      };
      child[stream].on('data', look);
      child.on('close', () => reject(new Error(`It ended without '${text}': ${out.stderr}`)));
      look();
    });
  const began = performance.now();
  const ended = new Promise<Ended & { milliseconds: number }>((resolve) => {
    child.on('close', (code) => resolve({ code, ...out, milliseconds: performance.now() - began }));
  });
  return { child, said, ended };
}

/** Cells enough to be interrupted between two batches of them. */
const longJob = (n: string) =>
  patchWords({
    '-m': deepModel(),
    '--source': 'ab',
    '--source-layer': 'all',
    '--target': 'cde',
    '--target-position': '-1',
    '--target-layer': 'all',
    '-n': n,
    '--top': '1',
    '--json': true,
    '--db': 'x.db',
  });

test('Ctrl-C ends after the batch under way: what is done is kept, the run is interrupted, the exit code 130', async () => {
  const cwd = temporaryFolder();
  const { child, said, ended } = start(longJob('2'), cwd);
  await said('stdout', '\n');
  child.kill('SIGINT');
  const { code, stdout, stderr } = await ended;
  assert.equal(code, 130, stderr);
  assert.match(stderr, /^Interrupted: /m);
  assert.doesNotMatch(stderr, /^ +at /m);
  const [run] = sql(cwd, 'SELECT status, cells_planned, cells_stored FROM run_summary', 'x.db');
  const printed = parsed<PatchCell>(stdout).length;
  assert.deepEqual(run, { status: 'interrupted', cells_planned: 1600, cells_stored: printed });
  assert.ok(printed > 0 && printed < 1600, `${printed} cells`);
});

test('--resume goes on with the run that broke off, as if it had not, and refuses what can not be gone on with', async () => {
  const cwd = temporaryFolder();
  const { child, said, ended } = start(longJob('1'), cwd);
  await said('stdout', '\n');
  child.kill('SIGKILL');
  const first = parsed<PatchCell>((await ended).stdout);
  const [{ cells_stored: before }] = sql<{ cells_stored: number }>(
    cwd,
    'SELECT cells_stored FROM run_summary',
    'x.db',
  ) as [{ cells_stored: number }];
  assert.ok(before > 0 && before < 1600, `${before} cells`);

  const words = longJob('1');
  const other = cli([...words, '--resume', '-t', '2'], cwd);
  assert.equal(other.code, 2);
  assert.match(other.stderr, /can't go on: threads was 1 and is 2\.$/m);
  const { code, stdout, stderr } = cli([...words, '--resume'], cwd);
  assert.equal(code, 0, stderr);
  assert.match(stderr, new RegExp(`^resumed run 1, which has ${before} of 1600 cells$`, 'm'));
  const rest = parsed<PatchCell>(stdout);
  assert.equal(rest.length, 1600 - before);
  assert.deepEqual(sql(cwd, 'SELECT run_id, status, cells_stored FROM run_summary', 'x.db'), [
    { run_id: 1, status: 'done', cells_stored: 1600 },
  ]);
  const whole = parsed<PatchCell>(cli(words, cwd).stdout);
  assert.deepEqual(rest, whole.slice(before), 'the rest has the bits of an undisturbed run');
  assert.deepEqual(first.slice(0, before), whole.slice(0, Math.min(before, first.length)));

  assertBadInput([...words, '--resume'], /There is no results file x\.db/);
  const done = cli([...words, '--resume'], cwd);
  assert.match(done.stderr, /no unfinished run of this experiment/);
  assert.equal(done.code, 2);
  assertBadInput(patchWords({ '--resume': true, '--no-db': true }), /leave --no-db out/);
});

test('a second Ctrl-C ends at once, and no run is left that seems to go on', async () => {
  const cwd = temporaryFolder();
  const { child, said, ended } = start(longJob('400'), cwd);
  await said('stderr', 'layers ');
  child.kill('SIGINT');
  await said('stderr', 'Interrupted');
  const since = performance.now();
  child.kill('SIGINT');
  const { code, stderr } = await ended;
  assert.equal(code, 130, stderr);
  assert.ok(performance.now() - since < 5000, 'at once');
  if (existsSync(join(cwd, 'x.db'))) {
    assert.deepEqual(sql(cwd, "SELECT * FROM run WHERE status IN ('running', 'done')", 'x.db'), []);
  }
});

/** More than fits into a pipe. */
const muchOutput = (options: Options = {}) =>
  lensWords({
    '--prompt': 'the city of paul quill is '.repeat(3).trim(),
    '--top': '971',
    '--json': true,
    ...options,
  });

test('a pipe that is closed (| head) is no error', async () => {
  const cwd = temporaryFolder();
  const { child, said, ended } = start(muchOutput({ '--db': 'x.db' }), cwd);
  await said('stdout', '\n');
  child.stdout!.destroy();
  const { code, stderr } = await ended;
  assert.equal(code, 0, stderr);
  assert.doesNotMatch(stderr, /EPIPE|^ +at /m);
});

test('a reader that takes its time loses nothing', () => {
  const shell = `'${process.execPath}' '${command}' ${muchOutput({ '--no-db': true })
    .map((word) => `'${word}'`)
    .join(' ')} | (sleep 2; cat)`;
  const { stdout, stderr } = spawnSync('sh', ['-c', shell], {
    cwd: temporaryFolder(),
    env,
    encoding: 'utf8',
    maxBuffer: 1e9,
  });
  const read = parsed<LensCell>(stdout);
  assert.equal(read.length, 6 * 19, stderr);
  assert.ok(read.every(({ top }) => top.length === 971));
});

test('patch understands the layer names of other libraries and answers with its own', () => {
  const names =
    'blocks.0.hook_resid_pre,blocks.1.hook_resid_pre,hidden_states[2],blocks.2.hook_mlp_out,hidden_states[6]';
  const found = cells({ '--source-layer': names });
  assert.deepEqual(
    found.map(({ source_site, source_layer }) => [source_site, source_layer]),
    [
      ['embed', 'embed'],
      ['resid_out', 0],
      ['resid_out', 1],
      ['mlp_out', 2],
      ['final_norm', 5],
    ],
  );
  const [own] = cells({ '--source-layer': '2', '--source-site': 'mlp_out' });
  assert.deepEqual(own, found[3], 'the same place by either name');
  for (const [layer, says] of [
    ['blocks.6.hook_mlp_out', /blocks\.6\.hook_mlp_out is not in the model.*0 to 5/],
    ['hidden_states[7]', /hidden_states\[7\] is not in the model.*0 to 6/],
    ['blocks.1.hook_z', /'blocks\.1\.hook_z' is not a layer/],
    ['blocks.1.hook_resid_post', undefined],
  ] as const) {
    if (says === undefined) assert.equal(cells({ '--target-layer': layer })[0]!.target_layer, 1);
    else assertBadInput(patchWords({ '--source-layer': layer }), says);
  }
  assertBadInput(patchWords({ '--target-layer': 'hidden_states[6]' }), /final_norm is read, not written/);
  assertBadInput(patchWords({ '--source-site': 'final_norm' }), /final_norm comes after the last layer/);
});

test('patch edits by the op that is named, and keeps op, alpha and sites with the cell', () => {
  const cwd = temporaryFolder();
  const options = { '--source-site': 'attn_out', '--target-site': 'resid_mid', '--db': 'a.db' };
  const [first] = cells({ ...options, '--op': 'add', '--alpha': '-0.5' }, cwd);
  assert.deepEqual(
    [first!.op, first!.alpha, first!.source_site, first!.target_site],
    ['add', -0.5, 'attn_out', 'resid_mid'],
  );
  assert.deepEqual(
    sql(
      cwd,
      'SELECT source_site, site, op, alpha, at_generated FROM observation NATURAL JOIN (SELECT run_id, sample_idx, name AS variant, op, alpha, at_generated FROM variant)',
      'a.db',
    ),
    [{ source_site: 'attn_out', site: 'resid_mid', op: 'add', alpha: -0.5, at_generated: 0 }],
  );
  assert.equal(cells({ '--op': 'mix', '--alpha': '1' })[0]!.text, truth);
  const [nothing] = cells({ '--op': 'mix', '--alpha': '0' });
  const [scaled] = cells({ '--op': 'scale', '--alpha': '1' });
  assert.deepEqual(nothing!.top, scaled!.top, 'both leave the target as it is');
  assert.notEqual(nothing!.text, truth);
  assertBadInput(patchWords({ '--op': 'paste' }), /--op is 'paste' where one of replace/);
  assertBadInput(patchWords({ '--alpha': 'much' }), /--alpha is 'much' where a number is needed/);
  assertBadInput(patchWords({ '--alpha': '1e99' }), /alpha 1e\+99/);
});

test('patch draws tokens with a seed, and keeps each with its log-probability and rank', () => {
  const cwd = temporaryFolder();
  const options = { '--source-layer': 'all', '-n': '5', '--temp': '2', '--top': '1' };
  const drawn = cells({ ...options, '-s': '4', '--db': 'a.db' }, cwd);
  assert.deepEqual(cells({ ...options, '-s': '4' }), drawn, 'the same seed');
  const texts = (all: readonly PatchCell[]) => all.map(({ text }) => text);
  assert.notDeepEqual(texts(cells({ ...options, '-s': '1004' })), texts(drawn), 'another seed');
  assert.notDeepEqual(texts(cells({ ...options, '--temp': '0' })), texts(drawn), 'no temperature');
  for (const { token_ids, logprobs, top } of drawn) {
    assert.equal(logprobs.length, token_ids.length);
    assert.ok(logprobs.every((logprob) => logprob <= 0 && Number.isFinite(logprob)));
    assert.equal(top.length, 1);
  }
  const [kept] = sql<{ count: number }>(
    cwd,
    'SELECT count(*) AS count FROM token_score WHERE rank > 0',
    'a.db',
  );
  assert.ok(kept!.count > 0, 'tokens that are not the most probable ones');
  const [run] = sql<{ reading: string; tolerance: number }>(
    cwd,
    'SELECT reading, tolerance FROM run',
    'a.db',
  );
  assert.deepEqual(JSON.parse(run!.reading).sampling, { temperature: 2, topK: 0, topP: 1 });
  assert.ok(run!.tolerance >= 0 && run!.tolerance < 0.1, String(run!.tolerance));
  assertBadInput(patchWords({ '--temp': '-1' }), /temperature is -1/);
  assertBadInput(patchWords({ '--top-k': '4' }), /With --temp 0 nothing is drawn/);
  assertBadInput(patchWords({ '--temp': '1', '--top-p': '1.5' }), /topP is 1.5/);
});

test('lens reads other sites of the residual stream, and none behind the final norm', () => {
  const { code, stdout } = cli(
    lensWords({ '--site': 'resid_mid', '--json': true, '--no-db': true, '--layer': '0,5' }),
  );
  assert.equal(code, 0);
  const sites = new Set(parsed<{ site: string }>(stdout).map(({ site }) => site));
  assert.deepEqual([...sites], ['resid_mid']);
  assertBadInput(lensWords({ '--layer': 'hidden_states[6]' }), /applies the final norm itself/);
});
