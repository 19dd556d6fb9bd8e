/** What a LoRA must do on every model, whatever it says; test/adapter-files.test.ts is about its way there. */
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { readAdapter } from '../src/adapters.js';
import type { CapturePoint, Engine, TokenInput } from '../src/engine.js';
import type { EngineOptions } from '../src/llama/llama-engine.js';
import { type Adapter, type Layer, type Site, sites } from '../src/patchscope.js';
import { type Gguf, writeGguf } from './fixtures/gguf.js';
import { type LoraOptions, loraFor, matricesOf, merged } from './fixtures/lora.js';
import { decoderKinds, type ModelKind, tinyModel } from './fixtures/models.js';
import {
  assertClose,
  assertRefused,
  assertSameBits,
  cacheLayouts,
  everyIndex,
  largestDifference,
  open,
  patched,
  SOURCE,
  TARGET,
  tinyPath,
  tokens,
  withLayout,
  writeFile,
} from './support.js';

const CLOSE = 0.05;
const engines: Engine[] = [];
after(() => Promise.all(engines.map((engine) => engine.close())));

async function opened(path: string, options: EngineOptions = {}): Promise<Engine> {
  const engine = await open(path, options);
  engines.push(engine);
  return engine;
}

let count = 0;
const written = (gguf: Gguf): string => writeFile(`lora-${count++}.gguf`, writeGguf(gguf));
const adapterOf = (model: Gguf, weights: readonly string[], scale = 1, options: LoraOptions = {}): Adapter =>
  readAdapter(written(loraFor(model, weights, options)), scale);

const inputOf = (engine: Engine, text = TARGET): TokenInput => {
  const tokenIds = tokens(engine, text);
  return { tokenIds, ...(engine.record.encoderLayerCount > 0 && { encoderTokenIds: tokenIds }) };
};

async function everywhere(engine: Engine, input: TokenInput): Promise<Float32Array[]> {
  const reading = { tokenIndexes: everyIndex(input.tokenIds) };
  const [row] = await patched(engine, [{ ...input, edits: [] }], reading);
  return row!.positions.map(({ logits }) => logits!);
}

/** Which matrices llama.cpp adds no LoRA to, where not to all. */
const left: Readonly<Partial<Record<ModelKind, RegExp>>> = {
  deepseek2: /attn_(k_b|v_b|kv_a_mqa|q_a|q_b)|output\.weight/,
  gpt2: /position_embd|token_embd/,
  lfm2: /shortconv\.conv|token_embd/,
  rwkv6: /time_mix_(decay_)?w[12]/,
  rwkv7: /time_mix_[awvg][12]/,
};

/** A LoRA on every matrix that may have one; those that may not are refused by name. */
async function withAllMatrices(kind: ModelKind) {
  const model = tinyModel(kind);
  const isTied = !model.tensors.some(({ name }) => name === 'output.weight');
  const refused: string[] = [];
  let weights = matricesOf(model);
  while (true) {
    const adapter = adapterOf(model, weights);
    try {
      const engine = await opened(tinyPath(kind), { adapters: [adapter] });
      const other = await opened(written(merged(model, weights, 1)));
      return { engine, other, adapter: adapter.name, refused, isTied };
    } catch (error) {
      const { message } = error as Error;
      await assertRefused(() => Promise.reject(error), 'bad_model', /LoRA changes |lora-\d+\.gguf changes /);
      const name = / changes (\S+),/.exec(message)?.[1] ?? 'token_embd.weight';
      assert.ok(weights.includes(name), message);
      refused.push(name);
      weights = weights.filter((weight) => weight !== name);
    }
  }
}

