/** A converted model has the types that were asked for, opens and runs; whatever is lost on the way is said. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type Conversion, type ConversionType, conversionTypes, convertModel } from '../src/convert.js';
import { type Header, readHeader } from '../src/gguf.js';
import { loadAddon } from '../src/native.js';
import { writeSplit } from './fixtures/models.js';
import { asFile, assertRefused, folder, open, patched, realModel, tinyPath, tokens } from './support.js';

const world = fileURLToPath(new URL('world/world.gguf', import.meta.url));

/** What llama.cpp calls a file of each type, and the type of most of its matrices where rows are long enough. */
const expected: Readonly<Record<ConversionType, readonly [quantization: string, tensorType: string]>> = {
  f32: ['all F32', 'f32'],
  f16: ['F16', 'f16'],
  bf16: ['BF16', 'bf16'],
  q8_0: ['Q8_0', 'q8_0'],
  q6_k: ['Q6_K', 'q6_K'],
  q5_1: ['Q5_1', 'q5_1'],
  q5_0: ['Q5_0', 'q5_0'],
  q5_k_m: ['Q5_K - Medium', 'q5_K'],
  q5_k_s: ['Q5_K - Small', 'q5_K'],
  q4_1: ['Q4_1', 'q4_1'],
  q4_0: ['Q4_0', 'q4_0'],
  q4_k_m: ['Q4_K - Medium', 'q4_K'],
  q4_k_s: ['Q4_K - Small', 'q4_K'],
  iq4_nl: ['IQ4_NL - 4.5 bpw', 'iq4_nl'],
  iq4_xs: ['IQ4_XS - 4.25 bpw', 'iq4_xs'],
  q3_k_l: ['Q3_K - Large', 'q5_K'],
  q3_k_m: ['Q3_K - Medium', 'q4_K'],
  q3_k_s: ['Q3_K - Small', 'q3_K'],
  q2_k: ['Q2_K - Medium', 'q3_K'],
};

async function converted(
  from: string,
  to: ConversionType,
): Promise<{ path: string; header: Header; conversion: Conversion }> {
  const path = join(folder(), `converted-${to}.gguf`);
  rmSync(path, { force: true });
  const conversion = await convertModel(asFile(from), path, { to, threads: 1 });
  return { path, header: await readHeader(asFile(path), loadAddon('cpu')), conversion };
}

const sha = (path: string) => createHash('sha256').update(readFileSync(path)).digest('hex');

test('every type: the file says so, its matrices have it, it opens and runs', async () => {
  assert.deepEqual(Object.keys(expected), [...conversionTypes]);
  const seen = new Set([sha(world)]);
  for (const to of conversionTypes) {
    const { path, header, conversion } = await converted(world, to);
    const [quantization, tensorType] = expected[to];
    assert.equal(header.fileType, quantization, to);
    assert.deepEqual(conversion.types, header.types);
    // rows of the MLP's second matrix are 256 long, which every type can hold
    const down = header.tensors.filter(({ name }) => name.endsWith('.ffn_down.weight'));
    assert.ok(
      down.some(({ type }) => type === tensorType),
      `${to}: ${down.map(({ type }) => type)}`,
    );
    const norms = header.tensors.filter(({ name }) => name.includes('norm'));
    assert.ok(norms.length > 0 && norms.every(({ type }) => type === 'f32'));
    if (to !== 'f16') assert.ok(!seen.has(sha(path)), `${to}: the same bytes as another`);
    seen.add(sha(path));
    const engine = await open(path);
    assert.equal(engine.record.quantization, quantization);
    const [row] = await patched(engine, [
      { tokenIds: tokens(engine, 'the city of paul quill is'), edits: [] },
    ]);
    assert.ok(row!.steps[0]!.logits!.every(Number.isFinite), to);
    await engine.close();
    rmSync(path);
  }
});

test('types that lose next to nothing give the same answer, and fewer bits a smaller file', async () => {
  const sizes: number[] = [];
  for (const to of ['f32', 'bf16', 'q8_0', 'q4_0'] as const) {
    const { path, header } = await converted(world, to);
    sizes.push(header.bytes);
    if (to === 'q4_0') continue;
    const engine = await open(path);
    const [row] = await patched(engine, [
      { tokenIds: tokens(engine, 'the city of paul quill is'), edits: [] },
    ]);
    assert.equal(row!.text, ' bergen', to);
    await engine.close();
  }
  assert.deepEqual(
    sizes,
    sizes.toSorted((a, b) => b - a),
  );
});

for (const model of [
  { name: 'llama', path: () => tinyPath('llama'), skip: false, output: 'output.weight' },
  { ...realModel, output: 'token_embd.weight' }, // tied
]) {
  test(`${model.name}: matrices whose width the blocks do not divide are counted`, {
    skip: model.skip,
  }, async () => {
    const { header, conversion } = await converted(model.path(), 'q4_k_m');
    const narrow = header.tensors.filter(
      ({ name, shape, isQuantized }) => isQuantized && shape[0]! % 256 !== 0 && name !== model.output,
    );
    // llama.cpp does not count the output matrix, for which it has a rule of its own
    assert.equal(conversion.fallbacks, narrow.length);
    assert.ok(narrow.length > 0);
    assert.ok(narrow.every(({ type }) => !/_K$/.test(type)));
    const plain = await converted(tinyPath('llama'), 'q8_0');
    assert.equal(plain.conversion.fallbacks, 0);
    assert.equal(plain.header.tensors.find(({ name }) => name === model.output)?.type, 'q8_0');
  });
}

test('rounding a second time is said, and only then', async () => {
  const once = await converted(world, 'q8_0');
  assert.equal(once.conversion.requantized, null);
  const again = join(folder(), 'twice.gguf');
  for (const [to, requantized] of [
    ['q4_0', 'Q8_0'],
    ['f16', 'Q8_0'],
    ['f32', null],
  ] as const) {
    rmSync(again, { force: true });
    const conversion = await convertModel(asFile(once.path), again, { to, threads: 1 });
    assert.equal(conversion.requantized, requantized, to);
  }
});

test('a split model becomes one file, the same as from the whole', async () => {
  const [first, second] = writeSplit(join(folder(), 'convert-split.gguf'));
  const output = join(folder(), 'joined.gguf');
  await convertModel({ ...asFile(first), parts: [first, second] }, output, { to: 'q8_0', threads: 1 });
  assert.equal(sha(output), sha((await converted(tinyPath('llama'), 'q8_0')).path));
});

test('the number of threads changes no byte', async () => {
  const one = join(folder(), 'one-thread.gguf');
  const two = join(folder(), 'two-threads.gguf');
  await convertModel(asFile(world), one, { to: 'q4_k_m', threads: 1 });
  await convertModel(asFile(world), two, { to: 'q4_k_m', threads: 2 });
  assert.equal(sha(one), sha(two));
});

test('a type that there is not, an output that there is: refused, nothing written', async () => {
  const output = join(folder(), 'refused.gguf');
  const to = (type: string) =>
    convertModel(asFile(world), output, { to: type as ConversionType, threads: 1 });
  for (const type of ['iq1_s', 'q2_k_s', 'Q4_0', '']) {
    await assertRefused(() => to(type), 'bad_input', /no type '.*' to convert to: take f32, f16, .*q2_k/);
  }
  await assertRefused(
    () => convertModel(asFile(world), world, { to: 'q8_0', threads: 1 }),
    'bad_input',
    /world\.gguf exists/,
  );
  assert.ok(!existsSync(output));
  assert.deepEqual(
    readdirSync(folder()).filter((name) => name.endsWith('.part')),
    [],
  );
});
