/** Calls of the API with values that its types do not allow, or that are beyond all measure. */
import { rmSync } from 'node:fs';
import path from 'node:path';
import * as api from '../../src/index.js';
import { writeTinyModel } from '../fixtures/models.js';
import { judged, type Outcome, type Part } from './cases.js';
import { spoil } from './spoil.js';

/** Right arguments, of which some are spoilt, and what is called with them. */
interface Call {
  readonly right: () => unknown[];
  readonly make: (engine: api.Engine, args: never[]) => unknown;
}

const state = (value = 0.5) => new Float32Array(64).fill(value);
const point = () => ({ site: 'resid_out', layer: 1, tokenIndex: 1 });
const edit = () => ({ ...point(), vector: state() });
const reading = () => ({
  topK: 2,
  maxTokens: 2,
  stop: ['x'],
  trackedTokens: [5],
  tokenIndexes: [0],
  logits: true,
});
const prompt = () => ({ kind: 'text', text: 'the cat is on', bos: true, chat: false, special: false });
const place = () => ({ prompt: prompt(), position: { kind: 'index', index: -1 } });
const experiment = () => ({
  name: 'fuzz',
  samples: [{ name: 'one', source: place(), target: place() }],
  sourceLayers: '0..1',
  targetLayers: 'same',
  mapping: { kind: 'identity' },
  reading: { topK: 2, maxTokens: 2, stop: [] },
  seed: 0,
});
const lensExperiment = () => ({
  prompts: [{ name: 'one', prompt: prompt() }],
  layers: 'embed,-1',
  topK: 2,
  lastTokenOnly: true,
  seed: 0,
});
const page = () => ({
  title: 'page',
  lead: 'lead',
  tables: [
    {
      title: 'table',
      about: 'about',
      groups: [{ title: 'group', columns: ['one'] }],
      rows: [{ heading: 'row', cells: [{ text: 'cell', probability: 0.5, detail: 'detail', marked: true }] }],
    },
  ],
  facts: [['model', 'tiny']],
});
const table = () => ({ columns: ['a', 'b'], rows: [[1, 'x']], truncated: false });

async function all<T>(chunks: AsyncIterable<T>): Promise<void> {
  for await (const _ of chunks);
}

/** Folder of the child and path of its model, known once the first case runs. */
let folder = '.';
const model = () => path.join(folder, 'llama.gguf');
const file = () => ({ path: model(), parts: [model()], sha256: 'fuzz', bytes: 1 });
const options = () => ({
  threads: 1,
  gpu: 'off',
  gpuLayers: 0,
  contextSize: 64,
  batchTokens: 16,
  batchRows: 4,
  flashAttention: true,
  typeK: 'f16',
  typeV: 'f16',
  exact: false,
});

const calls: { readonly [name: string]: Call } = {
  capture: {
    right: () => [[{ tokenIds: [1, 70, 71], points: [point(), point()] }]],
    make: (engine, [requests]) => engine.capture(requests!),
  },
  patch: {
    right: () => [
      [
        { tokenIds: [1, 70, 71], edits: [edit()], trackedTokens: [7, 9] },
        { tokenIds: [1, 72], edits: [], until: ['a'] },
        { tokenIds: [1, 72], edits: [edit()], contrast: { edits: [], alpha: 1, cutoff: 0.1 } },
        { tokenIds: [1, 72], edits: [], contrast: { layers: [0, 'embed'], cutoff: 0 } },
      ],
      reading(),
      { cacheLayout: 'streams' },
    ],
    make: (engine, [rows, how, options]) => engine.patch(rows!, how!, options!),
  },
  lens: {
    right: () => [state(), { topK: 2, trackedTokens: [5], logits: true, way: 'fast' }],
    make: (engine, [states, how]) => engine.lens(states!, how!),
  },
  tokenize: {
    right: () => ['the cat <s>', { bos: true, special: true }],
    make: ({ tokenizer }, [text, how]) => tokenizer.tokenize(text!, how!),
  },
  tokenBytes: { right: () => [5], make: ({ tokenizer }, [id]) => tokenizer.tokenBytes(id!) },
  isEndOfText: { right: () => [2], make: ({ tokenizer }, [id]) => tokenizer.isEndOfText(id!) },
  chat: {
    right: () => ['hello', { bos: true }],
    make: ({ tokenizer }, [text, how]) => tokenizer.chat(text!, how!),
  },
  openEngine: {
    right: () => [file(), options()],
    make: async (_, [found, how]) => (await api.openEngine(found!, how!)).close(),
  },
  run: {
    right: () => [experiment()],
    make: (engine, [what]) => {
      const plan = api.makePlan(what!, engine.tokenizer, engine.record);
      return all(api.run(plan, new api.ChunkRunner(plan, engine)));
    },
  },
  record: {
    right: () => [experiment(), 'as typed', path.join(folder, 'results.db')],
    make: (engine, [what, typed, db]) => {
      const plan = api.makePlan(what!, engine.tokenizer, engine.record);
      const header = api.runHeader(plan, { command: typed! });
      const chunks = api.run(plan, new api.ChunkRunner(plan, engine));
      return all(api.recordRun(chunks, header, engine, () => api.openStore(db!)));
    },
  },
  runLens: {
    right: () => [lensExperiment()],
    make: (engine, [what]) => all(api.runLens(api.planLens(what!, engine), engine)),
  },
  convertModel: {
    right: () => [file(), path.join(folder, 'converted.gguf'), { to: 'f32', threads: 1 }],
    make: async (_, [found, output, how]) => {
      await api.convertModel(found!, output!, how!);
      rmSync(output!);
    },
  },
  parsePosition: { right: () => ['the#2'], make: (_, [typed]) => api.parsePosition(typed!) },
  query: {
    right: () => [path.join(folder, 'results.db'), 'SELECT 1', { maxRows: 5 }],
    make: (_, [db, sql, how]) => api.query(db!, sql!, how),
  },
  format: {
    right: () => [table()],
    make: (_, [rows]) => [api.formatTable(rows!), api.formatCsv(rows!), api.formatJsonLines(rows!)],
  },
  renderPage: { right: () => [page()], make: (_, [what]) => api.renderPage(what!) },
  resolveModel: { right: () => [model(), {}], make: (_, [spec, how]) => api.resolveModel(spec!, how) },
};

const names = Object.keys(calls);

let shared: Promise<api.Engine> | undefined;

function engineIn(at: string): Promise<api.Engine> {
  if (shared === undefined) {
    folder = at;
    writeTinyModel('llama', model());
    process.env.PATCHSCOPES_CACHE = path.join(folder, 'cache');
    shared = api.openEngine(file(), { threads: 1 });
  }
  return shared;
}

const check = async (engine: api.Engine): Promise<string> => {
  const [row] = await engine.patch([{ tokenIds: [1, 70], edits: [] }], { topK: 1, maxTokens: 1 });
  return JSON.stringify(row);
};

let expected: string | undefined;

export const apiCalls: Part = {
  async run(random, at, tell) {
    const engine = await engineIn(at);
    expected ??= await check(engine);
    const name = random.pick(names);
    const args = calls[name]!.right();
    tell(`${name}: ${random.times(1, 2, () => spoil(args, random)).join(', ')}`);
    const outcome = await outcomeOf(() => calls[name]!.make(engine, args as never[]));
    const after = await check(engine);
    if (after !== expected) return { kind: 'wrong', detail: `the engine now says ${after}` };
    return outcome;
  },
};

async function outcomeOf(work: () => unknown): Promise<Outcome> {
  try {
    await work();
    return { kind: 'accepted', detail: '' };
  } catch (error) {
    return judged(error);
  }
}
