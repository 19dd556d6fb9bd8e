/** The experiments of the package: one table of all, told from their files, and each of them written out to be changed. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { copyExperiment } from '../src/experiment-file/copy.js';
import { listExperiments, listed } from '../src/experiment-file/listing.js';
import { builtInNames, readExperiment, readFile } from '../src/experiment-file/read-experiment.js';
import { experimentsTable, readmeParts } from './experiments-document.js';
import { folder } from './fixtures/disk.js';
import { assertBadInput, assertSentence } from './support.js';

const command = fileURLToPath(new URL('../dist/cli.js', import.meta.url));
const place = join(mkdtempSync(join(folder(), 'catalogue-')), 'of mine');
mkdirSync(place);

function cli(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [command, ...args], {
    ...{ cwd: place, encoding: 'utf8', timeout: 60_000 },
  });
  return { code: status, stdout, stderr };
}

const rowOf = (content: object) => {
  const path = join(place, 'listed.json');
  writeFileSync(path, JSON.stringify({ name: 'a', samples: [{ p: 'x' }], ...content }));
  return listed(readFile(path).file);
};

test('a row says T, i*, f, M*, l*, the source and what is read, of all variants that patch', () => {
  const lens = {
    source: { prompt: '{p}' },
    target: { prompt: { same: 'source' }, layers: -1 },
    reading: { tokens: 3 },
  };
  assert.deepEqual(rowOf(lens), {
    ...{ name: 'a', about: null, method: null, from: null },
    ...{ target: ['S'], targetPosition: ['i'], mapping: ['identity'], targetModel: 'M' },
    ...{ targetLayers: ['-1'], source: ['all'], reading: ['3 tokens'] },
  });
  const row = rowOf({
    ...{ method: 'mine', from: 'me 2024', model: { source: 'one', target: 'two' } },
    source: { prompt: '{p}', position: { random: true }, layers: '0..2', site: 'mlp_out' },
    target: { prompt: { text: 'say x', bos: false }, position: 'x' },
    mapping: { samples: [{ p: 'y' }] },
    variants: [
      { name: 'one' },
      { name: 'no template', target: { prompt: { chat: false }, layers: 'below' } },
      { name: 'own place', target: { prompt: '{p}', position: { random: true }, site: 'attn_out' } },
      { name: 'added', edit: { op: 'add', alpha: 2 } },
      { name: 'larger', mapping: 'identity', edit: { alpha: 3 } },
      { name: 'asked', target: { prompt: 'say y' }, edit: { op: 'scale' } },
    ],
    probe: { class: '{p}', subject: '{p}' },
    metrics: ['precision-at-1'],
  });
  assert.deepEqual(row, {
    ...{ name: 'a', about: null, method: 'mine', from: 'me 2024', targetModel: 'two' },
    target: ['"say x"', 'S'],
    targetPosition: ['x', 'i'],
    mapping: ['affine', 'h + 2 affine(v)', '3 v'],
    targetLayers: ['l', '< l', 'attn_out l'],
    source: ['mlp_out 0..2'],
    reading: ['1 token', 'a linear probe', 'precision-at-1'],
  });
  const nothing = rowOf({ ...lens, edit: { op: 'scale' } });
  assert.deepEqual(nothing.mapping, ['h'], 'where nothing is patched at all, that is what there is to say');
});

test('the table has a row for each experiment, as text and as JSON', () => {
  const table = cli('list');
  assert.equal(table.code, 0, table.stderr);
  const lines = table.stdout.trim().split('\n');
  assert.match(lines[0]!, /^name +T +i\* +f +M\* +l\* +source +read-out$/);
  assert.deepEqual(
    lines.slice(1).map((line) => line.split(' ')[0]),
    builtInNames(),
  );
  assert.match(
    table.stdout,
    /^logit-lens +S +i +identity +M +-1 +all +1 token, answer-rank, answer-logprob$/m,
  );
  const json = cli('list', '--json');
  assert.deepEqual(
    json.stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line)),
    listExperiments(),
  );
});

test('the table of the README is the one of the files, each with its test', () => {
  const [, written] = readmeParts();
  assert.equal(written, experimentsTable(), 'npm run list writes it anew');
});

test('each experiment written out elsewhere is the same experiment, with its comments', () => {
  for (const name of builtInNames()) {
    const path = join(place, `${name}.yaml`);
    const copied = copyExperiment(name, place);
    writeFileSync(path, copied);
    const options = { withoutMappings: true };
    const { text, ...own } = readExperiment(path, options);
    const { text: original, ...builtIn } = readExperiment(name, options);
    const models = own.models && {
      source: join(own.models.source),
      target: join(own.models.target),
    };
    assert.deepEqual({ ...own, ...(models && { models }) }, builtIn, name);
    assert.equal(text, copied);
    assert.equal(text.split('#').length, original.split('#').length, `${name}: comments`);
    const [, schema] = /^# yaml-language-server: \$schema=(.*)$/m.exec(text)!;
    assert.ok(existsSync(join(place, schema!)), `${name}: ${schema}`);
    for (const path of Object.values(own.models ?? {})) {
      if (path.endsWith('.gguf')) assert.ok(existsSync(path), path);
    }
  }
});

test('what is written out runs as it is, and no file is written over', () => {
  const output = join(place, 'mine.yaml');
  const printed = cli('new', 'known-answers-hops');
  const written = cli('new', 'known-answers-hops', '-o', output);
  assert.deepEqual([printed.code, written.code], [0, 0], written.stderr);
  assert.equal(readFileSync(output, 'utf8'), printed.stdout);
  const again = cli('new', 'logit-lens', '-o', output);
  assert.equal(again.code, 2);
  assert.match(again.stderr, /mine\.yaml exists: remove it, or name another/);
  assert.equal(readFileSync(output, 'utf8'), printed.stdout);
  const less = ['--limit', '2', '--set', 'source.layers=2', '-t', '1', '--no-db'];
  const run = cli('run', './mine.yaml', ...less);
  assert.equal(run.code, 0, run.stderr);
  assert.match(run.stdout, /^run - +known-answers-hops: \d+ of \d+ cells$/m);
});

test('only what comes with the package is written out', () => {
  const wrong = cli('new', 'logit-lense');
  assert.equal(wrong.code, 2);
  assert.match(wrong.stderr, /no built-in experiment 'logit-lense', perhaps logit-lens was meant/);
  assertSentence(wrong.stderr.trim());
  assertBadInput(
    () => copyExperiment('./mine.yaml', place),
    /'\.\/mine\.yaml' is no name of a built-in experiment/,
  );
});
