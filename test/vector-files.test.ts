/** Vectors in experiment files: what they mean, what is kept of them, what is refused before anything is run. */
import assert from 'node:assert/strict';
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { readExperiment } from '../src/experiment-file/read-experiment.js';
import { makePlan, type Plan } from '../src/plan/plan.js';
import { summarize } from '../src/plan/summary.js';
import { runHeader } from '../src/record-run.js';
import { openVectors } from '../src/vectors/open-vectors.js';
import { scalar, tensor, writeGguf } from './fixtures/gguf.js';
import { assertBadInput, assertRefused, folder, open, tinyPath, writeFile } from './support.js';
import { npyFile, safetensorsFile } from './vector-files.js';

const engine = await open(tinyPath('llama'));
const width = engine.record.embeddingSize;
test.after(() => engine.close());

interface Written {
  readonly source: string;
  readonly target?: string;
  readonly rest?: string;
}

function experimentOf({ source, target = 'prompt: the house, position: 3', rest = '' }: Written) {
  const text = `name: vectors
samples: [{ word: cat, feature: 1 }, { word: dog, feature: 2 }]
source: ${source}
target: { ${target} }
${rest}`;
  return readExperiment(writeFile('vectors.yaml', text)).experiment;
}

async function planOf(written: Written): Promise<Plan> {
  const opened = await openVectors(experimentOf(written), { source: engine, target: engine });
  return makePlan(opened, engine.tokenizer, engine.record);
}

const ofVector = (vector: string, rest = ''): Written => ({
  source: `{ vector: ${vector}, layers: 0..1 }`,
  rest,
});
const ofEdit = (edit: string): Written => ({
  source: '{ prompt: a, layers: 0 }',
  target: `prompt: the house, position: 3, edits: [${edit}]`,
});

const rows = new Float32Array(3 * width).map((_, i) => Math.sin(i));
const matrix = writeFile('rows.npy', npyFile([3, width], rows));

const refused = (written: Written, says: RegExp) => assertRefused(() => planOf(written), 'bad_input', says);

test('a vector that is the same at all layers has a cell for each target layer', async () => {
  const cells = (plan: Plan) => [
    ...new Set([...plan.cells.target].map((place) => plan.places[place]!.layer)),
  ];
  assert.deepEqual(cells(await planOf({ source: '{ vector: { zero: true }, layers: [1, 0] }' })), [1, 0]);
  const named = await planOf({
    source: '{ vector: { zero: true }, layers: [1, 0] }',
    target: 'prompt: the house, layers: [embed, 2]',
  });
  assert.deepEqual(cells(named), ['embed', 2]);
  assert.deepEqual(named.cells.source, named.cells.target);
  assert.equal(summarize(named, engine.record, width).sourceTokens, 0);
  const mean = await planOf({
    source: '{ vector: { mean: [a, b] }, layers: 0..1 }',
    target: 'prompt: x, layers: 2..3',
  });
  assert.equal(mean.cellCount, 8);
});

test('fields fill rows and prompts; samples of its own fill a template of its own', async () => {
  const { pairs } = await planOf(ofVector(`{ file: ${matrix}, row: "{feature}" }`));
  const valuesAt = (i: number) => {
    const { source } = pairs[i]!;
    return 'kind' in source && source.kind === 'file' ? source.read!.values : undefined;
  };
  assert.deepEqual([valuesAt(0), valuesAt(1)], [rows.slice(width, 2 * width), rows.slice(2 * width)]);
  const texts = async (vector: string) =>
    (await planOf(ofVector(vector))).pairs.map(({ source }) =>
      'kind' in source && source.kind === 'mean'
        ? source.prompts.map(({ text, tokenIndex }) => [text, tokenIndex])
        : [],
    );
  const lists = await texts('{ mean: ["a {word}", { prompt: { tokens: [5, 6, 7] }, position: 1 }] }');
  assert.deepEqual(
    lists.map(([first]) => first![0]),
    ['a cat', 'a dog'],
  );
  assert.deepEqual(lists[0]![1], [null, 1]);
  const own = await texts(
    '{ mean: { samples: [{ at: sea }, { at: mat }], prompt: "the {at}", position: 1 } }',
  );
  assert.deepEqual(
    own,
    [0, 1].map(() => [
      ['the sea', 1],
      ['the mat', 1],
    ]),
  );
});

