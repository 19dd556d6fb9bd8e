/** What is told of a model agrees with its file, with an engine that opens it, and with llama.cpp's own answers. */
import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { test } from 'node:test';
import { convertModel } from '../src/convert.js';
import { type Inspection, inspectModel } from '../src/inspect/inspect.js';
import { fitOf } from '../src/inspect/memory.js';
import { loadAddon } from '../src/native.js';
import { t5 } from './fixtures/architectures/t5.js';
import { list, scalar, writeGguf } from './fixtures/gguf.js';
import { badKinds, goodKinds, tinyModel, writeSplit } from './fixtures/models.js';
import {
  allModels,
  asFile,
  assertRefused,
  assertSentence,
  folder,
  open,
  tinyPath,
  writeFile,
  writeVariant,
} from './support.js';

const inspect = (path: string, parts = [path]): Promise<Inspection> =>
  inspectModel({ ...asFile(path), bytes: statSync(path).size, parts }, { gpu: 'off' });

const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);

for (const model of allModels) {
  test(`${model.name}: what inspect says is what an engine says`, { skip: model.skip }, async () => {
    const inspection = await inspect(model.path());
    const engine = await open(model.path());
    const { architecture, name, layerCount, embeddingSize, vocabularySize, trainedContext, quantization } =
      engine.record;
    const said = {
      architecture,
      name,
      layerCount,
      embeddingSize,
      vocabularySize,
      trainedContext,
      quantization,
    };
    for (const [key, value] of Object.entries(said)) {
      assert.equal(inspection[key as keyof Inspection], value, key);
    }
    assert.equal(inspection.addsBos ? inspection.bos?.tokenId : undefined, engine.tokenizer.bosToken);
    assert.ok(engine.tokenizer.isEndOfText(inspection.eos!.tokenId));
    for (const token of [inspection.bos!, inspection.eos!]) {
      assert.equal(Buffer.from(engine.tokenizer.tokenBytes(token.tokenId)).toString(), token.text);
    }
    assert.equal(inspection.noSites, null);
    for (const site of ['embed', 'resid_out']) assert.equal(inspection.sites[site]?.reason, null, site);
    for (const [site, { nodes, reason }] of Object.entries(inspection.sites)) {
      assert.equal(nodes.length, /^(embed|final_norm)$/.test(site) ? 1 : layerCount, site);
      assert.equal(nodes.includes(null), reason !== null, site);
    }
    await engine.close();
  });

  test(`${model.name}: bytes add up`, { skip: model.skip }, async () => {
    const { memory, tensors, types, kernels, bytes } = await inspect(model.path());
    const { embeddingBytes, outputBytes, otherBytes, blockBytes } = memory;
    assert.equal(embeddingBytes + outputBytes + otherBytes + sum(blockBytes), memory.bytes);
    assert.equal(sum(tensors.map((tensor) => tensor.bytes)), memory.bytes);
    assert.equal(sum(types.map((type) => type.bytes)), memory.bytes);
    assert.equal(sum(types.map((type) => type.tensors)), tensors.length);
    assert.ok(memory.bytes < bytes && embeddingBytes > 0);
    assert.ok(blockBytes.every((count) => count > 0));
    assert.ok(kernels.repackedBytes <= kernels.fastBytes && kernels.fastBytes <= kernels.quantizedBytes);
  });

  test(`${model.name}: K/V by the heads in the header are those of a context`, {
    skip: model.skip,
  }, async () => {
    const { memory, layerCount } = await inspect(model.path());
    // the sum is a context's own; it is given by block only where the header gives the same
    assert.equal(memory.cacheBytesPerTokenByBlock?.length, layerCount);
    assert.equal(sum(memory.cacheBytesPerTokenByBlock!), memory.cacheBytesPerToken);
  });
}

test('tensors are those of the file, with shape, type and block', async () => {
  for (const kind of goodKinds) {
    const { tensors } = await inspect(tinyPath(kind));
    assert.deepEqual(
      tensors.map(({ name, type, shape, bytes }) => ({ name, type, shape, bytes })),
      tinyModel(kind).tensors.map(({ name, type, shape, bytes }) => ({
        name,
        type,
        shape,
        bytes: bytes.length,
      })),
      kind,
    );
    for (const { name, side, block } of tensors) {
      assert.equal(block === null ? '' : `blk.${block}.`, /^blk\.\d+\./.exec(name)?.[0] ?? '', name);
      assert.equal(side, block === null ? null : 'decoder', name);
    }
  }
});

