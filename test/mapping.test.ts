/** Laws of fitted mappings: what a fit finds, what its file says, and what a patch through it does. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { Engine, PatchRow } from '../src/engine.js';
import { readExperiment } from '../src/experiment-file/read-experiment.js';
import { type FitOptions, fitMapping } from '../src/fit-mapping/fit-mapping.js';
import { fitMappings } from '../src/fit-mapping/fit-mappings.js';
import { makeFitter } from '../src/mapping/fit.js';
import { MappingFile, MappingWriter, readMapping, readMappings } from '../src/mapping/mapping-file.js';
import { applyMap, type FittedMap } from '../src/mapping/maps.js';
import type {
  Experiment,
  FileMapping,
  Mapping,
  MappingKind,
  MappingRecord,
  MapRecord,
} from '../src/patchscope.js';
import type { Place } from '../src/places.js';
import { cellAt, makePlan } from '../src/plan/plan.js';
import { parsePosition } from '../src/positions.js';
import { recordRun, runHeader } from '../src/record-run.js';
import { writeReport } from '../src/report/write-report.js';
import { ChunkRunner, run } from '../src/run.js';
import { deleteRun } from '../src/store/delete.js';
import { query } from '../src/store/query.js';
import { openStore } from '../src/store/store.js';
import { writeGguf } from './fixtures/gguf.js';
import { rotatedPair } from './fixtures/rotated.js';
import {
  assertRefused,
  assertSameBits,
  folder,
  open,
  SOURCE,
  sharedEngine,
  TARGET,
  tinyModels,
  writeFile,
} from './support.js';

const llama = tinyModels.find(({ name }) => name === 'llama')!;
const engineOf = () => sharedEngine(llama);
const refused = (work: () => unknown, says: RegExp) => assertRefused(work, 'bad_input', says);

const words = `${SOURCE} ${TARGET}`.split(' ');
/** Prompts of which no two are the same. */
const prompts = Array.from({ length: 40 }, (_, i) =>
  Array.from({ length: 6 }, (_, k) => words[(i * 7 + k * (1 + (i % 5)) + ((i * k) % 3)) % words.length]).join(
    ' ',
  ),
);

const experiment = (more: Partial<Experiment> = {}): Experiment => ({
  name: 'mapped',
  samples: prompts.map((prompt, i) => ({
    name: `${i}`,
    source: { prompt: { kind: 'text', text: prompt }, position: parsePosition('-1') },
    target: { prompt: { kind: 'text', text: TARGET }, position: parsePosition('-1') },
  })),
  sourceLayers: 'all',
  targetLayers: 'same',
  mapping: { kind: 'identity' },
  reading: { topK: 3, maxTokens: 1, stop: [] },
  seed: 0,
  ...more,
});

let files = 0;
const newFile = () => join(folder(), `mapping-${files++}.safetensors`);

async function fitted(
  options: Partial<FitOptions> = {},
  more: Partial<Experiment> = {},
): Promise<FileMapping & { readonly notes: readonly string[] }> {
  const notes: string[] = [];
  const file = newFile();
  const record = await fitMapping(experiment(more), await engineOf(), file, {
    ...{ kind: 'affine', positions: 'all', onNote: (line) => notes.push(line) },
    ...options,
  });
  const mapping = readMapping(file);
  assert.deepEqual(mapping.record, record, 'what is read is what was written');
  return { ...mapping, notes };
}

/** A file of maps made by hand. */
async function written(
  kind: MappingKind,
  maps: readonly (readonly [source: Place, target: Place, map: FittedMap])[],
  changes: Partial<MappingRecord> = {},
): Promise<FileMapping> {
  const { sha256, embeddingSize: width } = (await engineOf()).record;
  const none = { train: null, heldOut: null };
  const record: MappingRecord = {
    kind,
    source: { sha256, width },
    target: { sha256, width },
    data: {
      experiment: 'by hand',
      positions: 'sample',
      prompts: { train: 0, heldOut: 0 },
      pairs: { train: 0, heldOut: 0 },
      seed: 0,
    },
    maps: maps.map(
      ([source, target]): MapRecord => ({
        source,
        target,
        ridge: 0,
        condition: null,
        r2: none,
        cosine: none,
      }),
    ),
    ...changes,
  };
  const file = newFile();
  fs.writeFileSync(file, '');
  const writer = new MappingWriter(file, record);
  for (const [source, target, map] of maps) writer.write({ source, target }, map);
  writer.finish(record);
  writer.close();
  return readMapping(file);
}

const at = (layer: number): Place => ({ site: 'resid_out', layer });

