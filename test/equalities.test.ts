/**
 * Prior readings are instances of one patch: where two of them mean the same they say the same, bit for bit where
 * their rows have the same shape. Each runs from an experiment file on. Cut attention, lenses of zeros and the tokens
 * ahead have theirs in knockout, import-lens and future-lens.
 */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Engine } from '../src/engine.js';
import { MappingWriter } from '../src/mapping/mapping-file.js';
import type { MappingKind, MappingRecord, MapRecord } from '../src/patchscope.js';
import { inputOf } from '../src/prompts.js';
import { pointOf } from '../src/source-states.js';
import { ofVariant, planText, type RanCell, runCells } from './run-cells.js';
import { assertClose, folder, law, promptOf, SOURCE, TARGET, tinyModels, tolerance } from './support.js';

const base = {
  ...{ name: 'equal', samples: [{ p: SOURCE, q: TARGET }], controls: { unpatched: true } },
  source: { prompt: '{p}', layers: 'embed,all' },
  target: { prompt: '{q}' },
  reading: { top: 5, tokens: 3 },
  metrics: ['surprisal-of-own'],
};
const nothing = { name: 'other', edit: { op: 'add' } };

/** Keys of a file that take the place of those above. */
interface Content {
  readonly variants: readonly Readonly<Record<string, unknown>>[];
  readonly reading?: object;
}

const ran = async (engine: Engine, content: Content) =>
  runCells(await planText({ ...base, ...content }, engine), engine);

/** What is read of a cell, to the bit. */
const read = ({ outcome: { text, tokenIds, steps, scores } }: RanCell) => ({ text, tokenIds, steps, scores });

const whereOf = ({ pair, source, target }: RanCell) =>
  `${pair.variant}: ${source.site} ${source.layer} into ${target.site} ${target.layer}`;

/** Every cell of one variant is as that of the other one at the same place in the list of cells. */
function assertEqual(cells: readonly RanCell[], one: string, other: string): void {
  const [own, others] = [ofVariant(cells, one), ofVariant(cells, other)];
  assert.ok(own.length > 0 && own.length === others.length);
  own.forEach((cell, i) => {
    assert.deepEqual(read(cell), read(others[i]!), whereOf(cell));
  });
}

/** Every cell of a variant is as its target prompt says it by itself. */
function assertNothing(cells: readonly RanCell[], variant: string): void {
  const [unpatched] = ofVariant(cells, variant, 'unpatched');
  const own = ofVariant(cells, variant);
  assert.ok(own.length > 0);
  for (const cell of own) assert.deepEqual(read(cell), read(unpatched!), whereOf(cell));
}

/** In each cell something else is read, so that the equalities say something. */
function assertSomething(cells: readonly RanCell[], variant: string): void {
  const [unpatched] = ofVariant(cells, variant, 'unpatched');
  for (const cell of ofVariant(cells, variant))
    assert.notDeepEqual(read(cell), read(unpatched!), whereOf(cell));
}

/** In exact mode no cell feels which others run beside it. */
function equality(sentence: string, check: (engine: Engine, name: string) => Promise<void>): void {
  law(sentence, (engine, { name }) => check(engine, name), { models: tinyModels, exact: true });
}

equality('steering with a factor of zero is nothing, by any op that adds', async (engine) => {
  const cells = await ran(engine, {
    variants: [
      ...['add', 'norm-matched-add', 'mix'].map((op) => ({
        name: op,
        edit: { op, alpha: 0, 'at-generated': true },
      })),
      { name: 'scale', edit: { op: 'scale' } },
      nothing,
    ],
  });
  for (const variant of ['add', 'norm-matched-add', 'mix', 'scale']) assertNothing(cells, variant);
  assertSomething(cells, 'other');
});

equality(
  'a mix of nothing but the vector is the plain patch, and so is a larger state with a factor of one',
  async (engine) => {
    const cells = await ran(engine, {
      variants: [
        { name: 'plain' },
        { name: 'mix', edit: { op: 'mix' } },
        { name: 'x 1', edit: { alpha: 1 } },
        nothing,
      ],
    });
    assertEqual(cells, 'mix', 'plain');
    assertEqual(cells, 'x 1', 'plain');
    assertSomething(cells, 'other');
  },
);

// corrupted by another word's embedding instead of noise; the edit that is nothing gives both rows one shape
equality(
  'what causal tracing restores is what an interchange brings into the corrupted prompt',
  async (engine) => {
    const [clean, corrupted] = ['cat', 'of'].map((word) => `in the house ${word} is a man`);
    const source = { prompt: clean, position: 'is', layers: 'all' };
    const word = { prompt: corrupted, position: 'of' };
    const cells = await ran(engine, {
      variants: [
        {
          ...{ name: 'tracing', source },
          target: {
            ...{ prompt: clean, position: 'is' },
            edits: [{ at: 'cat', layers: 'embed', vector: { mean: [word] } }],
          },
        },
        {
          ...{ name: 'interchange', source },
          target: {
            ...{ prompt: corrupted, position: 'is' },
            edits: [{ at: 'of', layers: 'embed', op: 'scale' }],
          },
        },
      ],
    });
    assertEqual(cells, 'tracing', 'interchange');
    const [unpatched] = ofVariant(cells, 'tracing', 'unpatched');
    assert.notDeepEqual(read(ofVariant(cells, 'tracing')[1]!), read(unpatched!));
  },
);

// behind the position there are as many tokens in both runs, and products of one row alone round otherwise
equality('back-patching into the same layer is nothing', async (engine) => {
  const back = (layers: string) => ({
    source: { position: 2 },
    target: { prompt: '{p}', position: 2, layers },
  });
  const cells = await ran(engine, {
    variants: [
      { name: 'same', ...back('same') },
      { name: 'below', ...back('below') },
    ],
  });
  assertNothing(cells, 'same');
  assertSomething(cells, 'below');
});