for (const kind of badKinds) {
  test(`${kind}: refused by an engine, inspected all the same with the engine's reason`, async () => {
    const refusal = await open(tinyPath(kind)).then(
      () => assert.fail('opened'),
      (error: Error) => error.message,
    );
    const inspection = await inspect(tinyPath(kind));
    assert.equal(inspection.noSites, refusal);
    assertSentence(inspection.noSites);
    assert.deepEqual(inspection.sites, {});
    const { metadata, tensors } = tinyModel(kind);
    assert.deepEqual(scalar('string', inspection.architecture!), metadata.get('general.architecture'));
    assert.equal(inspection.tensors.length, tensors.length);
    const width = metadata.get(`${inspection.architecture}.embedding_length`);
    assert.deepEqual(scalar('u32', inspection.embeddingSize!), width);
  });
}

test('of an encoder-decoder model both sides are told, each with its sites and its bytes', async () => {
  const blocks = { encoder: 4, decoder: 2 };
  const model = t5({}, blocks);
  const path = writeFile('inspect-t5.gguf', writeGguf(model));
  const inspection = await inspect(path);
  const { layerCount, encoderLayerCount, sites, encoderSites, memory, tensors } = inspection;
  assert.deepEqual([layerCount, encoderLayerCount], [blocks.decoder, blocks.encoder]);
  for (const [side, prefix, own, bytes] of [
    ['encoder', 'enc', encoderSites, memory.encoderBlockBytes],
    ['decoder', 'dec', sites, memory.blockBytes],
  ] as const) {
    const expected = Array.from({ length: blocks[side] }, (_, block) => {
      const inBlock = model.tensors.filter(({ name }) => name.startsWith(`${prefix}.blk.${block}.`));
      assert.deepEqual(
        tensors.filter((tensor) => tensor.side === side && tensor.block === block).map(({ name }) => name),
        inBlock.map(({ name }) => name),
      );
      return sum(inBlock.map((tensor) => tensor.bytes.length));
    });
    assert.deepEqual(bytes, expected, side);
    for (const [site, { nodes, reason }] of Object.entries(own)) {
      assert.equal(nodes.length, /^(embed|final_norm)$/.test(site) ? 1 : blocks[side], site);
      assert.equal(reason !== null, side === 'decoder' && site === 'attn_out', `${side} ${site}: ${reason}`);
    }
  }
  const { embeddingBytes, outputBytes, otherBytes, blockBytes, encoderBlockBytes } = memory;
  const inBlocks = sum(blockBytes) + sum(encoderBlockBytes);
  assert.equal(embeddingBytes + outputBytes + otherBytes + inBlocks, memory.bytes);
  const norms = model.tensors.filter(({ name }) => name.endsWith('.output_norm.weight'));
  assert.equal(otherBytes, sum(norms.map((tensor) => tensor.bytes.length)));

  const converted = `${folder()}/inspect-t5-q4_1.gguf`;
  await convertModel(asFile(path), converted, { to: 'q4_1', threads: 1 });
  const quantized = await inspect(converted);
  assert.equal(
    quantized.kernels.quantizedBytes,
    sum(quantized.tensors.filter((own) => own.isQuantized && own.block !== null).map((own) => own.bytes)),
  );
  assert.ok(quantized.kernels.quantizedBytes > 0);

  const plain = await inspect(tinyPath('llama'));
  assert.deepEqual(
    [plain.encoderLayerCount, plain.encoderSites, plain.memory.encoderBlockBytes],
    [0, {}, []],
  );
});

test('blocks of each side as the file states them, where it is not loaded', async (t) => {
  t.mock.method(process, 'availableMemory', () => 1000);
  const counts = async (name: string, path = writeFile(`${name}.gguf`, writeGguf(models[name]!))) => {
    const { noSites, encoderLayerCount, layerCount } = await inspect(path);
    assert.match(noSites!, /was not loaded/);
    return [encoderLayerCount, layerCount];
  };
  const { metadata, tensors } = t5();
  const without = new Map([...metadata].filter(([key]) => key !== 't5.decoder_block_count'));
  const models: Record<string, Parameters<typeof writeGguf>[0]> = {
    'inspect-both': { metadata, tensors },
    'inspect-unsaid': { metadata: without, tensors },
    'inspect-encoder': { metadata, tensors: tensors.filter(({ name }) => !name.startsWith('dec.')) },
  };
  assert.deepEqual(await counts('inspect-both'), [3, 2]);
  assert.deepEqual(await counts('inspect-unsaid'), [3, 3]);
  assert.deepEqual(await counts('inspect-encoder'), [3, 0]);
  assert.deepEqual(await counts('llama', tinyPath('llama')), [0, 4]);
});

