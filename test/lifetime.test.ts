/** An engine ends when it is told to, and with its process, whatever it is doing. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import type { Engine, PatchRow } from '../src/engine.js';
import { openEngine } from '../src/llama/llama-engine.js';
import { defaultModel } from '../src/models/catalogue.js';
import { resolveModel } from '../src/models/resolve.js';
import type { Fetchers } from '../src/models/source.js';
import type { Experiment } from '../src/patchscope.js';
import { makePlan } from '../src/plan/plan.js';
import { parsePosition } from '../src/positions.js';
import { ChunkRunner, run } from '../src/run.js';
import {
  assertRefused,
  assertSameBits,
  captured,
  edit,
  folder,
  nextLogits,
  open,
  realModel,
  runChild,
  tinyPath,
} from './support.js';

/** Generous beside what is asked for, little beside the work that is cut short. */
const SOON = 10_000;
function assertSoon(milliseconds: number): void {
  assert.ok(milliseconds < SOON, `it took ${Math.round(milliseconds)} ms`);
}

const one = { topK: 1, maxTokens: 1 };
const real = JSON.stringify(realModel.path());

/** Minutes of work in one decode. */
const longPrompt = Array.from({ length: 6000 }, (_, i) => 100 + (i % 2000));
/** A prompt that goes on and on as it began. */
const endless = Array.from({ length: 60 }, (_, i) => 100 + (i % 3));
const longOptions = { contextSize: 8192, batchTokens: 8192 };

test('close may be called again and again, also at once', async () => {
  const engine = await open(tinyPath('llama'));
  await engine.patch([{ tokenIds: [1, 2], edits: [] }], one);
  await Promise.all([engine.close(), engine.close()]);
  await engine.close();
});

test('an engine that was never used can be closed', async () => {
  await (await open(tinyPath('llama'))).close();
});

test('whatever is asked of a closed engine is refused with code closed', async () => {
  const engine = await open(tinyPath('llama'));
  const vector = new Float32Array(engine.record.embeddingSize);
  await engine.close();
  const calls = [
    () => engine.patch([{ tokenIds: [1, 2], edits: [] }], one),
    () => engine.capture([{ tokenIds: [1], points: [{ site: 'resid_out', layer: 0, tokenIndex: 0 }] }]),
    () => engine.lens(vector, { topK: 1 }),
    () => engine.tokenizer.tokenBytes(1),
    () => engine.tokenizer.tokenize('the', { bos: true, special: false }),
    () => engine.tokenizer.isEndOfText(1),
  ];
  for (const call of calls) await assertRefused(call, 'closed', /closed/);
  assert.equal(engine.record.layerCount, 4);
  assert.equal(engine.tokenizer.vocabularySize, 317);
});

test('close ends calls that wait for their turn with code closed', async () => {
  const engine = await open(tinyPath('llama'));
  const calls = Array.from({ length: 5 }, () => engine.patch([{ tokenIds: [1, 2], edits: [] }], one));
  const refusals = calls.map((call) => assertRefused(() => call, 'closed', /closed/));
  await engine.close();
  await Promise.all(refusals);
});

/** Closes the engine `delay` milliseconds into long work, or as soon as the work has begun. */
async function closeDuring(engine: Engine, work: Promise<unknown>, delay: number | 'begin'): Promise<void> {
  const refusal = assertRefused(() => work, 'closed', /closed/);
  refusal.catch(() => undefined);
  if (delay === 'begin') await new Promise((resolve) => setImmediate(resolve));
  else await new Promise((resolve) => setTimeout(resolve, delay));
  const since = performance.now();
  await engine.close();
  await refusal;
  assertSoon(performance.now() - since);
}

const longWork: [what: string, work: (engine: Engine) => Promise<unknown>][] = [
  ['a patch', (engine) => engine.patch([{ tokenIds: longPrompt, edits: [] }], one)],
  [
    'a capture',
    (engine) =>
      engine.capture([
        {
          tokenIds: longPrompt,
          points: [{ site: 'resid_out', layer: 5, tokenIndex: longPrompt.length - 1 }],
        },
      ]),
  ],
  ['generation', (engine) => engine.patch([{ tokenIds: endless, edits: [] }], { topK: 1, maxTokens: 8000 })],
];

