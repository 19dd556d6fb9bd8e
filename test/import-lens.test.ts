/** Published lens weights as a mapping: what they make of a state, and which of them are refused. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Engine } from '../src/engine.js';
import { readExperiment } from '../src/experiment-file/read-experiment.js';
import { type ImportOptions, importLens } from '../src/fit-mapping/import-lens.js';
import { MappingFile } from '../src/mapping/mapping-file.js';
import type { Layer } from '../src/patchscope.js';
import { cellAt, makePlan } from '../src/plan/plan.js';
import { gaussians } from '../src/random.js';
import { ChunkRunner } from '../src/run.js';
import { layOut } from '../src/safetensors.js';
import {
  assertRefused,
  assertSentence,
  folder,
  sharedEngine,
  tinyModels,
  tinyPath,
  writeFile,
} from './support.js';

const llama = tinyModels.find(({ name }) => name === 'llama')!;
const engineOf = () => sharedEngine(llama);
const settings = { set: ['samples=[{ prompt: the cat and, next: dog }, { prompt: of the, next: sea }]'] };
const lensExperiment = (more: readonly string[] = []) =>
  readExperiment('tuned-lens', { set: [...settings.set, ...more], withoutMappings: true }).experiment;

function weightsFile(
  name: string,
  tensors: Readonly<Record<string, readonly [shape: number[], values: Float32Array]>>,
) {
  const { header, bytes, offsets } = layOut(
    Object.entries(tensors).map(([name, [shape]]) => ({ name, shape })),
    {},
  );
  const file = Buffer.alloc(bytes);
  header.copy(file);
  for (const [name, [, values]] of Object.entries(tensors)) {
    Buffer.from(values.buffer, values.byteOffset, values.byteLength).copy(file, offsets.get(name));
  }
  return writeFile(name, file);
}

/** As they are published: a weight and a bias for each layer. */
function lensFile(
  name: string,
  { layerCount, embeddingSize: width }: Pick<Engine['record'], 'layerCount' | 'embeddingSize'>,
  { size = 0, prefix = '' } = {},
) {
  const tensors = Array.from({ length: layerCount }, (_, i) => [
    [`${prefix}${i}.weight`, [[width, width], gaussians(width * width, i).map((value) => size * value)]],
    [`${prefix}${i}.bias`, [[width], gaussians(width, 100 + i).map((value) => size * value)]],
  ]).flat();
  return weightsFile(name, Object.fromEntries(tensors));
}

async function imported(from: string, options: Partial<ImportOptions> = {}, set: readonly string[] = []) {
  const output = join(folder(), `imported ${Math.random()}.safetensors`);
  const record = await importLens(lensExperiment(set), await engineOf(), output, {
    ...{ from, variant: 'tuned-lens' },
    ...options,
  });
  return { output, record };
}

/** What the file's lens and the logit lens say, cell by cell: by layer and sample, the scores of the token read. */
async function read(mapping: string) {
  const engine = await engineOf();
  const { experiment } = readExperiment('tuned-lens', { set: [...settings.set, `mapping=${mapping}`] });
  const plan = makePlan(experiment, engine.tokenizer, engine.record);
  const outcomes = await new ChunkRunner(plan, engine).runCells(
    Array.from({ length: plan.cellCount }, (_, i) => i),
  );
  const of = (variant: string) =>
    new Map(
      outcomes.flatMap(({ status, steps, scores }, i) => {
        const { pair, source, control } = cellAt(plan, i);
        assert.equal(status, 'ok');
        return pair.variant === variant && control === 'none'
          ? [[`${pair.sample} ${source.layer}`, { steps, scores }] as const]
          : [];
      }),
    );
  return { lens: of('tuned-lens'), logit: of('logit-lens') };
}

test('a lens of zeros is the logit lens, bit for bit', async () => {
  const { record } = await engineOf();
  const { output, record: mapping } = await imported(lensFile('zero.safetensors', record));
  assert.equal(mapping.maps.length, record.layerCount + 1);
  assert.deepEqual(mapping.imported?.file, 'zero.safetensors');
  const { lens, logit } = await read(output);
  assert.equal(lens.size, 2 * (record.layerCount + 1));
  assert.deepEqual(lens, logit);
});

