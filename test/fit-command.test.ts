/** The command `fit`, and what it fitted used by `run` and `patch`, on the known-answers model. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { query } from '../src/store/query.js';
import { dumpResults } from './results-dump.js';
import { assertSentence, folder } from './support.js';

const command = fileURLToPath(new URL('../dist/cli.js', import.meta.url));
const world = fileURLToPath(new URL('world/world.gguf', import.meta.url));
const { relations, entities } = JSON.parse(
  readFileSync(new URL('world/world.json', import.meta.url), 'utf8'),
) as {
  readonly relations: object;
  readonly entities: readonly { readonly first: string; readonly last: string }[];
};
const place = mkdtempSync(join(folder(), 'fit-'));

const prompts = entities.flatMap(({ first, last }) =>
  Object.keys(relations).map((relation) => ({ prompt: `the ${relation} of ${first} ${last} is` })),
);
/** What a lens says of the model's own next token, at prompts that it was not fitted to. */
const lens = (samples: readonly object[], more: object = {}) => ({
  name: 'lens',
  model: world,
  samples,
  source: { prompt: '{prompt}', position: -1, layers: '0..2' },
  target: { prompt: '{prompt}', position: -1, layers: -1 },
  metrics: ['precision-at-1', 'surprisal'],
  ...more,
});
const write = (name: string, content: object) => writeFileSync(join(place, name), JSON.stringify(content));
write('train.json', lens(prompts.filter((_, i) => i % 5 !== 0)));
write(
  'lens.json',
  lens(
    prompts.filter((_, i) => i % 5 === 0),
    {
      variants: [
        { name: 'plain' },
        { name: 'affine', mapping: 'affine.safetensors' },
        { name: 'released', mapping: 'released.safetensors' },
      ],
    },
  ),
);

function cli(...args: string[]) {
  const threads = args[0] === 'merge' ? [] : ['-t', '1'];
  const { status, stdout, stderr } = spawnSync(process.execPath, [command, ...args, ...threads], {
    cwd: place,
    encoding: 'utf8',
    timeout: 120_000,
    killSignal: 'SIGKILL',
  });
  return { code: status, stdout, stderr };
}

function well(...args: string[]) {
  const ended = cli(...args);
  assert.equal(ended.code, 0, ended.stderr);
  return ended;
}

function refused(says: RegExp, ...args: string[]) {
  const { code, stderr } = cli(...args);
  assert.equal(code, 2, stderr);
  const complaint = /^patchscopes: .*$/m.exec(stderr)?.[0] ?? '';
  assertSentence(complaint);
  assert.match(complaint, says);
}

before(() => {
  well('fit', 'train.json', '-o', 'affine.safetensors');
  well('fit', 'train.json', '-o', 'released.safetensors', '--target-site', 'final_norm');
});

test('fit prints how good each map is, on prompts it was not made of', () => {
  const { stdout, stderr } = well('fit', 'train.json', '-o', 'again.safetensors', '--json');
  const maps = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  assert.deepEqual(
    maps.map(({ source, target }) => [source.layer, target.layer]),
    [0, 1, 2].map((layer) => [layer, 5]),
  );
  assert.ok(maps[2].r2.heldOut > maps[0].r2.heldOut && maps[2].r2.heldOut > 0.5);
  assert.match(stderr, /^pairs {3}346 to fit to, 38 held out \(346 and 38 prompts\)$/m);
  assert.deepEqual(
    readFileSync(join(place, 'again.safetensors')),
    readFileSync(join(place, 'affine.safetensors')),
    'the same fit is the same file',
  );
  const table = well(
    'fit',
    'train.json',
    '-o',
    'table.safetensors',
    '--kind',
    'scale',
    '--all-positions',
  ).stdout;
  assert.match(
    table,
    /^source +target +r2 +r2 held out +cosine +cosine held out +error held out +ridge +condition$/m,
  );
  assert.match(table, /^resid_out 2 +resid_out 5 /m);
});