function unit(width: number, factor = 1): Float32Array {
  const matrix = new Float32Array(width * width);
  for (let i = 0; i < width; i++) matrix[i * width + i] = factor;
  return matrix;
}

/** The rows that an engine is given to patch. */
async function patchedRows(more: Partial<Experiment>): Promise<PatchRow[]> {
  const engine = await engineOf();
  const rows: PatchRow[] = [];
  const listening: Engine = {
    ...{ record: engine.record, tokenizer: engine.tokenizer },
    capture: (...args) => engine.capture(...args),
    lens: (...args) => engine.lens(...args),
    tolerance: (...args) => engine.tolerance(...args),
    close: () => engine.close(),
    patch: (given, ...args) => {
      rows.push(...given);
      return engine.patch(given, ...args);
    },
  };
  const plan = makePlan(experiment(more), engine.tokenizer, engine.record);
  await new ChunkRunner(plan, listening).run(0);
  return rows;
}

const vectorsOf = (rows: readonly PatchRow[]) => rows.map(({ edits }) => edits[0]!.vector!);
const few = { samples: experiment().samples.slice(0, 4) };

test('an affine map of a model to itself at the same layer is the identity', async () => {
  const { path, record } = await fitted();
  const file = new MappingFile(path);
  for (const places of record.maps) {
    const { weight, bias } = file.map(places);
    const width = record.source.width;
    const worst = weight!.reduce(
      (most, value, k) => Math.max(most, Math.abs(value - (k % (width + 1) === 0 ? 1 : 0))),
      0,
    );
    assert.ok(worst < 1e-4, `${places.source.layer}: ${worst}`);
    assert.ok(bias!.every((value) => Math.abs(value) < 1e-4));
    assert.ok(places.r2.heldOut! > 0.9999 && places.cosine.heldOut! > 0.9999);
    assert.ok(places.r2.train! > 0.9999 && places.cosine.train! > 0.9999);
  }
  file.close();
});

test('a map to a copy of the model whose residual stream was rotated is that rotation', async () => {
  const { plain, rotated, rotation } = rotatedPair();
  const states: Float32Array[] = [];
  for (const [name, model] of Object.entries({ plain, rotated })) {
    const engine = await open(writeFile(`${name}-axes.gguf`, writeGguf(model)));
    const requests = prompts.map((text) => {
      const tokenIds = engine.tokenizer.tokenize(text, { bos: true, special: false });
      return { tokenIds, points: tokenIds.slice(1).map((_, i) => ({ ...at(1), tokenIndex: i + 1 })) };
    });
    const captured = (await engine.capture(requests)).flatMap((result) => {
      assert.ok(result.status === 'ok');
      return result.states.map((state) => [...state]);
    });
    states.push(Float32Array.from(captured.flat()));
    await engine.close();
  }
  const [from, to] = states as [Float32Array, Float32Array];
  const width = rotation.length;
  const widths = { source: { width }, target: { width } };
  for (const kind of ['linear', 'affine', 'low-rank'] as const) {
    const options = kind === 'low-rank' ? { rank: width } : {};
    const task = { kind, options, ridge: 0, seed: 0, targets: 1, threads: 1, ...widths };
    const fitter = makeFitter(task);
    await fitter.add(from, [to]);
    const { map } = (await fitter.solve())[0]!;
    // what it makes of the axes are its columns
    const columns = await applyMap(task, map, unit(width), width, 1);
    const origin = await applyMap(task, map, new Float32Array(width), width, 1);
    const worst = columns.reduce((most, value, i) => {
      const [axis, row] = [Math.floor(i / width), i % width];
      return Math.max(most, Math.abs(value - origin[row]! - rotation[row]![axis]!));
    }, 0);
    assert.ok(worst < 1e-3, `${kind}: ${worst}`);
  }
});

test('a patch through the identity is the plain patch, bit for bit, as a kind and as a matrix', async () => {
  const width = (await engineOf()).record.embeddingSize;
  const layers = { sourceLayers: '0,1', targetLayers: 'same', ...few };
  const plain = vectorsOf(await patchedRows(layers));
  const places = [0, 1].map((layer) => [at(layer), at(layer)] as const);
  const mappings = [
    await written(
      'identity',
      places.map(([source, target]) => [source, target, {}]),
    ),
    await written(
      'linear',
      places.map(([source, target]) => [source, target, { weight: unit(width) }]),
    ),
    await written(
      'affine',
      places.map(([source, target]) => [
        source,
        target,
        { weight: unit(width), bias: new Float32Array(width) },
      ]),
    ),
  ];
  for (const mapping of mappings) {
    const mapped = vectorsOf(await patchedRows({ ...layers, mapping }));
    assert.equal(mapped.length, 8);
    mapped.forEach((vector, i) => {
      assertSameBits(vector, plain[i]!, `${mapping.record.kind} ${i}`);
    });
  }
});