for (const [what, work] of longWork) {
  for (const delay of [1000, 'begin'] as const) {
    const when = delay === 'begin' ? 'as it begins' : 'in the middle';
    test(`close during ${what}, ${when}, ends it soon with code closed`, {
      skip: realModel.skip,
    }, async () => {
      const engine = await open(realModel.path(), longOptions);
      await closeDuring(engine, work(engine), delay);
    });
  }
}

test('two calls at once are taken one after the other, and both are right', async (t) => {
  const engine = await open(tinyPath('gemma3'));
  t.after(() => engine.close());
  const prompt = [1, 70, 71, 72, 73];
  const state = await captured(engine, prompt, [1, 2]);
  const row = (layer: number, i: number): PatchRow => ({
    tokenIds: [1, 80, 81, 82],
    edits: [edit(layer, 2, state(layer, i))],
  });
  const rows = [row(1, 1), row(2, 2), row(1, 3), row(2, 4)];
  const alone: Float32Array[] = [];
  for (const one of rows) alone.push((await nextLogits(engine, [one]))[0]!);
  const [states, said, ...together] = await Promise.all([
    captured(engine, prompt, [2]),
    engine.lens(state(2, 1), { topK: 1 }),
    ...rows.map((one) => nextLogits(engine, [one])),
  ]);
  for (const [i, logits] of together.entries()) assertSameBits(logits[0]!, alone[i]!, `row ${i}`);
  for (const i of prompt.keys()) assertSameBits(states(2, i), state(2, i), `state ${i}`);
  assert.equal(said[0]!.status, 'ok');
});

test('a call that is refused does not hold up the next one', async (t) => {
  const engine = await open(tinyPath('llama'));
  t.after(() => engine.close());
  const bad = engine.patch([{ tokenIds: [], edits: [] }], one);
  const good = engine.patch([{ tokenIds: [1, 2], edits: [] }], one);
  await assertRefused(() => bad, 'bad_input', /empty/);
  assert.equal((await good)[0]!.status, 'ok');
});

test('two engines in one process do not disturb each other', async (t) => {
  const [a, b] = [await open(tinyPath('llama')), await open(tinyPath('qwen3'))];
  t.after(() => Promise.all([a.close(), b.close()]));
  const rows = [{ tokenIds: [1, 70, 71], edits: [] }];
  const [[first], [second]] = [await nextLogits(a, rows), await nextLogits(b, rows)];
  const [[againA], [againB]] = await Promise.all([nextLogits(a, rows), nextLogits(b, rows)]);
  assertSameBits(againA!, first!, 'llama');
  assertSameBits(againB!, second!, 'qwen3');
  const c = await open(tinyPath('llama'));
  await c.close();
  assertSameBits((await nextLogits(a, rows))[0]!, first!, 'llama after another engine was closed');
});

test('two engines with different models, asked in turn and at once, answer as each does alone', async (t) => {
  const a = await open(tinyPath('llama'));
  t.after(() => a.close());
  const promptOf = (round: number) => [1, 70 + (round % 20), 71, 72 + (round % 7)];
  const alone = new Map<string, Float32Array>();
  for (const kind of ['llama', 'gpt2'] as const) {
    const engine = await open(tinyPath(kind));
    for (let round = 0; round < 20; round++) {
      const [logits] = await nextLogits(engine, [{ tokenIds: promptOf(round), edits: [] }]);
      alone.set(`${kind} ${round}`, logits!);
    }
    await engine.close();
  }
  const b = await open(tinyPath('gpt2'));
  const asked = Array.from({ length: 20 }, (_, round) => {
    const rows = [{ tokenIds: promptOf(round), edits: [] }];
    // b is closed in the middle of it all, while a has half of its calls to come
    if (round === 10) void b.close();
    return [
      ['llama', round, nextLogits(a, rows)],
      ['gpt2', round, nextLogits(b, rows).catch((error: Error & { code?: string }) => error)],
    ] as const;
  }).flat();
  let closed = 0;
  for (const [kind, round, answer] of asked) {
    const got = await answer;
    if (got instanceof Error) {
      assert.equal(got.code, 'closed');
      closed++;
    } else assertSameBits(got[0]!, alone.get(`${kind} ${round}`)!, `${kind} ${round}`);
  }
  assert.ok(closed >= 10, `${closed} calls of the closed engine were refused`);
  const c = await open(tinyPath('gpt2'));
  t.after(() => c.close());
  const [after] = await nextLogits(c, [{ tokenIds: promptOf(3), edits: [] }]);
  assertSameBits(after!, alone.get('gpt2 3')!, 'the model opened again');
});

