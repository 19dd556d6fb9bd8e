/** What ends an engine's process costs one cell at most; the rest comes out as if nothing had been. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { type Attempt, Culprits } from '../src/engine-process/culprits.js';
import {
  type EngineProcess,
  type EngineProcessOptions,
  openEngineProcess,
} from '../src/engine-process/engine-process.js';
import type { EngineOptions } from '../src/llama/llama-engine.js';
import type { Outcome } from '../src/observation.js';
import type { Experiment, PromptAt } from '../src/patchscope.js';
import { chunkCount, makePlan, type Plan } from '../src/plan/plan.js';
import { ChunkRunner } from '../src/run.js';
import { DEADLY_TOKEN } from './dying-engine.js';
import { openEngine as openFake } from './fake-engine.js';
import {
  asFile,
  assertRefused,
  assertSentence,
  open,
  realModel,
  runChild,
  tinyPath,
  writeFile,
} from './support.js';

const moduleOf = (name: string) => new URL(`./${name}.ts`, import.meta.url).href;
const at = (prompt: PromptAt['prompt']): PromptAt => ({ prompt, position: { kind: 'index', index: -1 } });
const text = (words: string) => at({ kind: 'text', text: words });
const ids = (...tokenIds: number[]) => at({ kind: 'tokens', tokenIds });

/** One cell for each target. */
function experiment(targets: readonly PromptAt[], source: PromptAt, maxTokens = 1): Experiment {
  return {
    name: 'test',
    samples: targets.map((target, i) => ({ name: String(i), source, target })),
    sourceLayers: '1',
    targetLayers: 'same',
    mapping: { kind: 'identity' },
    reading: { topK: 3, maxTokens, stop: [] },
    seed: 0,
  };
}

/** Cells of the fake engine; `marks` has the words that do something to the process, by cell. */
function fakeExperiment(count: number, marks: Readonly<Record<number, string>> = {}): Experiment {
  const targets = Array.from({ length: count }, (_, i) => text(`${marks[i] ?? 'w0'} w${i}`));
  return experiment(targets, text('w1 w2'), 2);
}

interface Fake {
  readonly engine: EngineProcess;
  readonly notes: readonly string[];
  /** How often something was written into its log, by any of its processes. */
  readonly count: (word: string) => number;
}

let files = 0;
const fakeFile = () => asFile(writeFile(`fake-${files++}`, 'x'));

async function withFake(work: (fake: Fake) => Promise<void>, options: EngineOptions = {}): Promise<void> {
  const model = fakeFile();
  const notes: string[] = [];
  const engine = await openEngineProcess({
    model,
    engine: options,
    module: moduleOf('fake-engine'),
    onNote: (line) => notes.push(line),
  });
  const count = (word: string) => fs.readFileSync(`${model.path}.log`, 'utf8').split(word).length - 1;
  try {
    await work({ engine, notes, count });
  } finally {
    await engine.close();
  }
}

async function allOutcomes(plan: Plan, runner: Pick<EngineProcess, 'run'>): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  for (let chunk = 0; chunk < chunkCount(plan); chunk++) outcomes.push(...(await runner.run(chunk)));
  return outcomes;
}

/** In this process, with no mark in it. */
async function undisturbed(plain: Experiment): Promise<Outcome[]> {
  const engine = await openFake(fakeFile(), {});
  const plan = makePlan(plain, engine.tokenizer, engine.record);
  return allOutcomes(plan, new ChunkRunner(plan, engine));
}

function assertDied(outcome: Outcome, says: RegExp): void {
  const { error, ...rest } = outcome;
  assert.deepEqual(rest, { status: 'failed', text: null, tokenIds: [], steps: [], scores: {} });
  assert.match(
    error!,
    /^engine_died: The engine's process died while it worked on this cell: it ended with /,
  );
  assert.match(error!, says);
  assert.ok(error!.length < 600, error!);
  assertSentence(error!);
}

test('plan, outcomes, tolerance and notes are those of an engine in this process', async () => {
  const plain = fakeExperiment(1500);
  await withFake(async ({ engine, notes, count }) => {
    const here = await openFake(fakeFile(), {});
    const plan = await engine.plan(plain);
    assert.deepEqual(plan, makePlan(plain, here.tokenizer, here.record));
    assert.ok(chunkCount(plan) > 1);
    assert.deepEqual(await allOutcomes(plan, engine), await undisturbed(plain));
    assert.equal(await engine.tolerance(10), 0.05);
    assert.equal(await engine.tolerance(1), null);
    assert.deepEqual(notes, ['the fake engine is open']);
    assert.equal(count('opened'), 1);
    engine.usePlan(makePlan(fakeExperiment(3), here.tokenizer, here.record));
    assert.deepEqual(await engine.run(0), await undisturbed(fakeExperiment(3)));
  });
});