test('each cell is patched with what its own map makes of its own state, controls too', async () => {
  const factors = [
    [0, 1, 2],
    [0, 2, 3],
    [1, 1, -5],
    [1, 2, 7],
  ] as const;
  const mapping = await written(
    'scale',
    factors.map(([source, target, factor]) => [at(source), at(target), { factor: Float32Array.of(factor) }]),
  );
  const cells: Partial<Experiment> = {
    ...few,
    sourceLayers: '0,1',
    targetLayers: '1,2',
    controls: { random: 1, shuffled: 1 },
    variants: [{ name: 'plain' }, { name: 'mapped', mapping }],
  };
  const engine = await engineOf();
  const plan = makePlan(experiment(cells), engine.tokenizer, engine.record);
  const rows = vectorsOf(await patchedRows(cells));
  const found = new Map<string, Float32Array>();
  for (let i = 0; i < plan.cellCount; i++) {
    const { pair, source, target, control, draw } = cellAt(plan, i);
    found.set([pair.sample, pair.variant, source.layer, target.layer, control, draw].join(), rows[i]!);
  }
  let compared = 0;
  for (const [key, vector] of found) {
    const [sample, variant, source, target, control, draw] = key.split(',');
    if (variant !== 'mapped') continue;
    const plain = found.get([sample, 'plain', source, target, control, draw].join())!;
    const factor = factors.find(([from, to]) => `${from}` === source && `${to}` === target)![2];
    if (control === 'random') {
      const [is, was] = [norm(vector), norm(plain)];
      assert.ok(Math.abs(is / was - Math.abs(factor)) < 1e-4, key);
    } else {
      assertSameBits(
        vector,
        plain.map((value) => value * factor),
        key,
      );
    }
    compared++;
  }
  assert.equal(compared, 4 * 4 * 3);
});

test('a map to final_norm serves the last layer, where the norm follows', async () => {
  const { layerCount } = (await engineOf()).record;
  const last = layerCount - 1;
  const mapping = await fitted({ targetSite: 'final_norm' }, { sourceLayers: '0,1', targetLayers: '-1' });
  assert.deepEqual(
    mapping.record.maps.map(({ target }) => target),
    [0, 1].map(() => ({ site: 'final_norm', layer: last })),
  );
  const rows = await patchedRows({ ...few, mapping, sourceLayers: '0,1', targetLayers: '-1' });
  assert.equal(rows.length, 8);
  assert.ok(rows.every(({ edits }) => edits[0]!.site === 'resid_out' && edits[0]!.layer === last));
});

test('what a mapping is not made for is refused in the plan', async () => {
  const engine = await engineOf();
  const width = engine.record.embeddingSize;
  const mapping = await written('scale', [[at(0), at(1), { factor: Float32Array.of(1) }]]);
  const one = { ...few, sourceLayers: '0', targetLayers: '1' };
  const plan = (more: Partial<Experiment>, sha256 = engine.record.sha256) =>
    makePlan(experiment({ ...one, mapping, ...more }), engine.tokenizer, { ...engine.record, sha256 });
  plan({});
  await refused(
    () => plan({ targetLayers: '2' }),
    /has no map from resid_out of layer 0 to resid_out of layer 2/,
  );
  await refused(() => plan({ sourceLayers: '0,1' }), /has no map from resid_out of layer 1/);
  await refused(() => plan({ targetSite: 'mlp_out' }), /to mlp_out of layer 1/);
  await refused(
    () => plan({}, 'another'),
    /was fitted to another source model \(sha256 test, this one is another\): fit one to it with patchscopes fit/,
  );
  const wide = await written(
    'affine',
    [[at(0), at(1), { weight: new Float32Array(4), bias: new Float32Array(2) }]],
    {
      source: { sha256: engine.record.sha256, width: 2 },
      target: { sha256: engine.record.sha256, width: 2 },
    },
  );
  await refused(
    () => plan({ mapping: wide }),
    new RegExp(
      `was fitted to source states of 2 floats, and those of this model have ${width}: .*patchscopes fit`,
    ),
  );
});

test('a plan is the same wherever its mapping lies, and another with another mapping', async () => {
  const engine = await engineOf();
  const scale = (factor: number) => written('scale', [[at(0), at(0), { factor: Float32Array.of(factor) }]]);
  const [one, two] = [await scale(1), await scale(2)];
  const moved = { ...one, path: '/elsewhere' };
  const plan = (mapping: Mapping) =>
    makePlan(experiment({ ...few, sourceLayers: '0', mapping }), engine.tokenizer, engine.record);
  assert.equal(plan(moved).sha256, plan(one).sha256);
  assert.deepEqual(runHeader(plan(moved), { command: '' }), runHeader(plan(one), { command: '' }));
  assert.notEqual(plan(two).sha256, plan(one).sha256);
});