test('engines closed at any moment of generation end with code closed or with all they were asked for', async () => {
  const ends = { ok: 0, closed: 0 };
  for (let i = 0; i < 60; i++) {
    const engine = await open(tinyPath('moe'));
    const rows = Array.from({ length: 3 }, () => ({ tokenIds: [1, 70], edits: [] }));
    const work = engine.patch(rows, { topK: 1, maxTokens: 40 }).then(
      (results) => {
        ends.ok++;
        for (const { status } of results) assert.equal(status, 'ok');
      },
      (error: Error & { code?: string }) => {
        ends.closed++;
        assert.equal(error.code, 'closed');
      },
    );
    if (i % 4 > 0) await new Promise((resolve) => setTimeout(resolve, i % 20));
    await engine.close();
    await work;
  }
  assert.ok(ends.closed >= 15, JSON.stringify(ends));
});

test('a reader that fails or leaves in the middle of a run leaves the engine as it was', async (t) => {
  const engine = await open(tinyPath('llama'));
  t.after(() => engine.close());
  const rows = [{ tokenIds: [1, 70, 71], edits: [] }];
  const [before] = await nextLogits(engine, rows);
  const place = { prompt: { kind: 'tokens', tokenIds: [1, 80, 81] }, position: parsePosition('-1') } as const;
  const experiment: Experiment = {
    name: 'left',
    samples: Array.from({ length: 300 }, () => ({ name: 'x', source: place, target: place })),
    sourceLayers: 'all',
    targetLayers: 'all',
    mapping: { kind: 'identity' },
    reading: { topK: 1, maxTokens: 1, stop: [] },
    seed: 0,
  };
  const plan = makePlan(experiment, engine.tokenizer, engine.record);
  await assert.rejects(async () => {
    for await (const _ of run(plan, new ChunkRunner(plan, engine))) throw new Error('the reader fails');
  }, /the reader fails/);
  for await (const { observations } of run(plan, new ChunkRunner(plan, engine))) {
    assert.ok(observations.length < plan.cellCount, 'there is more to come');
    break;
  }
  assertSameBits((await nextLogits(engine, rows))[0]!, before!, 'afterwards');
});

/** Calls its listener as a child's message or a timer does: where nobody catches what it throws. */
const listening: Fetchers = {
  hub: (_, { watch }) =>
    new Promise((_, reject) => {
      watch.signal!.addEventListener('abort', () => reject(watch.signal!.reason));
      setImmediate(() => watch.onProgress!({ step: 'download', doneBytes: 1, totalBytes: 2 }));
    }),
  pypi: async () => assert.fail('no other source is tried'),
};

for (const [what, spec, options] of [
  ['reads a file', () => tinyPath('llama'), {}],
  ['fetches a model', () => defaultModel, { fetchers: listening }],
] as const) {
  test(`what a progress listener throws while resolveModel ${what} is what resolveModel throws`, async (t) => {
    const { PATCHSCOPES_CACHE } = process.env;
    process.env.PATCHSCOPES_CACHE = join(folder(), 'cache', what);
    t.after(() => {
      if (PATCHSCOPES_CACHE === undefined) delete process.env.PATCHSCOPES_CACHE;
      else process.env.PATCHSCOPES_CACHE = PATCHSCOPES_CACHE;
    });
    const error = new Error('the listener fails');
    const onProgress = () => {
      throw error;
    };
    await assert.rejects(resolveModel(spec(), { ...options, onProgress }), (thrown) => thrown === error);
    const engine = await openEngine(await resolveModel(tinyPath('llama')), { threads: 1 });
    await engine.close();
  });
}