test('a recurrent model keeps no K/V', async () => {
  const { memory, fit } = await inspect(tinyPath('mamba'));
  assert.equal(memory.cacheBytesPerToken ?? 0, 0);
  assert.equal(fit.tokens, null);
});

test('a split model is told as the whole', async () => {
  const [first, second] = writeSplit(`${folder()}/inspected.gguf`);
  const split = await inspect(first, [first, second]);
  const whole = await inspect(tinyPath('llama'));
  assert.equal(split.parts, 2);
  assert.deepEqual(split.tensors, whole.tensors);
  assert.deepEqual(split.sites, whole.sites);
  assert.deepEqual(split.memory, whole.memory);
});

test('what the file does not say is null; a chat template is given', async () => {
  const plain = await inspect(tinyPath('llama'));
  assert.equal(plain.chatTemplate, null);
  const chat = await inspect(
    writeVariant('llama', 'inspect-chat.gguf', {
      'tokenizer.chat_template': scalar('string', '{{ messages }}'),
    }),
  );
  assert.equal(chat.chatTemplate, '{{ messages }}');
  const nothing = await inspect(
    writeVariant('llama', 'inspect-odd.gguf', {
      'general.architecture': scalar('u32', 7),
      'tokenizer.ggml.tokens': list('i32', []),
    }),
  );
  const { architecture, layerCount, heads, bos, memory } = nothing;
  assert.deepEqual([architecture, layerCount, heads, bos], [null, null, null, null]);
  assert.equal(memory.cacheBytesPerToken, null);
  assertSentence(nothing.noSites!);
});

test('sizes that no model has are told as unknown, and no tensor is lost', async () => {
  const many = await inspect(
    writeVariant('llama', 'inspect-many.gguf', { 'llama.block_count': scalar('u32', 4_000_000_000) }),
  );
  assert.deepEqual([many.layerCount, many.heads, many.memory.blockBytes], [null, null, []]);
  const headless = await inspect(
    writeVariant('llama', 'inspect-headless.gguf', { 'llama.attention.head_count': scalar('u32', 0) }),
  );
  assert.deepEqual([headless.headSize, headless.memory.cacheBytesPerToken], [null, null]);
  const { metadata, tensors } = tinyModel('llama');
  const far = await inspect(
    writeFile(
      'inspect-far.gguf',
      writeGguf({ metadata, tensors: [...tensors, { ...tensors[0]!, name: 'blk.4000000000.far' }] }),
    ),
  );
  for (const { noSites, memory } of [many, headless, far]) {
    assertSentence(noSites!);
    const { embeddingBytes, outputBytes, otherBytes, blockBytes } = memory;
    assert.equal(embeddingBytes + outputBytes + otherBytes + sum(blockBytes), memory.bytes);
  }
});

test('a file that is no GGUF is refused', async () => {
  for (const [name, bytes] of [
    ['inspect-text.gguf', 'Dear model,\n'],
    ['inspect-magic.gguf', 'GGUF'],
    ['inspect-cut.gguf', 'GGUF\u0003\0\0\0'],
  ] as const) {
    await assertRefused(() => inspect(writeFile(name, bytes)), 'bad_model', new RegExp(name));
  }
});

test('blocks that fit a device: the output first, then from the last, each with its K/V', () => {
  const memory = {
    bytes: 175,
    embeddingBytes: 50,
    outputBytes: 25,
    otherBytes: 0,
    blockBytes: [40, 30, 30],
    encoderBlockBytes: [],
    cacheBytesPerToken: 3,
    cacheBytesPerTokenByBlock: null,
  };
  const layers = (freeBytes: number, outputBytes = 25, blocks = {}) => {
    const gpu = {
      name: 'G',
      description: 'd',
      kind: 'gpu',
      registry: 'r',
      freeBytes,
      totalBytes: 0,
    } as const;
    return fitOf({ ...memory, outputBytes, ...blocks }, 0, [gpu], 10).gpus[0]!.gpuLayers;
  };
  assert.deepEqual(
    [24, 25, 64, 65, 104, 105, 154, 155, 999].map((free) => layers(free)),
    [0, 1, 1, 2, 2, 3, 3, 4, 4],
  );
  const sides = { encoderBlockBytes: [20, 20, 30], blockBytes: [20, 10] }; // of one number together
  assert.deepEqual(
    [24, 25, 64, 65, 104, 105, 154, 155].map((free) => layers(free, 25, sides)),
    [0, 1, 1, 2, 2, 3, 3, 4],
  );
  assert.equal(layers(49, 0), 0); // the embedding is copied for the output
  assert.equal(layers(50, 0), 1);
  assert.equal(fitOf(memory, 205, [], 10).tokens, 10);
  assert.equal(fitOf(memory, 100, [], 10).tokens, 0);
});