test('a file that was exchanged after the plan was made is not used', async () => {
  const engine = await engineOf();
  const mapping = await written('scale', [[at(0), at(0), { factor: Float32Array.of(1) }]]);
  const plan = makePlan(experiment({ ...few, sourceLayers: '0', mapping }), engine.tokenizer, engine.record);
  const runner = new ChunkRunner(plan, engine);
  await runner.run(0);
  const another = await written('scale', [[at(0), at(0), { factor: Float32Array.of(3) }]]);
  fs.renameSync(another.path, mapping.path);
  await assertRefused(() => runner.run(0), 'bad_input', /is not the file that the plan was made with/);
  fs.rmSync(mapping.path);
  await assertRefused(() => runner.run(0), 'bad_input', /which does not exist/);
});

test('a mapped state that is no number fails its cell alone', async () => {
  const engine = await engineOf();
  const mapping = await written('scale', [
    [at(0), at(0), { factor: Float32Array.of(Number.POSITIVE_INFINITY) }],
    [at(1), at(1), { factor: Float32Array.of(1) }],
  ]);
  const plan = makePlan(
    experiment({ ...few, sourceLayers: '0,1', mapping }),
    engine.tokenizer,
    engine.record,
  );
  const outcomes = await new ChunkRunner(plan, engine).run(0);
  const failed = outcomes.filter(({ status }) => status === 'failed');
  assert.equal(failed.length, 4);
  assert.ok(failed.every(({ error }) => error === 'not_finite: The mapped state holds NaN or infinity.'));
});

test('a fit says what it was made of, whole prompts being held out', async () => {
  const { record } = await fitted(
    { kind: 'scale', heldOut: 0.25, positions: 'sample' },
    { sourceLayers: '1' },
  );
  assert.deepEqual(record.data, {
    experiment: 'mapped',
    positions: 'sample',
    prompts: { train: 30, heldOut: 10 },
    pairs: { train: 30, heldOut: 10 },
    seed: 0,
  });
  const all = await fitted({ kind: 'identity', heldOut: 0 }, { sourceLayers: '1' });
  assert.deepEqual(all.record.data.prompts, { train: 40, heldOut: 0 });
  const engine = await engineOf();
  const tokens = prompts.reduce(
    (sum, text) => sum + engine.tokenizer.tokenize(text, { bos: false, special: false }).length,
    0,
  );
  assert.deepEqual(all.record.data.pairs, { train: tokens, heldOut: 0 }, 'BOS is left out');
  assert.deepEqual(all.record.maps[0]!.r2, { train: null, heldOut: null });
});

test('the identity, a number, a matrix: each kind fits at least as well as the one before', async () => {
  const layers = { sourceLayers: '0', targetLayers: '2' };
  const r2: number[] = [];
  for (const kind of ['identity', 'scale', 'linear', 'affine'] as const) {
    const { record } = await fitted({ kind, heldOut: 0.5 }, layers);
    r2.push(record.maps[0]!.r2.train!);
  }
  assert.deepEqual(
    r2,
    [...r2].sort((a, b) => a - b),
  );
  assert.ok(r2[3]! > r2[0]! + 0.01, `${r2}`);
});

test('every kind is fitted, written, read and patched with as it was fitted', async () => {
  const layers = { sourceLayers: '0', targetLayers: '2' };
  const width = (await engineOf()).record.embeddingSize;
  for (const [kind, options, used, parameters] of [
    ['mean-difference', {}, {}, width],
    ['low-rank', { rank: 3 }, { rank: 3 }, 2 * width * 3 + width],
    ['kernel', { features: 20 }, { features: 20 }, width * 21],
    [
      'mlp',
      { hidden: 8, epochs: 2 },
      { hidden: 8, activation: 'silu', epochs: 2, rate: 0.003 },
      width * 8 + 8 + width * 8 + width,
    ],
  ] as const) {
    const mapping = await fitted({ kind, options }, layers);
    const { record } = mapping;
    assert.deepEqual([record.options, record.parameters], [used, parameters], kind);
    assert.ok(Number.isFinite(record.maps[0]!.r2.heldOut!), kind);
    assert.equal(typeof record.maps[0]!.bandwidth, kind === 'kernel' ? 'number' : 'undefined');
    const plain = vectorsOf(await patchedRows({ ...few, ...layers }));
    const mapped = vectorsOf(await patchedRows({ ...few, ...layers, mapping }));
    const file = new MappingFile(mapping.path);
    const map = file.map(record.maps[0]!);
    file.close();
    for (const [i, state] of plain.entries()) {
      assertSameBits(mapped[i]!, await applyMap(record, map, state, width, 1), `${kind} ${i}`);
      assert.notDeepEqual(mapped[i], state);
    }
  }
});