test('a lens through an affine map sees the next token sooner than the plain one, on new prompts', () => {
  well('run', 'lens.json', '--db', 'lens.db');
  const { rows } = query(
    join(place, 'lens.db'),
    `SELECT variant, mapping.kind, source_layer, value FROM metric JOIN mapping ON mapping.id = mapping_id
    WHERE metric.name = 'precision-at-1' AND "group" = '' ORDER BY variant, source_layer`,
  );
  const of = (variant: string) =>
    rows.filter(([name]) => name === variant).map(([, , , value]) => Number(value));
  assert.deepEqual(
    [...new Set(rows.map(([variant, kind]) => `${variant} ${kind}`))],
    ['affine affine', 'plain identity', 'released affine'],
  );
  // measured at layers 1 and 2: plain 0.68 and 0.97, affine 0.93 and 1, as released 0.91 and 1
  assert.ok(of('affine')[1]! > of('plain')[1]! + 0.1, `${of('affine')} ${of('plain')}`);
  assert.ok(of('affine')[2]! > 0.95 && of('released')[2]! > 0.95, `${of('affine')} ${of('released')}`);
});

test('patch takes a mapping too', () => {
  const words = ['--source', 'the city of paul quill is', '--source-position', '-1', '--source-layer', '1'];
  const to = ['--target', 'the city of paul quill is', '--target-position', '-1', '--target-layer', '-1'];
  const mapped = (...more: string[]) =>
    JSON.parse(well('patch', '-m', world, ...words, ...to, '--json', '--db', 'p.db', ...more).stdout);
  const [plain, affine] = [mapped(), mapped('--mapping', 'affine.safetensors')];
  assert.notDeepEqual(plain, affine);
  assert.deepEqual(query(join(place, 'p.db'), 'SELECT mapping FROM reading ORDER BY run_id').rows.flat(), [
    'identity',
    /affine@[0-9a-f]{12}/.exec(`${query(join(place, 'p.db'), 'SELECT name FROM mapping').rows}`)![0],
  ]);
});

test('fit makes every kind, and patch takes several mappings one after the other', () => {
  const words = ['--source', 'the city of paul quill is', '--source-position', '-1', '--source-layer', '1'];
  const to = ['--target', 'the city of paul quill is', '--target-position', '-1', '--target-layer', '-1'];
  const rank = well('fit', 'train.json', '-o', 'rank.safetensors', '--kind', 'low-rank', '--rank', '8');
  assert.match(rank.stderr, /^map {5}2176 parameters$/m);
  well(
    ...['fit', 'train.json', '-o', 'shift.safetensors', '--kind', 'mean-difference'],
    ...['--set', 'source.layers=all', '--set', 'target.layers=same'],
  );
  const mappings = ['--mapping', 'shift.safetensors', '--mapping', 'rank.safetensors'];
  const { stdout } = well('patch', '-m', world, ...words, ...to, ...mappings, '--json', '--db', 'c.db');
  assert.ok(JSON.parse(stdout) !== undefined);
  const [[name]] = query(join(place, 'c.db'), 'SELECT DISTINCT mapping FROM reading').rows as [[string]];
  assert.match(name, /^shift@[0-9a-f]{12} > rank@[0-9a-f]{12}$/);
});