test('a thousand engines opened and closed leave no memory behind', async () => {
  const { stdout, code, signal, stderr } = await runChild(
    `
    const cycle = async (i) => {
      const engine = await open(${JSON.stringify(tinyPath('llama'))});
      if (i % 10 === 0) {
        const width = engine.record.embeddingSize;
        await engine.patch([{ tokenIds: [1, 70, 71], edits: [] }], { topK: 1, maxTokens: 3 });
        await engine.lens(new Float32Array(width).fill(1), { topK: 1 });
      }
      await engine.close();
    };
    const measure = async () => {
      for (let i = 0; i < 3; i++) { gc(); await new Promise((resolve) => setTimeout(resolve, 20)); }
      return process.memoryUsage().rss / 2 ** 20;
    };
    for (let i = 0; i < 500; i++) await cycle(i); // until the allocator has its pools on every thread
    const before = await measure();
    for (let i = 0; i < 1000; i++) await cycle(i);
    console.log((await measure()) - before);`,
    { nodeOptions: ['--expose-gc'] },
  );
  assert.deepEqual([code, signal], [0, null], stderr);
  // to lose the context of each would take 100 MiB and more; the allocator keeps up to 20 for itself
  assert.ok(Number(stdout) < 32, `${stdout.trim()} MiB more after a thousand engines`);
});

/** What a process does in the middle of minutes of work, and how it should end. */
const endings: [what: string, script: string, code: number][] = [
  ['process.exit', 'process.exit(7)', 7],
  ['an error that nobody catches', "throw new Error('not caught')", 1],
  ['a promise that nobody catches', "Promise.reject(new Error('not caught'))", 1],
];

for (const [what, script, expected] of endings) {
  test(`${what} in the middle of a decode ends the process soon and without a crash`, {
    skip: realModel.skip,
  }, async () => {
    const { code, signal, stderr, milliseconds } = await runChild(
      `
      const engine = await open(${real}, ${JSON.stringify(longOptions)});
      engine.patch([{ tokenIds: ${JSON.stringify(longPrompt)}, edits: [] }], ${JSON.stringify(one)}).catch(() => {});
      setTimeout(() => { console.log('now'); ${script}; }, 1000);`,
      { mark: 'now', limit: 40_000 },
    );
    assert.deepEqual([code, signal], [expected, null], stderr);
    assertSoon(milliseconds);
  });
}

test('a process that forgets to close its engine ends by itself', async () => {
  const { code, signal, stdout, stderr } = await runChild(`
    const engine = await open(${JSON.stringify(tinyPath('llama'))});
    const [row] = await engine.patch([{ tokenIds: [1, 70], edits: [] }], ${JSON.stringify(one)});
    console.log(row.status);`);
  assert.equal(stdout.trim(), 'ok');
  assert.deepEqual([code, signal], [0, null], stderr);
});

for (const script of [
  'process.exit(3)',
  'open(path); process.exit(3)',
  'await open(path); process.exit(3)',
  'const e = await open(path); e.close(); process.exit(3)',
]) {
  test(`exit without a crash: ${script}`, async () => {
    const { code, signal, stderr } = await runChild(
      `const path = ${JSON.stringify(tinyPath('llama'))}; ${script};`,
    );
    assert.deepEqual([code, signal], [3, null], stderr);
  });
}

/** How a worker reads TypeScript. */
const tsx = import.meta.resolve('tsx/esm/api');

const workerScript = (body: string) => `
  import { register } from ${JSON.stringify(tsx)};
  register();
  const { parentPort } = await import('node:worker_threads');
  const { openEngine } = await import(${JSON.stringify(
    new URL('../src/llama/llama-engine.ts', import.meta.url).href,
  )});
  const open = (path, options) =>
    openEngine({ path, parts: [path], sha256: 'test', bytes: 1 }, { threads: 1, ...options });
  ${body}`;

function startWorker(body: string): Worker {
  const text = `data:text/javascript,${encodeURIComponent(workerScript(body))}`;
  return new Worker(
    `import(${JSON.stringify(text)}).catch((error) => { setImmediate(() => { throw error; }); })`,
    {
      eval: true,
    },
  );
}