test('too few pairs are refused with the number that is needed, and a ridge makes them enough', async () => {
  const width = (await engineOf()).record.embeddingSize;
  const options = { positions: 'sample' as const, heldOut: 0 };
  const layers = { ...few, sourceLayers: '1' };
  await refused(
    () => fitted(options, layers),
    new RegExp(`There are 4 pairs .* of ${width} floats needs at least ${width + 1}: .*--ridge 0.01`),
  );
  await refused(() => fitted({ ...options, kind: 'linear' }, layers), new RegExp(`at least ${width}:`));
  const { record, notes } = await fitted({ ...options, ridge: 0.1 }, layers);
  assert.equal(record.maps[0]!.ridge, 0.1);
  assert.ok(!notes.some((note) => note.startsWith('Warning')));
});

test('states that leave several maps raise the ridge, with a warning', async () => {
  // the input of block 0 is the token's alone: there are fewer of them than floats
  const { record, notes } = await fitted({}, { sourceLayers: 'embed', targetLayers: '0' });
  assert.ok(record.maps[0]!.ridge > 0);
  assert.ok(
    notes.some((note) => /^Warning: embed -> resid_out.0: .* a ridge of .* instead of 0\.$/.test(note)),
  );
});

test('what can not be fitted is refused in one sentence, and leaves no file', async () => {
  const before = fs.readdirSync(folder()).length;
  const layers = { sourceLayers: '1' };
  await refused(() => fitted({ ridge: -1 }, layers), /ridge is -1 where/);
  await refused(() => fitted({ ridge: Number.NaN }, layers), /ridge is NaN where/);
  await refused(() => fitted({ kind: 'scale', ridge: 1 }, layers), /kind scale has no ridge/);
  await refused(() => fitted({ heldOut: 1 }, layers), /held out is 1 where a number from 0 to below 1/);
  await refused(
    () => fitted({}, { ...layers, samples: experiment().samples.slice(0, 1) }),
    /There is one prompt, and holding out 1 leaves none/,
  );
  await refused(() => fitted({ variant: 'x' }, layers), /no variant 'x': the experiment has none/);
  const variants = [{ name: 'a' }, { name: 'b' }];
  await refused(() => fitted({}, { ...layers, variants }), /--variant and one of a, b/);
  await refused(() => fitted({ variant: 'x' }, { ...layers, variants }), /the experiment has a, b/);
  await refused(() => fitted({ targetSite: 'final_norm' }, layers), /final_norm comes after the last layer/);
  assert.equal(fs.readdirSync(folder()).length, before);
});

test('the cells of one variant say which layers are mapped', async () => {
  const { record } = await fitted(
    { kind: 'scale', variant: 'b' },
    { variants: [{ name: 'a' }, { name: 'b', sourceLayers: '0,1', targetLayers: '1,2' }] },
  );
  const pairs = record.maps.map(({ source, target }) => `${source.layer}>${target.layer}`).sort();
  assert.deepEqual(pairs, ['0>1', '0>2', '1>1', '1>2']);
});