test('mistakes are one sentence, and no file is written', () => {
  refused(/--output must be given/, 'fit', 'train.json');
  refused(/The file affine.safetensors exists/, 'fit', 'train.json', '-o', 'affine.safetensors');
  refused(/--ridge is 'much' where a number/, 'fit', 'train.json', '-o', 'x', '--ridge', 'much');
  refused(/needs at least 129: .*--all-positions/, 'fit', 'train.json', '-o', 'x', '--limit', '20');
  refused(/--kind is 'spline' where one of identity/, 'fit', 'train.json', '-o', 'x', '--kind', 'spline');
  refused(/needs a rank: .*--rank 16/, 'fit', 'train.json', '-o', 'x', '--kind', 'low-rank');
  refused(/kind affine has no hidden/, 'fit', 'train.json', '-o', 'x', '--hidden', '3');
  refused(/--epochs is 'many'/, 'fit', 'train.json', '-o', 'x', '--kind', 'mlp', '--epochs', 'many');
  refused(/--variant and one of plain/, 'fit', 'lens.json', '-o', 'x');
  refused(/has no map from resid_out of layer 3/, 'run', 'lens.json', '--set', 'source.layers=3', '--no-db');
  refused(
    /train.json', which is no mapping/,
    'patch',
    '-m',
    world,
    '--source',
    'the',
    '--source-position',
    '0',
    '--source-layer',
    '1',
    '--target',
    'the',
    '--target-position',
    '0',
    '--target-layer',
    '1',
    '--mapping',
    'train.json',
  );
  assert.equal(existsSync(join(place, 'x')), false);
});

const training = prompts.filter((_, i) => i % 5 !== 0);
const fitting = (mapping: object) =>
  lens(
    prompts.filter((_, i) => i % 5 === 0),
    { variants: [{ name: 'plain' }, { name: 'affine', mapping }] },
  );
/** What came of each cell, but for the name of its mapping. */
const readingsOf = (db: string) =>
  query(
    join(place, db),
    `SELECT sample_idx, variant, source_layer, control, name, value FROM score
    JOIN observation ON observation.id = observation_id WHERE variant = 'affine' ORDER BY 1, 2, 3, 4, 5`,
  ).rows;
const mappingOf = (db: string) =>
  query(join(place, db), "SELECT name, sha256, record FROM mapping WHERE kind = 'affine'").rows[0]!;

test('a mapping that the run fits is the one of fit, and gives the same numbers', () => {
  write('own.json', fitting({ samples: training }));
  mkdirSync(join(place, 'own'));
  const { stderr } = well('run', 'own.json', '--db', 'own/own.db');
  const [file, ...more] = readdirSync(join(place, 'own', 'mappings'));
  assert.deepEqual(more, []);
  assert.match(file!, /^lens-affine-[0-9a-f]{16}\.safetensors$/);
  assert.match(
    stderr,
    /^fitting the mapping of affine \(affine\) to 384 prompts: own\/mappings\/lens-affine-/m,
  );
  well('run', 'lens.json', '--db', 'file.db');
  assert.ok(readingsOf('own/own.db').length > 0);
  assert.deepEqual(readingsOf('own/own.db'), readingsOf('file.db'));
  const [name, sha256, record] = mappingOf('own/own.db');
  const bytes = readFileSync(join(place, 'own', 'mappings', file!));
  assert.equal(sha256, createHash('sha256').update(bytes).digest('hex'));
  assert.equal(name, `affine@${String(sha256).slice(0, 12)}`);
  const [byRun, byFit] = [record, mappingOf('file.db')[2]].map((text) => JSON.parse(String(text)));
  assert.deepEqual(byRun.maps, byFit.maps);
  assert.deepEqual(byRun.data.pairs, byFit.data.pairs);
});

test('a fitted mapping is taken again while it is whole, and is the same file when it is fitted again', () => {
  const folder = join(place, 'own', 'mappings');
  const file = join(folder, readdirSync(folder)[0]!);
  const [bytes, time] = [readFileSync(file), statSync(file).mtimeMs];
  const again = well('run', 'own.json', '--db', 'own/again.db');
  assert.match(again.stderr, /^mapping of affine: own\/mappings\/lens-affine-/m);
  assert.equal(statSync(file).mtimeMs, time);
  writeFileSync(file, bytes.subarray(0, bytes.length - 100));
  assert.match(well('run', 'own.json', '--db', 'own/cut.db').stderr, /^fitting the mapping of affine/m);
  assert.deepEqual(readFileSync(file), bytes);
  well('run', 'own.json', '--db', 'own/other.db', '--set', 'variants.1.mapping.ridge=0.5');
  well('run', 'own.json', '--db', 'own/kind.db', '--set', 'variants.1.mapping.kind=linear');
  assert.equal(readdirSync(folder).length, 3);
  assert.notDeepEqual(readingsOf('own/other.db'), readingsOf('own/own.db'));
});