test('the conversion that is advised makes the weights fast, and then nothing is advised', async () => {
  for (const from of ['q4_1', 'q5_1'] as const) {
    const path = `${folder()}/inspect-${from}.gguf`;
    await convertModel(asFile(tinyPath('llama')), path, { to: from, threads: 1 });
    const { advice, quantizedBytes, repackedBytes, fastBytes } = (await inspect(path)).kernels;
    const { isRepacked } = loadAddon('cpu').matrixCost(from, [64, 64]);
    assert.equal(repackedBytes > 0, isRepacked);
    assert.equal(advice === null, isRepacked);
    if (advice === null) continue;
    assert.deepEqual([quantizedBytes > 0, fastBytes], [true, 0]);
    assert.deepEqual([advice.type, advice.bitsPerWeight], [from, from === 'q4_1' ? 5 : 6]);
    const converted = `${folder()}/inspect-advised-${from}.gguf`;
    await convertModel(asFile(path), converted, { to: advice.to, threads: 1 });
    const after = await inspect(converted);
    assert.equal(after.kernels.advice, null);
    assert.equal(after.kernels.fastBytes, after.kernels.quantizedBytes);
    const before = quantizedBytes / advice.bitsPerWeight;
    assert.equal(after.kernels.quantizedBytes / advice.toBitsPerWeight, before);
  }
});

test('q4_1 on a CPU that repacks q4_0 is to become q4_0', async () => {
  const path = `${folder()}/inspect-slow.gguf`;
  await convertModel(asFile(tinyPath('llama')), path, { to: 'q4_1', threads: 1 });
  const addon = loadAddon('cpu');
  const repacks = (type: string) => addon.matrixCost(type, [64, 64]).isRepacked;
  if (!repacks('q4_1') && repacks('q4_0')) assert.equal((await inspect(path)).kernels.advice?.to, 'q4_0');
});

test('a matrix costs what its type takes, and only what a type can hold is repacked', async () => {
  const addon = loadAddon('cpu');
  assert.deepEqual(addon.matrixCost('f32', [48, 10]), { bytes: 1920, isRepacked: false });
  assert.equal(addon.matrixCost('q4_0', [64, 64]).bytes, (64 * 64 * 4.5) / 8);
  assert.equal(addon.matrixCost('q4_0', [64, 64, 3]).bytes, (3 * 64 * 64 * 4.5) / 8);
  const nothing = { bytes: 0, isRepacked: false };
  for (const shape of [[1024], [48, 64], [64, 64, 2, 2], []]) {
    assert.deepEqual(addon.matrixCost('q4_0', shape), nothing, String(shape));
  }
  for (const type of ['no such type', '', 'q4_K_M']) {
    assert.deepEqual(addon.matrixCost(type, [1024, 1024]), nothing, type);
  }
  const { tensors } = await inspect(tinyPath('qwen3'));
  for (const { type, shape, bytes } of tensors.filter(({ shape }) => shape.length > 1)) {
    assert.equal(addon.matrixCost(type, shape).bytes, bytes);
  }
});

test('full precision is never warned of', async () => {
  const { advice, quantizedBytes } = (await inspect(tinyPath('qwen3'))).kernels;
  assert.deepEqual([advice, quantizedBytes], [null, 0]);
});

test('a model that does not fit into memory is not loaded, and its header is told', async (t) => {
  t.mock.method(process, 'availableMemory', () => 1000);
  const { noSites, sites, fit, layerCount, quantization, addsBos } = await inspect(tinyPath('llama'));
  assert.match(noSites!, /^The model was not loaded: its weights take \S+ GB where 0\.0 GB are free\.$/);
  assert.deepEqual(sites, {});
  assert.deepEqual([fit.freeBytes, fit.tokens, layerCount, quantization, addsBos], [1000, 0, 4, null, true]);
});