for (const [how, says] of [
  ['abort', /ended with SIGABRT and said: /],
  ['segv', /ended with SIGSEGV and said: the fake engine is about to segv\.$/],
  ['exit', /ended with exit code 3\.$/],
] as const) {
  test(`a cell that ends the process by ${how} fails alone, with what was said last`, async () => {
    const culprit = 5;
    await withFake(async ({ engine, count }) => {
      const plan = await engine.plan(fakeExperiment(12, { [culprit]: how }));
      const outcomes = await allOutcomes(plan, engine);
      const expected = await undisturbed(fakeExperiment(12));
      assertDied(outcomes[culprit]!, says);
      assert.deepEqual(outcomes.toSpliced(culprit, 1), expected.toSpliced(culprit, 1));
      // the chunk twice, parts of 6 and of 3 or fewer cells, the culprit twice
      assert.ok(count('opened') <= 8, `${count('opened')} processes`);
    });
  });
}

test('of a long last word the end is kept, on one line', async () => {
  await withFake(async ({ engine }) => {
    await engine.plan(fakeExperiment(1, { 0: 'stderr-first exit' }));
    const [outcome] = await engine.run(0);
    assertDied(outcome!, /GGML_ASSERT\(fake\) failed\.$/);
  });
});

test('a process that dies once, from outside, in or between chunks, costs no cell', async () => {
  const plain = fakeExperiment(1100);
  await withFake(async ({ engine, notes, count }) => {
    const plan = await engine.plan(fakeExperiment(1100, { 7: 'kill-once' }));
    const first = await engine.run(0);
    assert.ok(first.every(({ status }) => status === 'ok'));
    assert.equal(count('opened'), 2);
    process.kill(engine.pid!, 'SIGKILL');
    const rest = await engine.run(1);
    assert.deepEqual(rest, (await undisturbed(plain)).slice(first.length));
    assert.equal(count('opened'), 3);
    assert.equal(notes.filter((line) => /^The engine's process died/.test(line)).length, 2);
    assert.equal(chunkCount(plan), 2);
  });
});

test('where every cell ends the process, the run ends soon, with a sentence', async () => {
  const marks = Object.fromEntries(Array.from({ length: 8 }, (_, i) => [i, 'exit']));
  await withFake(async ({ engine, count }) => {
    await engine.plan(fakeExperiment(8, marks));
    await assertRefused(
      () => engine.run(0),
      'engine_died',
      /^The engine's process died at each of the first 3 cells that it was given alone, .* exit code 3\.$/,
    );
    assert.ok(count('opened') < 16, `${count('opened')} processes`);
  });
});

test('of any cells that end the process just these fail, and a run with too many of them ends', async () => {
  const attempt = (isCulprit: (cell: number) => boolean) => {
    const parts: (readonly number[])[] = [];
    return {
      parts,
      work: async (part: readonly number[]): Promise<Attempt<string>> => {
        parts.push(part);
        return part.some(isCulprit) ? { died: 'ended' } : { outcomes: part.map((cell) => `ok ${cell}`) };
      },
    };
  };
  const cells = Array.from({ length: 1000 }, (_, i) => 4000 + i);
  for (const culprits of [[], [4000], [4999], [4498, 4499, 4500], [4001, 4003, 4333, 4700]]) {
    const { parts, work } = attempt((cell) => culprits.includes(cell));
    assert.deepEqual(
      await new Culprits((died) => `died: ${died}`).goAround(cells, work),
      cells.map((cell) => (culprits.includes(cell) ? 'died: ended' : `ok ${cell}`)),
    );
    assert.ok(parts.length <= 1 + 24 * culprits.length, `${parts.length} attempts`);
  }
  const once: (readonly number[])[] = [];
  const outcomes = await new Culprits(() => 'died').goAround(cells, async (part) => {
    once.push(part);
    return once.length === 1 ? { died: 'ended' } : { outcomes: part.map(String) };
  });
  assert.deepEqual(outcomes, cells.map(String));
  assert.deepEqual(once, [cells, cells], 'tried again as it was');
  const engine = new Culprits(() => 'died');
  const { work } = attempt((cell) => cell % 50 === 0);
  await engine.goAround(cells, work); // 20 culprits
  await assertRefused(() => engine.goAround(cells, work), 'engine_died', /died at 32 cells/);
});

test('errors of the process arrive with their class, code and sentence, and it goes on', async () => {
  await withFake(async ({ engine, count }) => {
    await assertRefused(
      () => engine.plan(fakeExperiment(2, { 1: 'no-word' })),
      'bad_input',
      /no word for 'no-word/,
    );
    await assert.rejects(async () => engine.run(0), TypeError);
    await engine.plan(fakeExperiment(2, { 1: 'throw' }));
    await assert.rejects(engine.run(0), { name: 'Error', message: 'The fake engine throws.' });
    await engine.plan(fakeExperiment(2));
    assert.deepEqual(await engine.run(0), await undisturbed(fakeExperiment(2)));
    assert.equal(count('opened'), 1);
  });
});

test('what a model is refused with, or dies of while it is opened or planned for, arrives as such', async () => {
  const opened = (engine: EngineOptions) =>
    openEngineProcess({ model: fakeFile(), engine, module: moduleOf('fake-engine') });
  await assertRefused(
    () => opened({ typeK: 'refused' }),
    'bad_model',
    /^The fake engine refuses this model\.$/,
  );
  await assertRefused(
    () => opened({ typeK: 'abort' }),
    'engine_died',
    /died while it opened the model: it ended with SIGABRT and said: /,
  );
  const ours: EngineProcessOptions = { model: asFile('/nowhere.gguf'), engine: { threads: 1 } };
  await assertRefused(() => openEngineProcess(ours), 'bad_model', /nowhere\.gguf/);
  await withFake(
    async ({ engine, count }) => {
      await assertRefused(
        () => engine.plan(fakeExperiment(1)),
        'engine_died',
        /died while it made the plan: /,
      );
      assert.equal(count('opened'), 1);
      assert.equal(await engine.tolerance(5), 0.1);
      assert.equal(count('opened'), 2);
    },
    { typeK: 'abort-in-plan' },
  );
});

test('a process that would compute something else does not take the place of one that died', async () => {
  const model = fakeFile();
  const engine = await openEngineProcess({ model, engine: {}, module: moduleOf('fake-engine') });
  await engine.plan(fakeExperiment(2));
  fs.writeFileSync(model.path, 'another model');
  process.kill(engine.pid!, 'SIGKILL');
  await assertRefused(
    () => engine.run(0),
    'engine_died',
    /another file: what it computes would not be the same\.$/,
  );
  await engine.close();
});

test('an abort signal ends the work with its reason, and the same process goes on', async () => {
  await withFake(async ({ engine, count }) => {
    await engine.plan(fakeExperiment(4, { 2: 'slow' }));
    const controller = new AbortController();
    const work = engine.run(0, { signal: controller.signal });
    await until(() => count('slow') > 0);
    const reason = new Error('enough');
    controller.abort(reason);
    await assert.rejects(work, reason);
    await assert.rejects(engine.run(0, { signal: controller.signal }), reason);
    assert.equal(await engine.tolerance(5), 0.1);
    assert.equal(count('opened'), 1);
  });
});

test('closing ends work under way and what waits with code closed, and the process', async () => {
  await withFake(async ({ engine, count }) => {
    await engine.plan(fakeExperiment(4, { 2: 'slow' }));
    const pid = engine.pid!;
    const work = [engine.run(0), engine.run(0), engine.tolerance(2)];
    const refused = work.map((promise) =>
      assertRefused(() => promise, 'closed', /^The engine was closed\.$/),
    );
    await until(() => count('slow') > 0);
    await Promise.all([engine.close(), engine.close()]);
    await Promise.all(refused);
    assert.ok(!isRunning(pid));
    assert.equal(engine.pid, undefined);
    await engine.close();
    await assertRefused(() => engine.run(0), 'closed', /closed/);
    await assertRefused(() => engine.plan(fakeExperiment(1)), 'closed', /closed/);
    assert.equal(count('opened'), 1);
  });
});

const tiny = { gpu: 'off', threads: 1 } as const;

/** Rows of many lengths, so that their batches differ. */
function realExperiment(count: number, deadly?: number): Experiment {
  const targets = Array.from({ length: count }, (_, i) =>
    ids(
      ...Array.from({ length: 2 + (i % 7) }, (_, k) => 20 + ((i * 13 + k * 5) % 90)),
      i === deadly ? DEADLY_TOKEN : 9,
    ),
  );
  return experiment(targets, ids(1, 5, 6), 4);
}

async function realOutcomes(plain: Experiment, options: EngineOptions = {}): Promise<Outcome[]> {
  const engine = await open(tinyPath('llama'), { ...tiny, ...options });
  try {
    const plan = makePlan(plain, engine.tokenizer, engine.record);
    return await allOutcomes(plan, new ChunkRunner(plan, engine));
  } finally {
    await engine.close();
  }
}

for (const [signal, restarts] of [
  [undefined, 0],
  ['SIGINT', 0],
  ['SIGKILL', 1],
  ['SIGABRT', 1],
] as const) {
  test(`outcomes of a real engine whose process gets ${signal ?? 'no signal'} in a decode have the bits of one in this process`, async () => {
    const notes: string[] = [];
    const engine = await openEngineProcess({
      model: asFile(tinyPath('llama')),
      engine: tiny,
      onNote: (line) => notes.push(line),
    });
    const plan = await engine.plan(realExperiment(1200));
    const work = allOutcomes(plan, engine);
    await delay(30);
    if (signal !== undefined) process.kill(engine.pid!, signal);
    const outcomes = await work;
    assert.equal(notes.length, restarts);
    assert.ok(outcomes.every(({ status }) => status === 'ok'));
    assert.deepEqual(outcomes, await realOutcomes(realExperiment(1200)));
    await engine.close();
  });
}

test('a cell at which a real engine aborts in its decode fails alone; in exact mode the others keep their bits', async () => {
  const culprit = 10;
  const engine = await openEngineProcess({
    model: asFile(tinyPath('llama')),
    engine: { ...tiny, exact: true },
    module: moduleOf('dying-engine'),
  });
  const plan = await engine.plan(realExperiment(16, culprit));
  const outcomes = await allOutcomes(plan, engine);
  await engine.close();
  const expected = await realOutcomes(realExperiment(16), { exact: true });
  const deadly = outcomes.findIndex(({ status }) => status === 'failed');
  assertDied(outcomes[deadly]!, /ended with SIGABRT\.$/);
  assert.deepEqual(plan.pairs[plan.cells.pair[deadly]!]!.sample, culprit);
  assert.deepEqual(outcomes.toSpliced(deadly, 1), expected.toSpliced(deadly, 1));
});

test('a process ends with the one that it works for, in the middle of a long decode', {
  skip: realModel.skip,
}, async () => {
  const { stdout, signal, stderr } = await runChild(`
    import { openEngineProcess } from ${JSON.stringify(new URL('../src/engine-process/engine-process.ts', import.meta.url).href)};
    const engine = await openEngineProcess({ model: asFile(${JSON.stringify(realModel.path())}), engine: { gpu: 'off', threads: 1 } });
    const at = (tokenIds) => ({ prompt: { kind: 'tokens', tokenIds }, position: { kind: 'index', index: -1 } });
    const prompt = at(Array.from({ length: 6000 }, (_, i) => 100 + (i % 2000)));
    await engine.plan({
      name: 'long', samples: [{ name: 'long', source: prompt, target: prompt }], sourceLayers: '0', targetLayers: 'same',
      mapping: { kind: 'identity' }, reading: { topK: 1, maxTokens: 1, stop: [] }, seed: 0,
    });
    engine.run(0).catch(() => undefined).then(() => console.log('ended too early'));
    console.log(engine.pid);
    setTimeout(() => process.kill(process.pid, 'SIGKILL'), 1000);
  `);
  assert.equal(signal, 'SIGKILL', stderr);
  const pid = Number(stdout);
  assert.ok(pid > 0);
  await until(() => !isRunning(pid));
});

test("what the process says reaches this one's stderr where PATCHSCOPES_LOG asks for it", async () => {
  const said = async (log: string) => {
    const { stderr } = await runChild(`
      process.env.PATCHSCOPES_LOG = '${log}';
      import { openEngineProcess } from ${JSON.stringify(new URL('../src/engine-process/engine-process.ts', import.meta.url).href)};
      const module = ${JSON.stringify(moduleOf('fake-engine'))};
      await openEngineProcess({ model: asFile(${JSON.stringify(fakeFile().path)}), engine: { typeK: 'abort' }, module }).catch(() => undefined);
    `);
    return stderr;
  };
  assert.match(await said('debug'), /the fake engine is about to abort/);
  assert.equal(await said(''), '');
});

/** Waits for what must come, generously. */
async function until(holds: () => boolean): Promise<void> {
  for (let waited = 0; !holds(); waited += 20) {
    assert.ok(waited < 10_000, 'it did not come');
    await delay(20);
  }
}

/** One that has ended may still be listed, until its parent has asked for its end. */
function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch {
    return false;
  }
  const stat = `/proc/${pid}/stat`;
  return !fs.existsSync(stat) || !/\) Z /.test(fs.readFileSync(stat, 'utf8'));
}