test('what is kept of a vector tells it from every other one', async () => {
  const path = writeFile('kept.safetensors', safetensorsFile({ W: [[3, width], rows] }));
  const keptOf = async (written: Written) => runHeader(await planOf(written), { command: '' }).contents;
  const file = await keptOf(ofVector(`{ file: ${path}, tensor: W, row: 2 }`));
  const [record] = file.vectors!;
  assert.equal(record!.text, 'row 2 of W of kept.safetensors');
  const { sha256, ...kept } = record!.record as { sha256: string };
  assert.match(sha256, /^[0-9a-f]{64}$/);
  assert.deepEqual(kept, { kind: 'file', name: 'kept.safetensors', tensor: 'W', row: 2 });
  assert.deepEqual(
    file.variants.map(({ sourceVector }) => sourceVector),
    [0, 0],
  );
  const { prompt, ...place } = file.variants[0]!.source;
  assert.deepEqual(file.prompts[prompt], { text: record!.text, tokenIds: [] });
  assert.deepEqual(place, { position: 0, tokenId: -1, token: '' });
  const means = await keptOf(
    ofVector('{ difference: [[a, b], [{ prompt: { tokens: [9, 8] }, position: 0 }]] }'),
  );
  const { minus } = means.vectors![0]!.record as { minus: { prompt: number; position: number }[] };
  assert.deepEqual(means.prompts[minus[0]!.prompt]!.tokenIds, [9, 8]);
  assert.equal(minus[0]!.position, 0);
  const edit = '{ at: 1..2, layers: embed, op: add, vector: { noise: { sigma: 3, of: embed } } }';
  const noised = await keptOf(ofEdit(edit));
  const [own] = noised.variants[0]!.ownEdits as [{ vector: number; tokens: number[] }];
  assert.deepEqual(own.tokens, [1, 2]);
  const noise = noised.vectors![own.vector]!.record as { sigma: number; of: string; deviation: number };
  assert.ok(noise.sigma === 3 && noise.of === 'embed' && noise.deviation > 0);
});

test('a plan is another one for another row, file, sigma or edit, and the same wherever a file lies', async () => {
  const elsewhere = join(folder(), 'elsewhere');
  mkdirSync(elsewhere);
  const moved = join(elsewhere, 'rows.npy');
  copyFileSync(matrix, moved);
  const sha = async (written: Written) => (await planOf(written)).sha256;
  const file = (path: string, row: number) => ofVector(`{ file: ${path}, row: ${row} }`);
  const noise = (sigma: number) => ofVector(`{ noise: { sigma: ${sigma} } }`);
  const written = [
    file(matrix, 0),
    file(matrix, 1),
    noise(1),
    noise(2),
    ofEdit('{ at: 1, layers: 0, op: scale }'),
    ofEdit('{ at: 1, layers: 1, op: scale }'),
    ofEdit(''),
  ];
  const hashes = await Promise.all(written.map(sha));
  assert.equal(new Set(hashes).size, hashes.length);
  assert.deepEqual(await Promise.all(written.map(sha)), hashes);
  assert.equal(await sha(file(moved, 0)), hashes[0]);
  writeFileSync(
    moved,
    npyFile(
      [3, width],
      rows.map((value) => -value),
    ),
  );
  assert.notEqual(await sha(file(moved, 0)), hashes[0]);
});