equality('zero ablation is a patch with nothing, whatever is taken', async (engine) => {
  const sites = ['resid_out', 'mlp_out', 'attn_out'];
  const cells = await ran(engine, {
    variants: sites.flatMap((site) =>
      ['scale', 'replace'].map((op) => ({
        name: `${op} ${site}`,
        ...{ source: { layers: 'all' }, target: { site }, edit: { op, alpha: 0 } },
      })),
    ),
  });
  for (const site of sites) {
    assertEqual(cells, `scale ${site}`, `replace ${site}`);
    assertSomething(cells, `scale ${site}`);
  }
});

equality(
  'one placeholder at the input of block 1 is a plain patch of what block 0 puts out',
  async (engine) => {
    const into = (layers: string | number) => ({ target: { layers } });
    const cells = await ran(engine, {
      variants: [
        { name: 'input of block 1', ...into('hidden_states[1]') },
        { name: 'before block 1', ...into('blocks.1.hook_resid_pre') },
        { name: 'output of block 0', ...into(0) },
      ],
    });
    assertEqual(cells, 'input of block 1', 'output of block 0');
    assertEqual(cells, 'before block 1', 'output of block 0');
    assertSomething(cells, 'output of block 0');
  },
);

equality(
  "a word's own embedding in the place of another is the word itself in the prompt",
  async (engine) => {
    const written = (word: string) => ({ prompt: `in the house ${word} is a man`, position: word });
    const cells = await ran(engine, {
      variants: [
        {
          name: 'patched',
          source: { ...written('cat'), layers: 'embed' },
          target: { ...written('of'), layers: 'same' },
        },
        {
          name: 'written',
          source: { ...written('cat'), layers: 'embed' },
          target: { ...written('cat'), layers: 'same' },
        },
      ],
    });
    const [cell] = ofVariant(cells, 'patched');
    const [word] = ofVariant(cells, 'written', 'unpatched');
    assert.equal(cell!.pair.target.tokenIndex, word!.pair.target.tokenIndex);
    assert.deepEqual(read(cell!), read(word!));
    assertSomething(cells, 'patched');
  },
);

/** Of width x width ones on the diagonal, or of nothing that is added, from every place to every one. */
function mapFile(
  kind: MappingKind,
  { record: { sha256, embeddingSize: width, layerCount } }: Engine,
): string {
  const unknown = { train: null, heldOut: null };
  const layers = Array.from({ length: layerCount }, (_, layer) => ({ site: 'resid_out' as const, layer }));
  const sources = [{ site: 'embed' as const, layer: 'embed' as const }, ...layers];
  const maps = sources.flatMap((source) =>
    layers.map(
      (target): MapRecord => ({ source, target, ridge: 0, condition: null, r2: unknown, cosine: unknown }),
    ),
  );
  const none = { train: 0, heldOut: 0 };
  const record: MappingRecord = {
    ...{ kind, source: { sha256, width }, target: { sha256, width }, maps },
    data: { experiment: 'by hand', positions: 'sample', prompts: none, pairs: none, seed: 0 },
  };
  const file = join(folder(), `${kind} ${Math.random()}.safetensors`);
  writeFileSync(file, '');
  const writer = new MappingWriter(file, record);
  const weight = Float32Array.from({ length: width * width }, (_, i) => Number(i % (width + 1) === 0));
  const bias = new Float32Array(width);
  const parts = {
    linear: { weight },
    affine: { weight, bias },
    'mean-difference': { bias },
    scale: { factor: Float32Array.of(1) },
  };
  for (const map of maps) writer.write(map, parts[kind as keyof typeof parts]);
  writer.finish(record);
  writer.close();
  return file;
}

equality(
  'a linear shortcut with the identity is the plain patch, and so is every map that changes nothing',
  async (engine) => {
    const kinds = ['linear', 'affine', 'mean-difference', 'scale'] as const;
    const cells = await ran(engine, {
      variants: [
        { name: 'plain', target: { layers: 'all' } },
        ...kinds.map((kind) => ({ name: kind, target: { layers: 'all' }, mapping: mapFile(kind, engine) })),
      ],
    });
    for (const kind of kinds) assertEqual(cells, kind, 'plain');
    assertSomething(cells, 'plain');
  },
);

equality(
  'a lens is a patch at the last layer: of the same prompt or of any other, and of no run at all',
  async (engine, name) => {
    const cells = await ran(engine, {
      variants: [
        { name: 'same prompt', target: { prompt: { same: 'source' }, layers: -1 } },
        { name: 'other prompt', target: { layers: -1 } },
      ],
      ...{ reading: { top: 5, tokens: 1 } },
    });
    assertEqual(cells, 'same prompt', 'other prompt');
    const model = tinyModels.find((one) => one.name === name)!;
    for (const cell of ofVariant(cells, 'same prompt')) {
      const points = [pointOf(promptOf(cell.pair.source), cell.source)];
      const [captured] = await engine.capture([{ ...inputOf(promptOf(cell.pair.source)), points }]);
      assert.ok(captured?.status === 'ok');
      const [lens] = await engine.lens(captured.states[0]!, { topK: 5 });
      assert.ok(lens?.status === 'ok');
      const scores = cell.outcome.steps[0]!.filter(({ rank }) => rank < 5);
      assertClose(
        Float32Array.from(lens.top, ({ logprob }) => logprob),
        Float32Array.from(scores, ({ logprob }) => logprob),
        tolerance(model),
        whereOf(cell),
      );
    }
  },
);
