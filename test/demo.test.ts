/** The demo where no model can be fetched: it runs on the known-answers model, whose answers are known. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { builtInExperiment } from '../src/experiments.js';
import { assertSentence, folder } from './support.js';

const command = fileURLToPath(new URL('../dist/cli.js', import.meta.url));
const world = fileURLToPath(new URL('world/world.gguf', import.meta.url));
const { about, samples } = builtInExperiment('world-city');
const [, cities] = /truth: (.*)\)/.exec(about)!;
const truth = new Map(cities!.split(', ').map((city, i) => [samples[i]!.name, city]));

/** No hub answers, and there is no pip. */
const unreachable = { ...process.env, PATH: '', HF_ENDPOINT: 'http://127.0.0.1:1/' };

const run = (args: readonly string[], cwd: string) =>
  spawnSync(process.execPath, [command, ...args], {
    cwd,
    env: { ...unreachable, PATCHSCOPES_CACHE: join(cwd, 'cache') },
    encoding: 'utf8',
    timeout: 60_000,
    killSignal: 'SIGKILL',
  });

const cwd = mkdtempSync(join(folder(), 'demo-'));
let demo: ReturnType<typeof run>;
let page: string;
before(() => {
  demo = run(['demo', '--fallback', world, '-t', '1'], cwd);
  assert.equal(demo.status, 0, demo.stderr);
  page = readFileSync(join(cwd, 'results', 'demo.html'), 'utf8');
});

const sql = (statement: string) => {
  const { status, stdout, stderr } = run(['sql', statement, '--json'], cwd);
  assert.equal(status, 0, stderr);
  return stdout
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line) as Record<string, unknown>);
};

test('it says in one sentence what could not be had, and on which model it goes on', () => {
  const said = demo.stderr.split('\n').find((line) => line.includes('goes on with the known-answers model'))!;
  assert.match(said, /^smollm2-135m-instruct could not be downloaded; tried .*the hub could not be reached/);
  assert.ok(said.includes(world));
  assertSentence(said);
  assert.match(demo.stderr, /^model +\S+world\.gguf: patchscopes test world F16, 6 layers/m);
  assert.doesNotMatch(demo.stderr, /^ +at /m);
});

test('without a fallback, and with another model, it is an error instead', () => {
  for (const args of [['demo'], ['demo', '-m', 'gemma-3-270m', '--fallback', world]]) {
    const other = mkdtempSync(join(folder(), 'demo-'));
    const { status, stdout, stderr } = run(args, other);
    assert.deepEqual([status, stdout], [2, ''], stderr);
    assert.match(stderr, /^patchscopes: \S+ could not be downloaded; tried .*\.$/m);
    assert.ok(!existsSync(join(other, 'results')));
  }
});

test('what it could not finish it does not begin: nothing is kept', () => {
  for (const args of [
    ['-m', world],
    ['--fallback', world, '-o', folder()],
    ['--fallback', world, '--db', folder()],
  ]) {
    const other = mkdtempSync(join(folder(), 'demo-'));
    const { status, stdout, stderr } = run(['demo', '-t', '1', ...args], other);
    assert.deepEqual([status, stdout], [2, ''], stderr);
    assert.match(stderr, /^patchscopes: .*\.$/m);
    assert.ok(!existsSync(join(other, 'results')), args.join(' '));
  }
});

test('it stores three runs, all of whose cells are well', () => {
  assert.deepEqual(
    sql('SELECT run_name, status, cells_planned, cells_stored, cells_failed FROM run_summary'),
    [
      {
        run_name: 'world-token-identity',
        status: 'done',
        cells_planned: 24,
        cells_stored: 24,
        cells_failed: 0,
      },
      { run_name: 'logit-lens', status: 'done', cells_planned: 24, cells_stored: 24, cells_failed: 0 },
      { run_name: 'world-city', status: 'done', cells_planned: 28, cells_stored: 28, cells_failed: 0 },
    ],
  );
  assert.deepEqual(
    readdirSync(join(cwd, 'results'))
      .filter((name) => !/-(wal|shm)$/.test(name))
      .sort(),
    ['demo.html', 'patchscopes.db'],
  );
});