test('a vector that does not fit is refused in one sentence before anything is run', async () => {
  const file = (name: string, bytes: Uint8Array, more = '') =>
    ofVector(`{ file: ${writeFile(name, bytes)}${more} }`);
  const floats = (count: number, value = 1) => new Float32Array(count).fill(value);
  await refused(
    file('narrow.npy', npyFile([width - 1], floats(width - 1))),
    /has 63 floats where the model's states have 64/,
  );
  await refused(file('nan.npy', npyFile([width], floats(width, Number.NaN))), /holds NaN or infinity/);
  await refused(ofVector('{ file: missing.npy }'), /which does not exist/);
  await refused(ofVector(`{ file: ${matrix} }`), /holds 3 rows: say which by row/);
  await refused(ofVector(`{ file: ${matrix}, row: 3 }`), /3 rows, 0 to 2, and no row 3/);
  await refused(ofVector(`{ file: ${matrix}, row: 0, tensor: W }`), /without a name: leave tensor out/);
  await refused(file('ints.npy', npyFile([width], floats(width), '<i4')), /no float16, float32 or float64/);
  await refused(file('cut.npy', npyFile([width], floats(width)).subarray(0, 200)), /can't be read/);
  await refused(file('text.npy', Buffer.from('no numbers at all')), /is no \.npy file/);
  await refused(file('vector.bin', Buffer.alloc(9)), /no \.safetensors, \.npy or \.gguf file/);
  const two = safetensorsFile({ decoder: [[width], floats(width)], other: [[width], floats(width)] });
  await refused(file('two.safetensors', two), /has 2 tensors of floats \(decoder, other\)/);
  await refused(file('three.safetensors', two, ', tensor: decodr'), /perhaps decoder was meant/);
  await refused(
    file('four.safetensors', two, ', tensor: decoder, row: 1'),
    /one dimension, which has no rows/,
  );
  await refused(file('half.safetensors', two.subarray(0, 90)), /no safetensors file/);
  await refused(ofVector('{ zero: true }', 'edit: { op: norm-matched-add }'), /is zero and has no direction/);
  await refused(
    ofVector('{ noise: { sigma: 0 } }', 'edit: { op: norm-matched-add }'),
    /is zero and has no direction/,
  );
  const control = writeGguf({
    metadata: new Map([['general.architecture', scalar('string', 'controlvector')]]),
    tensors: [1, 2].map((layer) => tensor(`direction.${layer}`, [width], floats(width))),
  });
  await refused(
    file('control.gguf', control),
    /has no direction for layer 0: it has some for the layers 1 to 2/,
  );
  await refused(file('broken.gguf', control.subarray(0, 50)), /no readable GGUF file/);
});

test('what a vector can not be used for is refused, too', async () => {
  const zero = '{ vector: { zero: true }, layers: 0 }';
  await refused({ source: zero, rest: 'controls: { shuffled: 1 }' }, /control shuffled takes: leave it out/);
  await refused({ source: zero, rest: 'metrics: [surprisal]' }, /says no next token for the metrics/);
  await refused(
    { source: zero, rest: 'probe: { class: "{word}", subject: "{word}", folds: 2 }' },
    /leave probe out/,
  );
  await refused({ source: zero, target: 'prompt: { same: source }' }, /write a prompt for the target/);
  await refused({ source: zero, target: 'prompt: { text: a, padded: true }' }, /leave padded out/);
  await refused({ source: zero, target: 'prompt: a, layers: below' }, /name the target layers/);
  await refused(
    ofEdit('{ at: 1, layers: 0, op: scale, vector: { zero: true } }'),
    /scales, which takes no vector/,
  );
  await refused(ofEdit('{ at: 1, layers: 0, op: add }'), /to add and has no vector/);
  await refused(
    ofEdit('{ at: [1, 0..1], layers: 0, op: scale }, { at: 1, layers: all, op: scale }'),
    /of the same state \(resid_out, layer 0, token/,
  );
  await refused(ofEdit('{ at: 99, layers: 0, op: scale }'), /outside the target prompt/);
  await refused(ofEdit('{ at: 1, layers: 99, op: scale }'), /Layer 99 is not in the model/);
  assert.throws(
    () => makePlan(experimentOf(ofVector(`{ file: ${matrix}, row: 0 }`)), engine.tokenizer, engine.record),
    /still to be read/,
  );
});

test('a file says where a vector is written wrong', () => {
  const bad = (written: Written, says: RegExp) => assertBadInput(() => experimentOf(written), says);
  bad({ source: '{ layers: 0 }' }, /source has neither a prompt nor a vector/);
  bad({ source: '{ prompt: a, vector: { zero: true } }' }, /:3:9: source has both a prompt and a vector/);
  bad({ source: '{ position: 0, vector: { zero: true } }' }, /source has a position, which is for a prompt/);
  bad(ofVector('{}'), /source\.vector has none of file, mean/);
  bad(ofVector('{ zero: true, mean: [a] }'), /has mean and zero of/);
  bad(ofVector('{ mean: [a], row: 1 }'), /has row, which is for a file/);
  bad(ofVector('{ mean: [] }'), /source\.vector\.mean/);
  bad(ofVector('{ mean: [{ prompt: { same: source } }] }'), /same: source, which is for a target/);
  bad(ofVector('{ difference: [[a]] }'), /a list of two lists of prompts/);
  bad(ofVector('{ noise: { sigma: -1 } }'), /at least 0/);
  bad(ofVector('{ random: { norm: 0 } }'), /above 0/);
  bad(ofVector('{ file: a.npy, row: "{word}" }'), /is cat for sample 1 .* where a whole number/);
  bad(
    { source: '{ vector: { zero: true } }', rest: 'mapping: { samples: [{ word: a }] }' },
    /a vector where a prompt is needed/,
  );
  bad(ofEdit('{ layers: 0, op: scale }'), /target\.edits\[0\]/);
});

test('a variant takes a vector in place of a prompt, or a prompt in place of a vector', async () => {
  const variants = `variants:
  - { name: same }
  - { name: zero, source: { vector: { zero: true } } }
  - { name: prompt, source: { prompt: "{word}", position: 0 } }`;
  const kinds = async (source: string) =>
    (await planOf({ source, rest: variants })).pairs
      .slice(0, 3)
      .map(({ source }) => ('kind' in source ? source.kind : source.text));
  assert.deepEqual(await kinds('{ prompt: the sea, layers: 0 }'), ['the sea', 'zero', 'cat']);
  assert.deepEqual(await kinds('{ vector: { mean: [a] }, layers: 0 }'), ['mean', 'zero', 'cat']);
});