/** Of several chunks. */
const long = ['own.json', '--set', 'controls={shuffled: 6}'];

test('shards that fit for themselves agree, and a resumed run goes on with the mapping it began with', async () => {
  mkdirSync(join(place, 'two'));
  well('run', ...long, '--db', 'own/whole.db');
  well('run', ...long, '--db', 'own/1.db', '--shard', '1/2');
  well('run', ...long, '--db', 'two/2.db', '--shard', '2/2');
  well('merge', 'own/1.db', 'two/2.db', '-o', 'own/merged.db');
  assert.deepEqual(readingsOf('own/merged.db'), readingsOf('own/whole.db'));
  assert.deepEqual(mappingOf('own/merged.db'), mappingOf('own/whole.db'));

  const [mappings, db] = [join(place, 'two', 'mappings'), join(place, 'two', 'broken.db')];
  const args = ['run', ...long, '-t', '1', '--db', 'two/broken.db'];
  const child = spawn(process.execPath, [command, ...args], { cwd: place, stdio: 'ignore' });
  const hasChunk = () =>
    existsSync(db) &&
    query(db, "SELECT 1 FROM sqlite_schema WHERE name = 'chunk'").rows.length > 0 &&
    query(db, 'SELECT 1 FROM chunk').rows.length > 0;
  while (!hasChunk()) await sleep(10);
  child.kill('SIGINT');
  assert.deepEqual(await once(child, 'close'), [130, null]);
  for (const file of readdirSync(mappings)) rmSync(join(mappings, file));
  const { stderr } = well('run', ...long, '--db', 'two/broken.db', '--resume');
  assert.match(stderr, /^fitting the mapping of affine.*^resumed run 1, which has/ms);
  assert.deepEqual(dumpResults(db), dumpResults(join(place, 'own', 'whole.db')));
});

test('a dry run says what is to be fitted and fits nothing; without results nothing is kept', () => {
  mkdirSync(join(place, 'dry'));
  const dry = (...more: string[]) => well('run', 'own.json', '--dry-run', ...more).stdout;
  const text = dry('--db', 'dry/x.db');
  assert.match(text, /^mapping of affine +affine, to be fitted to 384 prompts$/m);
  const { mappings, planSha256 } = JSON.parse(dry('--db', 'dry/x.db', '--json'));
  assert.deepEqual(
    [planSha256, mappings.map(({ file: _, ...said }: { readonly file: string }) => said)],
    [null, [{ variant: 'affine', kind: 'affine', prompts: 384, isFitted: false }]],
  );
  assert.deepEqual(readdirSync(join(place, 'dry')), []);
  assert.match(dry('--db', 'own/x.db'), /^mapping of affine +affine, there$/m);
  const before = readdirSync(place);
  assert.match(well('run', 'own.json', '--no-db').stderr, /^fitting the mapping of affine/m);
  assert.deepEqual(readdirSync(place), before);
});

test('a mapping that can not be fitted is told with its variant, and nothing is kept', () => {
  write('few.json', fitting({ samples: training.slice(0, 20) }));
  write('scale.json', fitting({ kind: 'scale', ridge: 0.1, samples: training }));
  mkdirSync(join(place, 'bad'));
  refused(
    /^patchscopes: The mapping of affine can't be fitted: there are 18 pairs .* needs at least 129: .*positions: all/,
    ...['run', 'few.json', '--db', 'bad/x.db'],
  );
  refused(
    /The mapping of affine can't be fitted: the kind scale has no ridge/,
    ...['run', 'scale.json', '--db', 'bad/x.db'],
  );
  assert.deepEqual(readdirSync(join(place, 'bad', 'mappings')), []);
});