for (const kind of decoderKinds) {
  test(`${kind}: a LoRA is as its matrices added to the weights, at every site, or is refused`, async () => {
    const { engine, other, adapter, refused, isTied } = await withAllMatrices(kind);
    const known = left[kind] ?? (isTied ? /ssm_conv1d|token_embd/ : /ssm_conv1d/);
    for (const name of refused) assert.match(name, known);
    const input = inputOf(engine);
    const plain = await everywhere(engine, input);
    const lora = await everywhere(engine, { ...input, adapter });
    const expected = await everywhere(other, input);
    assert.ok(largestDifference(lora.at(-1)!, plain.at(-1)!) > 0.5, 'it changes nothing');
    for (const [i, logits] of lora.entries()) assertClose(logits, expected[i]!, CLOSE, `read at ${i}`);
    for (const [i, logits] of (await everywhere(engine, input)).entries())
      assertSameBits(logits, plain[i]!, `without it again, read at ${i}`);

    const { layerCount } = engine.record;
    const layers: Layer[] = [...Array(layerCount).keys()];
    const places = sites.flatMap((site): { site: Site; layer: Layer }[] =>
      site === 'embed'
        ? [{ site, layer: 'embed' }]
        : site === 'final_norm'
          ? [{ site, layer: layerCount - 1 }]
          : layers.map((layer) => ({ site, layer })),
    );
    for (const place of places) {
      const points: CapturePoint[] = [2, input.tokenIds.length - 1].map((tokenIndex) => ({
        ...place,
        tokenIndex,
      }));
      const capture = (from: Engine, name?: string) =>
        from
          .capture([{ ...input, points, ...(name !== undefined && { adapter: name }) }])
          .catch((error: Error) => error.message);
      const [with_, without, as] = [
        await capture(engine, adapter),
        await capture(engine),
        await capture(other),
      ];
      const where = `${place.site} ${place.layer}`;
      if (typeof as === 'string') {
        assert.equal(with_, as, where);
        assert.equal(without, as, where);
        continue;
      }
      assert.ok(typeof with_ !== 'string' && with_[0]?.status === 'ok', `${where}: ${with_}`);
      assert.ok(as[0]?.status === 'ok');
      for (const [i, state] of with_[0].states.entries()) {
        const size = Math.sqrt(as[0].states[i]!.reduce((sum, value) => sum + value * value, 0));
        const difference = largestDifference(state, as[0].states[i]!) / size;
        assert.ok(difference < 5e-3, `${where}, point ${i}: ${difference} of its norm`);
      }
    }

    const vector = new Float32Array(engine.record.embeddingSize).map((_, i) => 3 * Math.sin(i + 1));
    const middle = Math.floor(layerCount / 2);
    const edits = [{ site: 'resid_out' as const, layer: middle, tokenIndex: 3, vector }];
    const reading = { maxTokens: 3 };
    const [edited] = await patched(other, [{ ...input, edits }], reading);
    const continuation = edited!.tokenIds;
    const row = { ...input, edits, continuation };
    const [a] = await patched(engine, [{ ...row, adapter }], reading);
    const [b] = await patched(other, [row], reading);
    for (const [i, { logits }] of a!.steps.entries())
      assertClose(logits!, b!.steps[i]!.logits!, 4 * CLOSE, `patched, token ${i}`);
  });
}

const llama = tinyModel('llama');
const some = ['blk.0.attn_q.weight', 'blk.1.ffn_down.weight', 'blk.2.attn_output.weight', 'output.weight'];

test('a LoRA at a scale of 0 is none, bit for bit, and one of zeros too', async () => {
  const nothing = adapterOf(llama, some, 0);
  const zeros = adapterOf(llama, some, 1, { size: 0 });
  const engine = await opened(tinyPath('llama'), { adapters: [nothing, zeros] });
  const input = inputOf(engine);
  const plain = await everywhere(engine, input);
  for (const { name } of [nothing, zeros]) {
    const read = await everywhere(engine, { ...input, adapter: name });
    for (const [i, logits] of read.entries()) assertSameBits(logits, plain[i]!, `${name}, read at ${i}`);
  }
});

test('scale, alpha and rank are what it is multiplied with', async () => {
  const options = { rank: 3, alpha: 5, seed: 2 };
  const path = written(loraFor(llama, some, options));
  const adapters = [1, 0.5, -2].map((scale) => readAdapter(path, scale));
  const engine = await opened(tinyPath('llama'), { adapters });
  const input = inputOf(engine);
  const read: Float32Array[] = [];
  for (const { name, scale } of adapters) {
    const other = await opened(written(merged(llama, some, scale, options)));
    const lora = (await everywhere(engine, { ...input, adapter: name })).at(-1)!;
    assertClose(lora, (await everywhere(other, input)).at(-1)!, CLOSE, name);
    read.push(lora);
  }
  assert.ok(largestDifference(read[0]!, read[1]!) > 0.1, 'scales differ');
  assert.deepEqual(
    engine.record.adapters!.map(({ alpha, scale, sha256 }) => [alpha, scale, sha256]),
    adapters.map(({ scale, sha256 }) => [5, scale, sha256]),
  );
});