test('files that are no mappings, or not whole ones, are refused', async () => {
  const mapping = await written('scale', [[at(0), at(0), { factor: Float32Array.of(2) }]]);
  const bytes = fs.readFileSync(mapping.path);
  const other = Buffer.from(
    bytes.toString('latin1').replace('patchscopes-mapping', 'patchscopes-statess'),
    'latin1',
  );
  const renamed = Buffer.from(bytes.toString('latin1').replace('.factor', '.factos'), 'latin1');
  const cases: Readonly<Record<string, Uint8Array>> = {
    empty: Buffer.alloc(0),
    short: bytes.subarray(0, 30),
    'cut off': bytes.subarray(0, bytes.length - 1),
    'no JSON': Buffer.concat([bytes.subarray(0, 8), Buffer.from('{'), bytes.subarray(9).fill(0x20)]),
    'another format': other,
    'a tensor missing': renamed,
    text: Buffer.from('a text that is long enough for a header'),
  };
  fs.writeFileSync(mapping.path, bytes);
  for (const [name, content] of Object.entries(cases)) {
    const file = writeFile(`bad ${name}.safetensors`, content);
    await refused(
      () => readMapping(file),
      /which is no mapping of patchscopes fit: patchscopes fit makes one/,
    );
  }
  await refused(() => readMapping(join(folder(), 'none.safetensors')), /which does not exist/);
  await refused(() => readMapping(folder()), /which can't be read \(EISDIR\)/);
});

/** Scales from place to place by their factors, one file. */
const scales = (
  maps: readonly (readonly [source: number, target: number, factor: number])[],
  changes: Partial<MappingRecord> = {},
) =>
  written(
    'scale',
    maps.map(([source, target, factor]) => [at(source), at(target), { factor: Float32Array.of(factor) }]),
    changes,
  );

test('in a chain each mapping takes what the one before gives', async () => {
  const one = await scales([
    [0, 1, 2],
    [1, 1, 3],
  ]);
  const [two, three] = [await scales([[1, 2, 5]]), await scales([[2, 0, -1]])];
  const mapping = readMappings([one.path, two.path, three.path]);
  assert.equal(mapping.name, [one, two, three].map(({ name }) => name).join(' > '));
  const layers = { ...few, sourceLayers: '0,1', targetLayers: '0' };
  const plain = vectorsOf(await patchedRows(layers));
  const mapped = vectorsOf(await patchedRows({ ...layers, mapping }));
  const factors = new Set<number>();
  mapped.forEach((vector, i) => {
    const factor = Math.round(dot(vector, plain[i]!) / dot(plain[i]!, plain[i]!));
    factors.add(factor);
    assertSameBits(
      vector,
      [1, 5, -1].reduce(
        (state, times, k) => state.map((value) => value * (k === 0 ? (factor === -10 ? 2 : 3) : times)),
        plain[i]!,
      ),
      `${i}`,
    );
  });
  assert.deepEqual([...factors].sort(), [-10, -15]);
  assert.deepEqual(readMappings([one.path]), one, 'one file is no chain');
});

test('a chain that does not fit together, or fits in several ways, is refused', async () => {
  const engine = await engineOf();
  const { sha256, embeddingSize: width } = engine.record;
  const one = await scales([[0, 1, 2]]);
  const plan = (...files: readonly FileMapping[]) =>
    makePlan(
      experiment({
        ...{ ...few, sourceLayers: '0', targetLayers: '2' },
        mapping: readMappings(files.map(({ path }) => path)),
      }),
      engine.tokenizer,
      engine.record,
    );
  plan(one, await scales([[1, 2, 1]]));
  const apart = await scales([[0, 2, 1]]);
  await refused(
    () => plan(one, apart),
    /do not lead from resid_out of layer 0 to resid_out of layer 2: each must have a map from where/,
  );
  const forked = await scales([
    [0, 0, 1],
    [0, 1, 1],
  ]);
  const joining = await scales([
    [0, 2, 1],
    [1, 2, 1],
  ]);
  await refused(
    () => plan(forked, joining),
    /in 2 ways, by resid_out of layer 0 and by resid_out of layer 1: fit them so that there is one/,
  );
  const foreign = await scales([[1, 2, 1]], { source: { sha256: 'f'.repeat(64), width: width + 1 } });
  await refused(
    () => plan(one, foreign),
    new RegExp(
      `gives states of ${width} floats of model ${sha256.slice(0, 12)}.* takes ${width + 1} floats of`,
    ),
  );
  const elsewhere = await scales([[1, 2, 1]], { target: { sha256: 'f'.repeat(64), width } });
  await refused(() => plan(one, elsewhere), /was fitted to another target model/);
});

test('a results file keeps the record of each mapping of a chain, and an experiment file lists them', async () => {
  const engine = await engineOf();
  const [one, two] = [await scales([[0, 1, 2]]), await scales([[1, 2, 5]])];
  const file = writeFile(
    'chained.json',
    JSON.stringify({
      ...{ name: 'chained', samples: [{ prompt: SOURCE }], mapping: [one.path, two.path] },
      ...{ source: { prompt: '{prompt}', layers: 0 }, target: { prompt: '{prompt}', layers: 2 } },
    }),
  );
  const { experiment: read } = readExperiment(file);
  assert.deepEqual(read.mapping, readMappings([one.path, two.path]));
  const plan = makePlan(read, engine.tokenizer, engine.record);
  const db = join(folder(), 'chained.db');
  const header = runHeader(plan, { command: 'chained' });
  for await (const _ of recordRun(run(plan, new ChunkRunner(plan, engine)), header, engine, () =>
    openStore(db),
  ));
  const [[name, kind, sha256, record]] = query(
    db,
    'SELECT name, kind, sha256, record FROM mapping WHERE id > 1',
  ).rows as [[string, string, string, string]];
  const links = [one, two].map(({ name, sha256, record }) => ({ name, sha256, record }));
  assert.deepEqual([kind, JSON.parse(record)], ['chain', { kind: 'chain', links }]);
  assert.deepEqual(query(db, 'SELECT DISTINCT mapping FROM reading').rows, [[name]]);
  const [[settings]] = query(db, 'SELECT experiment FROM run').rows as [[string]];
  assert.deepEqual(JSON.parse(settings).mapping, {
    ...{ kind: 'chain', name, sha256 },
    links: links.map(({ name, sha256 }) => ({ kind: 'file', name, sha256 })),
  });
});

test('a report compares mappings by what they are made of, each with its own control', async () => {
  const engine = await engineOf();
  const width = engine.record.embeddingSize;
  const layers = { sourceLayers: '0', targetLayers: '2' };
  const affine = await fitted({}, layers);
  const rank = await fitted({ kind: 'low-rank', options: { rank: 2 } }, layers);
  const chain = readMappings([(await scales([[0, 0, 1]], { parameters: 1 })).path, rank.path]);
  const plan = makePlan(
    experiment({
      ...{ ...few, ...layers, metrics: ['surprisal'], controls: { random: 1, unpatched: true } },
      variants: [
        { name: 'plain' },
        ...Object.entries({ affine, rank, chain }).map(([name, mapping]) => ({ name, mapping })),
      ],
    }),
    engine.tokenizer,
    engine.record,
  );
  const db = join(folder(), 'sizes.db');
  const header = runHeader(plan, { command: 'sizes' });
  for await (const _ of recordRun(run(plan, new ChunkRunner(plan, engine)), header, engine, () =>
    openStore(db),
  ));
  const small = 2 * width * 2 + width;
  const pairs = affine.record.data.pairs.train;
  assert.deepEqual(
    query(db, 'SELECT kind, parameters, pairs FROM mapping_fit ORDER BY parameters, kind').rows,
    [
      ['identity', 0, null],
      ['low-rank', small, pairs],
      ['chain', small + 1, 0],
      ['affine', width * width + width, pairs],
    ],
  );
  const r2 = query(db, "SELECT r2 FROM mapping_fit WHERE kind = 'affine'").rows.flat();
  assert.deepEqual(r2, [affine.record.maps[0]!.r2.heldOut]);
  const output = join(folder(), 'sizes.html');
  const csv = join(folder(), 'sizes');
  await writeReport(db, { output, csv });
  const [head, ...lines] = fs.readFileSync(join(csv, 'mappings-surprisal.csv'), 'utf8').trim().split('\n');
  const columns = head!.trim().split(',');
  const told = lines.map((line) => {
    const cells = line.trim().split(',');
    return ['kind', 'parameters', 'control'].map((name) => cells[columns.indexOf(name)]);
  });
  assert.deepEqual(
    told,
    [
      ['identity', '0'],
      ['low-rank', `${small}`],
      ['chain', `${small + 1}`],
      ['affine', `${width * width + width}`],
    ].flatMap(([kind, size]) => ['none', 'random'].map((control) => [kind, size, control])),
  );
});

test('a results file says which file a mapping was, and forgets it with its last run', async () => {
  const engine = await engineOf();
  const mapping = await written('scale', [[at(0), at(0), { factor: Float32Array.of(2) }]]);
  const plan = makePlan(experiment({ ...few, sourceLayers: '0', mapping }), engine.tokenizer, engine.record);
  const db = join(folder(), 'mapped.db');
  for (const command of ['one', 'two']) {
    const header = runHeader(plan, { command });
    const stored = recordRun(run(plan, new ChunkRunner(plan, engine)), header, engine, () => openStore(db));
    for await (const _ of stored);
  }
  const rows = () => query(db, 'SELECT name, kind, sha256, record FROM mapping WHERE id > 1').rows;
  const [[name, kind, sha256, record]] = rows() as [string[]];
  assert.deepEqual([name, kind, sha256], [mapping.name, 'scale', mapping.sha256]);
  assert.deepEqual(JSON.parse(record!), mapping.record);
  assert.deepEqual(query(db, 'SELECT DISTINCT mapping FROM reading').rows, [[mapping.name]]);
  const [[settings]] = query(db, 'SELECT experiment FROM run WHERE id = 1').rows as [[string]];
  const kept = { kind: 'file', name: mapping.name, sha256: mapping.sha256 };
  assert.deepEqual(JSON.parse(settings).mapping, kept);
  deleteRun(db, 1);
  assert.equal(rows().length, 1);
  deleteRun(db, 2);
  assert.equal(rows().length, 0);
});

test('an experiment file names its mappings by paths relative to itself', async () => {
  const mapping = await written('scale', [[at(0), at(0), { factor: Float32Array.of(2) }]]);
  fs.mkdirSync(join(folder(), 'maps'), { recursive: true });
  fs.copyFileSync(mapping.path, join(folder(), 'maps', 'two.safetensors'));
  const file = writeFile(
    'mapped.yaml',
    `name: m
samples: [{ prompt: a }]
source: { prompt: "{prompt}" }
target: { prompt: "{prompt}" }
mapping: maps/two.safetensors
variants:
  - name: mapped
  - { name: plain, mapping: identity }
`,
  );
  const { experiment: read } = readExperiment(file);
  const whole = { ...readMapping(join(folder(), 'maps', 'two.safetensors')) };
  assert.deepEqual(read.mapping, whole);
  assert.equal(whole.name, `two@${mapping.sha256.slice(0, 12)}`);
  assert.deepEqual(read.variants, [{ name: 'mapped' }, { name: 'plain', mapping: { kind: 'identity' } }]);
  fs.rmSync(join(folder(), 'maps', 'two.safetensors'));
  await refused(() => readExperiment(file), /two.safetensors', which does not exist/);
  assert.deepEqual(readExperiment(file, { withoutMappings: true }).experiment.mapping, { kind: 'identity' });
});

test('a mapping fitted from a layer to itself reads as the identity does', async () => {
  const engine = await engineOf();
  const own = mkdtemp();
  const unfitted: Mapping = {
    kind: 'unfitted',
    fit: { kind: 'affine', positions: 'all' },
    prompts: prompts.slice(4).map((prompt) => ({
      prompt: { kind: 'text', text: prompt },
      position: parsePosition('-1'),
    })),
  };
  const asked = experiment({
    ...few,
    sourceLayers: '0,1',
    variants: [{ name: 'plain' }, { name: 'mapped', mapping: unfitted }],
  });
  await refused(
    () => makePlan(asked, engine.tokenizer, engine.record),
    /The mapping of the variant 'mapped' is still to be fitted: fitMappings/,
  );
  const ready = await fitMappings(asked, engine, { folder: own });
  assert.deepEqual(await fitMappings(asked, engine, { folder: own }), ready);
  const plan = makePlan(ready, engine.tokenizer, engine.record);
  const outcomes = await new ChunkRunner(plan, engine).run(0);
  const scoresOf = (variant: string) =>
    outcomes.flatMap((outcome, i) =>
      cellAt(plan, i).pair.variant === variant ? [outcome.steps[0]!.map(({ logprob }) => logprob)] : [],
    );
  const [plain, mapped] = [scoresOf('plain'), scoresOf('mapped')];
  assert.equal(plain.length, 8);
  plain.forEach((scores, i) => {
    scores.forEach((score, k) => {
      assert.ok(Math.abs(score - mapped[i]![k]!) < 1e-3, `${scores} ${mapped[i]}`);
    });
  });
});

test('variants share nothing but what they have the same, and one mapping serves an experiment without any', async () => {
  const engine = await engineOf();
  const own = mkdtemp();
  const mapping: Mapping = {
    kind: 'unfitted',
    fit: { kind: 'scale' },
    prompts: [{ prompt: { kind: 'text', text: prompts[9]! }, position: parsePosition('-1') }],
  };
  const fit = { ...mapping, fit: { kind: 'scale' as const, heldOut: 0 } };
  const several = experiment({
    ...few,
    mapping: fit,
    variants: [
      { name: 'low', sourceLayers: '0' },
      { name: 'high', sourceLayers: '1' },
      { name: 'none', mapping: { kind: 'identity' } },
    ],
  });
  const ready = await fitMappings(several, engine, { folder: own });
  const placesOf = (of: Mapping | undefined) =>
    of?.kind === 'file' ? of.record.maps.map(({ source }) => source.layer) : of?.kind;
  assert.deepEqual(
    ready.variants!.map(({ mapping: of }) => placesOf(of)),
    [[0], [1], 'identity'],
  );
  assert.deepEqual(ready.mapping, { kind: 'identity' });
  const single = await fitMappings(experiment({ ...few, sourceLayers: '1', mapping: fit }), engine, {
    folder: own,
  });
  assert.deepEqual(placesOf(single.mapping), [1]);
  assert.equal(fs.readdirSync(own).length, 2, 'what is fitted alike is fitted once');
  await refused(
    () => fitMappings(experiment({ ...few, mapping }), engine, { folder: own }),
    /The mapping of default can't be fitted: there is one prompt, and holding out 1 leaves none/,
  );
});

const mkdtemp = () => fs.mkdtempSync(join(folder(), 'mappings-'));

function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

function norm(vector: Float32Array): number {
  return Math.sqrt(dot(vector, vector));
}