test('translator i takes the input of block i, and is added to it; the last output needs none', async () => {
  const { record } = await engineOf();
  const { layerCount, embeddingSize: width } = record;
  const file = lensFile('random.safetensors', record, { size: 0.1, prefix: 'layer_translators.' });
  const { output } = await imported(file);
  const plain = await imported(file, { isResidual: false });
  const open = [output, plain.output].map((path) => new MappingFile(path));
  const target = { site: 'resid_out' as const, layer: layerCount - 1 };
  const layers: Layer[] = ['embed', ...Array.from({ length: layerCount }, (_, i) => i)];
  for (const [i, layer] of layers.entries()) {
    const source = { site: layer === 'embed' ? ('embed' as const) : ('resid_out' as const), layer };
    const [residual, whole] = open.map((one) => one.map({ source, target }));
    const isLast = i === layerCount;
    const weight = isLast
      ? new Float32Array(width * width)
      : gaussians(width * width, i).map((value) => 0.1 * value);
    const bias = isLast ? new Float32Array(width) : gaussians(width, 100 + i).map((value) => 0.1 * value);
    const withIdentity = weight.map((value, at) => value + (at % (width + 1) === 0 ? 1 : 0));
    assert.deepEqual(residual, { weight: withIdentity, bias });
    assert.deepEqual(whole, { weight: isLast ? withIdentity : weight, bias });
  }
  for (const one of open) one.close();
  const { lens, logit } = await read(output);
  for (const [key, one] of lens) {
    if (key.endsWith(` ${layerCount - 1}`)) assert.deepEqual(one, logit.get(key));
    else assert.notDeepEqual(one, logit.get(key), key);
  }
});

test('weights without biases are taken, too', async () => {
  const { layerCount, embeddingSize: width } = (await engineOf()).record;
  const tensors = Array.from({ length: layerCount }, (_, i) => [
    `${i}.weight`,
    [[width, width], new Float32Array(width * width)] as [number[], Float32Array],
  ]);
  const { output } = await imported(weightsFile('unbiased.safetensors', Object.fromEntries(tensors)));
  const { lens, logit } = await read(output);
  assert.deepEqual(lens, logit);
});

test('what is no lens of this model is refused in a sentence, and nothing is written', async () => {
  const { record } = await engineOf();
  const { layerCount, embeddingSize } = record;
  const bad = async (file: string, says: RegExp, options = {}, set: readonly string[] = []) => {
    const output = join(folder(), 'refused.safetensors');
    const task = importLens(lensExperiment(set), await engineOf(), output, {
      ...{ from: file, variant: 'tuned-lens' },
      ...options,
    });
    await assertRefused(() => task, 'bad_input', says);
    assert.ok(!existsSync(output));
  };
  const good = lensFile('good.safetensors', record);
  await bad(
    lensFile('wide.safetensors', { ...record, embeddingSize: embeddingSize + 1 }),
    /hold 0\.weight of shape .* needs .*: take a lens of the same model/,
  );
  await bad(
    lensFile('deep.safetensors', { ...record, layerCount: layerCount + 1 }),
    new RegExp(`are of ${layerCount + 1} layers, and this model has ${layerCount}: take a lens`),
  );
  const bytes = readFileSync(good);
  await bad(
    writeFile('params.pt', Buffer.from('PK\u0003\u0004 and more')),
    /are a pickle, which only Python reads: in Python/,
  );
  await bad(writeFile('old.pt', Buffer.from([0x80, 2, 0x7d, 0, 0, 0, 0, 0, 0])), /are a pickle/);
  await bad(
    writeFile('cut.safetensors', bytes.subarray(0, bytes.length - 1)),
    /are no safetensors file of F32 floats/,
  );
  await bad(
    writeFile('half.safetensors', Buffer.from(bytes.toString('latin1').replaceAll('F32', 'F16'), 'latin1')),
    /are no safetensors file of F32 floats: in Python/,
  );
  await bad(
    weightsFile('other.safetensors', { x: [[1], Float32Array.of(1)] }),
    /hold no tensor named 0\.weight/,
  );
  await bad(join(folder(), 'none.safetensors'), /don't exist/);
  await bad(good, /A lens takes what a block puts out/, {}, ['source.site=mlp_out', 'source.layers=all']);
  await bad(good, /A lens takes .* its target layer -1/, {}, ['target.layers=0']);
  await bad(good, /There is no variant 'x'/, { variant: 'x' });
});

test('the command takes a lens, which the experiment then runs with', async () => {
  const { record } = await engineOf();
  const command = fileURLToPath(new URL('../dist/cli.js', import.meta.url));
  const [from, output] = [lensFile('taken.safetensors', record), join(folder(), 'taken lens.safetensors')];
  const cli = (...args: string[]) =>
    spawnSync(
      process.execPath,
      [command, ...args, '-m', tinyPath('llama'), '-t', '1', '--set', settings.set[0]!],
      {
        encoding: 'utf8',
      },
    );
  const fit = ['fit', 'tuned-lens', '--variant', 'tuned-lens', '--from', from];
  const taken = cli(...fit, '-o', output);
  assert.equal(taken.status, 0, taken.stderr);
  assert.match(taken.stderr, new RegExp(`taken +${record.layerCount + 1} maps`));
  const run = cli('run', 'tuned-lens', '--set', `mapping=${output}`, '--no-db');
  assert.equal(run.status, 0, run.stderr);
  const wrong = cli(...fit, '-o', join(folder(), 'x.safetensors'), '--target-model', tinyPath('gpt2'));
  assert.equal(wrong.status, 2);
  assert.match(wrong.stderr, /A lens is of one model: leave --target-model out/);
  assertSentence(wrong.stderr.trim().split('\n').at(-1)!);
});