test('each person is read to live where the file says, from layer 0 on and not yet from the embedding', () => {
  assert.deepEqual([...truth.values()], ['bergen', 'kyoto', 'geneva', 'lisbon']);
  const readings = sql(
    "SELECT sample, source_layer AS layer, trim(top_token) AS city, top_probability AS probability FROM reading WHERE run_name = 'world-city'",
  );
  for (const [sample, city] of truth) {
    const own = readings.filter((reading) => reading.sample === sample);
    assert.equal(own.length, 7);
    for (const { layer, city: read, probability } of own.filter(({ layer }) => Number(layer) >= 0)) {
      assert.equal(read, city, `${sample}, layer ${layer}`);
      assert.ok(Number(probability) > 0.5, `${sample}, layer ${layer}`);
    }
  }
  const unread = readings.filter(
    ({ sample, layer, city }) => layer === -1 && city !== truth.get(String(sample)),
  );
  assert.ok(unread.length > 0, 'the embedding of a last name does not tell who it is');
});

test('it prints both experiments as tables', () => {
  assert.ok(demo.stdout.includes(about));
  assert.match(demo.stdout, /^layer +the city of paul quill is +\(logit lens\)/m);
  assert.match(demo.stdout, /^layer +i saw paul quill/m);
  for (const layer of ['embed', 0, 1, 2, 3, 4, 5]) {
    assert.match(demo.stdout, new RegExp(`^ *${layer} +"`, 'm'));
  }
  for (const line of demo.stdout.split('\n').filter((text) => !text.startsWith('patchscopes sql'))) {
    assert.ok(line.length <= 110, `wider than 110: ${line}`);
  }
});

test('it prints two SQL queries with their answers, which the command gives again', () => {
  const asked = [...demo.stdout.matchAll(/^patchscopes sql --db (\S+) "([^"]+)"\n\n((?:.+\n)+)/gm)];
  assert.equal(asked.length, 2);
  for (const [, db, statement, answer] of asked) {
    const { stdout } = run(['sql', '--db', db!, statement!], cwd);
    assert.equal(stdout, answer);
    assert.ok(stdout.split('\n').length > 3, 'a header and at least two rows');
  }
});

// --- the page

test('the page names the model and what it was run with', () => {
  const [model] = sql('SELECT sha256 FROM model');
  assert.match(page, /<dt>model<\/dt><dd>patchscopes test world \(llama, F16\)<\/dd>/);
  assert.ok(page.includes(`<dd>${model!.sha256}</dd>`));
  assert.match(page, /<dt>llama\.cpp<\/dt><dd>\S+/);
  assert.ok(demo.stdout.includes('results/demo.html'));
});

test('the page shows every reading, with its probability as colour', () => {
  for (const { sample, top_token, top_probability } of sql('SELECT * FROM reading')) {
    assert.ok(page.includes(`>${sample}</th>`), String(sample));
    const colour = `style="--p:${Math.round(100 * Number(top_probability))}%"`;
    const text = String(top_token).replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
    assert.ok(
      [...page.matchAll(/<td[^>]*>[^<]*<\/td>/g)].some(
        ([cell]) => cell.includes(colour) && cell.endsWith(`>${text}</td>`),
      ),
      `${colour} ${text}`,
    );
  }
});

test('the page needs nothing from elsewhere', () => {
  assert.doesNotMatch(page, /<(script|link|img|iframe|object|embed)\b|\b(src|href)=|url\(|@import|https?:/i);
});

test('the page is well formed: elements close in order, cells are in rows and rows in tables', () => {
  const parents: Record<string, string> = {
    td: 'tr',
    tr: 'thead tbody',
    thead: 'table',
    tbody: 'table',
    dd: 'dl',
    dt: 'dl',
  };
  const text = page.replace(/<!doctype html>/, '').replace(/<style>.*?<\/style>/s, '');
  const open: string[] = [];
  for (const [, close, name] of text.matchAll(/<(\/?)([a-z][a-z0-9]*)(?:\s+[a-z-]+="[^"<>]*")*\s*>/g)) {
    if (name === 'meta') continue;
    if (close) {
      assert.equal(open.pop(), name);
    } else {
      const allowed = parents[name!];
      if (allowed) assert.ok(allowed.split(' ').includes(open.at(-1)!), `${name} in ${open.at(-1)}`);
      open.push(name!);
    }
  }
  assert.deepEqual(open, []);
  const rest = text.replace(/<\/?[a-z][a-z0-9]*(?:\s+[a-z-]+="[^"<>]*")*\s*>/g, '');
  assert.doesNotMatch(rest, /[<>]/, 'all other brackets are escaped');
  assert.doesNotMatch(rest, /&(?!#\d+;)/, 'and so are ampersands');
  const widths = [...page.matchAll(/<tr><th scope="row">.*?<\/tr>/g)].map(
    ([row]) => row.match(/<td/g)!.length,
  );
  assert.deepEqual(new Set(widths.slice(0, 6)), new Set([8]), 'four prompts, two methods');
  assert.deepEqual(new Set(widths.slice(6)), new Set([4]), 'four people');
});