for (const flashAttention of [true, false]) {
  for (const layout of cacheLayouts) {
    const how = `${layout}, flash attention ${flashAttention ? 'on' : 'off'}`;
    test(`rows with adapters and without do not disturb each other (${how})`, async () => {
      const [one, two] = [adapterOf(llama, some), adapterOf(llama, some, 0.5, { seed: 7 })];
      const engine = withLayout(
        await opened(tinyPath('llama'), { adapters: [one, two], flashAttention }),
        layout,
      );
      const input = inputOf(engine);
      const last = input.tokenIds.length - 1;
      const cuts = [{ from: [last], to: [1, 2], layers: [0, 1], atGenerated: true }];
      const rows = [undefined, one.name, two.name, undefined, two.name, one.name].map((adapter, i) => ({
        ...input,
        edits: [],
        ...(adapter !== undefined && { adapter }),
        ...(i > 2 && { cuts }),
      }));
      const reading = { maxTokens: 3 };
      const together = await patched(engine, rows, reading);
      for (const [i, row] of rows.entries()) {
        const [alone] = await patched(engine, [row], reading);
        assertClose(together[i]!.steps[0]!.logits!, alone!.steps[0]!.logits!, 1e-3, `row ${i}`);
      }
      const first = together.map(({ steps }) => steps[0]!.logits!);
      for (const [i, logits] of first.entries())
        for (const [k, other] of first.slice(i + 1).entries())
          assert.ok(largestDifference(logits, other) > 1e-3, `rows ${i} and ${i + 1 + k} are alike`);
      const other = withLayout(await opened(written(merged(llama, some, 1)), { flashAttention }), layout);
      const { adapter: _, ...plain } = rows[5]! as (typeof rows)[number] & { adapter: string };
      const [cut] = await patched(other, [plain], reading);
      assertClose(first[5]!, cut!.steps[0]!.logits!, CLOSE, 'a cut row with an adapter');
    });
  }
}

test('prompts with adapters and without are captured in one call', async () => {
  const adapter = adapterOf(llama, some);
  const engine = await opened(tinyPath('llama'), { adapters: [adapter] });
  const points = [{ site: 'resid_out' as const, layer: 2, tokenIndex: 4 }];
  const requests = [SOURCE, TARGET, SOURCE].flatMap((text) => [
    { ...inputOf(engine, text), points },
    { ...inputOf(engine, text), points, adapter: adapter.name },
  ]);
  const states = (await engine.capture(requests)).map((result) => {
    assert.ok(result.status === 'ok');
    return result.states[0]!;
  });
  for (const [i, request] of requests.entries()) {
    const [alone] = await engine.capture([request]);
    assert.ok(alone?.status === 'ok');
    assertSameBits(states[i]!, alone.states[0]!, `request ${i}`);
  }
  assert.ok(largestDifference(states[0]!, states[1]!) > 0.1, 'the adapter changes nothing');
});

test('the lens is that of the model with the adapter, fast or slow', async () => {
  const inside = adapterOf(llama, some.slice(0, 3));
  const all = adapterOf(llama, some);
  const engine = await opened(tinyPath('llama'), { adapters: [inside, all] });
  const other = await opened(written(merged(llama, some, 1)));
  const state = new Float32Array(engine.record.embeddingSize).map((_, i) => Math.cos(i));
  const lens = async (from: Engine, adapter?: string, way?: 'slow') => {
    const [result] = await from.lens(state, { topK: 1, logits: true, adapter, ...(way && { way }) });
    assert.ok(result?.status === 'ok');
    return result.logits!;
  };
  const plain = await lens(engine);
  assertClose(await lens(engine, inside.name), plain, 1e-3, 'only blocks are changed');
  const expected = await lens(other);
  for (const way of [undefined, 'slow'] as const)
    assertClose(await lens(engine, all.name, way), expected, 1e-3, `the output is changed, ${way}`);
  assert.ok(largestDifference(plain, expected) > 0.1, 'the adapter changes nothing');
  assertSameBits(await lens(engine), plain, 'without it again');
});

test('an adapter that the engine does not have is refused', async () => {
  const adapter = adapterOf(llama, some);
  const [with_, without] = [
    await opened(tinyPath('llama'), { adapters: [adapter] }),
    await opened(tinyPath('llama')),
  ];
  const reading = { topK: 1, maxTokens: 1 };
  const row = { ...inputOf(with_), edits: [], adapter: 'other' };
  await assertRefused(() => with_.patch([row], reading), 'bad_input', /no adapter 'other': take lora-\d+@/);
  await assertRefused(
    () => without.capture([{ ...row, points: [] }]),
    'bad_input',
    /no adapter 'other': the engine was opened without any/,
  );
  const state = new Float32Array(with_.record.embeddingSize).fill(1);
  await assertRefused(() => without.lens(state, { topK: 1, adapter: 'other' }), 'bad_input', /no adapter/);
});
