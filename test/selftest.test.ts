/** The self-test: every architecture passes it, and an engine that does something else is named by a check. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { CapturePoint, CaptureRequest, Edit, Engine, PatchRow } from '../src/engine.js';
import type { SelfCheck } from '../src/selftest/self-check.js';
import { selfTest } from '../src/selftest/selftest.js';
import { device } from './device.js';
import { t5 } from './fixtures/architectures/t5.js';
import { tensor, writeGguf } from './fixtures/gguf.js';
import { decoderKinds, tinyModel } from './fixtures/models.js';
import { assertSentence, open, realModel, sharedEngine, tinyModels, tinyPath, writeFile } from './support.js';

const world = fileURLToPath(new URL('world/world.gguf', import.meta.url));
const command = fileURLToPath(new URL('../dist/cli.js', import.meta.url));
const names = ['states', 'capture', 'identity', 'causality', 'effect', 'last layer', 'words'];

async function answers(engine: Engine): Promise<SelfCheck[]> {
  const checks: SelfCheck[] = [];
  for await (const check of selfTest(engine)) checks.push(check);
  return checks;
}

const failed = (checks: readonly SelfCheck[]) =>
  checks.filter(({ status }) => status === 'failed').map(({ check }) => check);

async function assertPasses(engine: Engine, words: SelfCheck['status']): Promise<void> {
  const checks = await answers(engine);
  assert.deepEqual(failed(checks), [], JSON.stringify(checks));
  assert.deepEqual(
    checks.map(({ check }) => check),
    names,
  );
  assert.equal(checks.at(-1)!.status, words, JSON.stringify(checks.at(-1)));
}

for (const kind of device.oneModel ? (['llama'] as const) : decoderKinds) {
  test(`${kind} passes; its words, which mean nothing, are not judged`, async () => {
    const engine = await open(tinyPath(kind));
    try {
      await assertPasses(engine, 'skipped');
    } finally {
      await engine.close();
    }
  });
}

test('an encoder-decoder model passes', { skip: !device.isCpu }, async () => {
  const engine = await open(writeFile('selftest-t5.gguf', writeGguf(t5())));
  try {
    await assertPasses(engine, 'skipped');
  } finally {
    await engine.close();
  }
});

const worldEngine = () => sharedEngine({ name: 'world', isTiny: true, path: () => world, skip: false });

test('the known-answers model reads words back from their states', async () => {
  await assertPasses(await worldEngine(), 'ok');
});

test(`${realModel.name} passes`, { skip: realModel.skip }, async () => {
  await assertPasses(await sharedEngine(realModel), 'ok');
});

type Lie = Partial<Pick<Engine, 'capture' | 'patch'>>;

/** Everything else is as the engine does it. */
function lying(engine: Engine, of: (engine: Engine) => Lie): Engine {
  return {
    record: engine.record,
    tokenizer: engine.tokenizer,
    capture: (...task) => engine.capture(...task),
    patch: (...task) => engine.patch(...task),
    lens: (...task) => engine.lens(...task),
    tolerance: (...task) => engine.tolerance(...task),
    close: () => engine.close(),
    ...of(engine),
  };
}

const patchOtherwise =
  (change: (edit: Edit, row: PatchRow, engine: Engine) => readonly Edit[]) =>
  (engine: Engine): Lie => ({
    patch: (rows, ...rest) =>
      engine.patch(
        rows.map((row) => ({ ...row, edits: row.edits.flatMap((edit) => change(edit, row, engine)) })),
        ...rest,
      ),
  });

const captureOtherwise =
  (change: (point: CapturePoint, request: CaptureRequest, engine: Engine) => CapturePoint) =>
  (engine: Engine): Lie => ({
    capture: (requests, ...rest) =>
      engine.capture(
        requests.map((request) => ({
          ...request,
          points: request.points.map((point) => change(point, request, engine)),
        })),
        ...rest,
      ),
  });

const lastOf = ({ tokenIds }: { readonly tokenIds: readonly number[] }) => tokenIds.length - 1;