test('a worker thread can open an engine beside the one of the main thread, with the same answers', async (t) => {
  const engine = await open(tinyPath('llama'));
  t.after(() => engine.close());
  const rows = [{ tokenIds: [1, 70, 71], edits: [] }];
  const [expected] = await nextLogits(engine, rows);
  const worker = startWorker(`
    const engine = await open(${JSON.stringify(tinyPath('llama'))});
    const [row] = await engine.patch(${JSON.stringify(rows)}, { topK: 1, maxTokens: 1, logits: true });
    await engine.close();
    parentPort.postMessage(row.steps[0].logits);`);
  const ended = new Promise((resolve) => worker.once('exit', resolve));
  const logits = await new Promise<Float32Array>((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
  assert.equal(await ended, 0);
  assertSameBits(logits, expected!, 'in the worker');
  assertSameBits((await nextLogits(engine, rows))[0]!, expected!, 'after the worker');
});

// Node waits for the decode under way before it frees a thread's environment: minutes of it would take minutes
test('a worker thread that is terminated in the middle of a decode leaves the process well', {
  skip: realModel.skip,
}, async () => {
  const { code, signal, stdout, stderr } = await runChild(`
    import { Worker } from 'node:worker_threads';
    const text = ${JSON.stringify(
      workerScript(`
        const engine = await open(${real}, ${JSON.stringify(longOptions)});
        const tokenIds = ${JSON.stringify(longPrompt.slice(0, 500))};
        engine.patch([{ tokenIds, edits: [] }], ${JSON.stringify(one)}).catch(() => {});
        parentPort.postMessage('begun');`),
    )};
    const url = 'data:text/javascript,' + encodeURIComponent(text);
    const worker = new Worker('import(' + JSON.stringify(url) + ')', { eval: true });
    worker.once('message', () => setTimeout(async () => {
      await worker.terminate();
      const engine = await open(${JSON.stringify(tinyPath('llama'))});
      const [row] = await engine.patch([{ tokenIds: [1, 70], edits: [] }], ${JSON.stringify(one)});
      console.log(row.status);
      await engine.close();
    }, 300));`);
  assert.deepEqual([code, signal], [0, null], stderr);
  assert.equal(stdout.trim(), 'ok');
});

test('a worker thread that exits in the middle of a decode ends soon', { skip: realModel.skip }, async () => {
  const worker = startWorker(`
    const engine = await open(${real}, ${JSON.stringify(longOptions)});
    const tokenIds = ${JSON.stringify(longPrompt)};
    engine.patch([{ tokenIds, edits: [] }], ${JSON.stringify(one)}).catch(() => {});
    setTimeout(() => { parentPort.postMessage('now'); process.exit(5); }, 1000);`);
  await new Promise((resolve) => worker.once('message', resolve));
  const since = performance.now();
  assert.equal(await new Promise((resolve) => worker.once('exit', resolve)), 5);
  assertSoon(performance.now() - since);
});

test('worker threads that are ended while their engines work leave the others and the process well', async () => {
  const { code, signal, stdout, stderr } = await runChild(`
    import { Worker } from 'node:worker_threads';
    const path = ${JSON.stringify(tinyPath('llama'))};
    const reading = { topK: 1, maxTokens: 1, logits: true };
    const rows = [{ tokenIds: [1, 70, 71], edits: [] }];
    const engine = await open(path);
    const logits = async () => String((await engine.patch(rows, reading))[0].steps[0].logits);
    const expected = await logits();
    const text = ${JSON.stringify(
      workerScript(`
        const engine = await open(${JSON.stringify(tinyPath('gemma3'))});
        for (let round = 0; ; round++) {
          await engine.patch([{ tokenIds: [1, 70, 71], edits: [] }], { topK: 1, maxTokens: 30 });
          if (round === 1) parentPort.postMessage('begun');
        }`),
    )};
    const url = 'data:text/javascript,' + encodeURIComponent(text);
    let same = true;
    for (let round = 0; round < 3; round++) {
      const workers = Array.from({ length: 3 }, () =>
        new Worker('import(' + JSON.stringify(url) + ')', { eval: true }));
      await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once('message', resolve))));
      const endings = workers.map((worker) => worker.terminate());
      same &&= (await logits()) === expected;
      await Promise.all(endings);
      same &&= (await logits()) === expected;
    }
    await engine.close();
    console.log(same ? 'same' : 'other');`);
  assert.deepEqual([code, signal], [0, null], stderr);
  assert.equal(stdout.trim(), 'same', stderr);
});