/** An engine that does this, and the checks that must say so. */
const lies: readonly (readonly [string, readonly string[], (engine: Engine) => Lie])[] = [
  ['ignores every edit', ['effect', 'last layer', 'words'], patchOtherwise(() => [])],
  [
    'patches the token before',
    ['identity', 'causality'],
    patchOtherwise((edit) => [{ ...edit, tokenIndex: Math.max(0, edit.tokenIndex - 1) }]),
  ],
  [
    'patches the token after',
    ['identity', 'effect', 'words'],
    patchOtherwise((edit, row) => [{ ...edit, tokenIndex: Math.min(lastOf(row), edit.tokenIndex + 1) }]),
  ],
  [
    'patches the layer below',
    ['identity'],
    patchOtherwise((edit) => [
      typeof edit.layer === 'number' && edit.layer > 0 ? { ...edit, layer: edit.layer - 1 } : edit,
    ]),
  ],
  [
    'adds where it should replace',
    ['identity', 'last layer'],
    patchOtherwise((edit) => [{ ...edit, op: 'add' }]),
  ],
  [
    'captures the last token, whichever is asked for',
    ['identity'],
    captureOtherwise((point, request) => ({ ...point, tokenIndex: lastOf(request) })),
  ],
  [
    'captures another layer where few are asked for',
    ['capture'],
    captureOtherwise((point, { points }, { record }) =>
      points.length <= 2 && point.layer !== 'embed'
        ? { ...point, layer: (point.layer + 1) % record.layerCount }
        : point,
    ),
  ],
  [
    'gives states of zeros',
    ['states', 'identity'],
    (engine) => ({
      capture: async (...task) =>
        (await engine.capture(...task)).map((result) =>
          result.status === 'ok'
            ? { ...result, states: result.states.map((one) => one.map(() => 0)) }
            : result,
        ),
    }),
  ],
  [
    'finds no state',
    ['states', 'capture', 'identity', 'causality', 'last layer', 'words'],
    (engine) => ({
      capture: async (requests) =>
        requests.map(() => ({ status: 'failed', code: 'not_finite', error: 'It holds NaN.' })),
      tolerance: engine.tolerance.bind(engine),
    }),
  ],
];

for (const [what, checks, lie] of lies) {
  test(`an engine that ${what} fails: ${checks.join(', ')}`, async () => {
    const found = failed(await answers(lying(await worldEngine(), lie)));
    for (const check of checks) assert.ok(found.includes(check), `${check} is not in ${found.join(', ')}`);
  });
}

test('an engine that ignores edits fails on every tiny model', async () => {
  for (const model of tinyModels.filter(({ skip }) => !skip)) {
    const engine = lying(
      await sharedEngine(model),
      patchOtherwise(() => []),
    );
    const found = failed(await answers(engine));
    assert.deepEqual(found, ['effect', 'last layer'], model.name);
  }
});

// --- the command

const cli = (...args: string[]) =>
  spawnSync(process.execPath, [command, 'selftest', ...args], { encoding: 'utf8', timeout: 60_000 });

test('the command prints a line a check, as text or JSON, and ends with 0', { skip: !device.isCpu }, () => {
  const text = cli('-m', world, '-t', '1');
  assert.equal(text.status, 0, text.stderr);
  const lines = text.stdout.trimEnd().split('\n');
  assert.equal(lines.length, names.length);
  for (const [i, line] of lines.entries()) {
    assert.ok(line.startsWith(`ok       ${names[i]} `), line);
    assertSentence(line);
  }
  const json = cli('-m', world, '-t', '1', '--json', '-fa', 'off', '-ctk', 'f32', '-ctv', 'f32');
  assert.equal(json.status, 0, json.stderr);
  const checks = json.stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as SelfCheck);
  assert.deepEqual(
    checks.map(({ check, status }) => [check, status]),
    names.map((name) => [name, 'ok']),
  );
  for (const { measured, bound } of checks) assert.ok(Number.isFinite(measured) && Number.isFinite(bound));
});

test('what is no model, or no option, is one sentence and exit code 2', { skip: !device.isCpu }, () => {
  for (const [args, says] of [
    [['-m', './nothing.gguf'], /nothing\.gguf/],
    [['-m', tinyPath('no-residual'), '-t', '1'], /no plain residual stream/],
    [['-m', world, '-t', '0'], /-t is '0'/],
    [['-m', world, '--depth', '2'], /There is no option --depth/],
  ] as const) {
    const { status, stdout, stderr } = cli(...args);
    assert.deepEqual([status, stdout], [2, ''], stderr);
    const sentence = stderr.trimEnd().split('\n').at(-1)!;
    assert.match(sentence, says);
    assertSentence(sentence);
  }
});

/** Whatever goes through its last block becomes NaN. */
function nanModel(): string {
  const { metadata, tensors } = tinyModel('llama');
  const isLast = ({ name }: { readonly name: string }) =>
    name.endsWith('.ffn_norm.weight') && name.startsWith('blk.2.');
  assert.ok(tensors.some(isLast));
  const broken = tensors.map((each) =>
    isLast(each) ? tensor(each.name, each.shape, new Float32Array(64).fill(Number.NaN)) : each,
  );
  return writeFile('selftest-nan.gguf', writeGguf({ metadata, tensors: broken }));
}

test('where a check fails it is named, and the exit code is 1', { skip: !device.isCpu }, () => {
  const { status, stdout, stderr } = cli('-m', nanModel(), '-t', '1');
  assert.equal(status, 1, stderr);
  const [states] = stdout.split('\n');
  assert.match(states!, /^failed {3}states +\S.*(NaN|not finite)/);
  for (const line of stdout.trimEnd().split('\n')) assertSentence(line);
});
