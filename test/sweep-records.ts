/** Sweeps made up of numbers, put into results files through the store: whole, in shards, or broken off. */
import type { Observation, TokenScore } from '../src/observation.js';
import type { ModelRecord, RunContents, RunRecord } from '../src/store/records.js';
import { openStore } from '../src/store/store.js';
import { engine, model } from './store-records.js';

export const otherModel: ModelRecord = {
  ...model,
  sha256: 'cd'.repeat(32),
  name: 'Other',
  path: 'other.gguf',
};

export interface Sweep {
  readonly name: string;
  readonly samples: number;
  readonly variants: readonly string[];
  readonly layers: readonly (number | 'embed')[];
  /** Target layers are all layers, or the source's own. */
  readonly diagonal?: boolean;
  readonly mapping?: string;
  readonly cellsInChunk: number;
  /** Numbers from which token ids and texts are made. */
  readonly salt?: number;
  readonly source?: ModelRecord;
  readonly changes?: Partial<RunRecord>;
}

export const sweep: Sweep = {
  name: 'sweep',
  samples: 5,
  variants: ['default', 'other "words"'],
  layers: ['embed', 0, 1, 2, 3],
  cellsInChunk: 7,
};

export interface Part {
  readonly shard?: { readonly index: number; readonly count: number };
  /** Chunks that are stored; default: all. */
  readonly chunks?: number;
  readonly changes?: Partial<RunRecord>;
}

/** Chunks of cells, in the order of the plan. */
export function chunksOf(sweep: Sweep): Observation[][] {
  const cells: Observation[] = [];
  for (let sample = 0; sample < sweep.samples; sample++) {
    for (const variant of sweep.variants) {
      for (const sourceLayer of sweep.layers) {
        for (const targetLayer of sweep.diagonal ? [sourceLayer] : sweep.layers) {
          cells.push(observation(sweep, cells.length, { sample, variant, sourceLayer, targetLayer }));
        }
      }
      const unpatched = { control: 'unpatched' as const, sourceLayer: null, targetLayer: null };
      cells.push(observation(sweep, cells.length, { sample, variant, ...unpatched }));
    }
  }
  const chunks: Observation[][] = [];
  for (let begin = 0; begin < cells.length; begin += sweep.cellsInChunk) {
    chunks.push(cells.slice(begin, begin + sweep.cellsInChunk));
  }
  return chunks;
}

/** Every eleventh cell failed. */
function observation(sweep: Sweep, cell: number, place: Partial<Observation>): Observation {
  const salt = sweep.salt ?? 0;
  const failed = cell % 11 === 10;
  const step = (s: number) =>
    [0, 1, 2].map((rank) => {
      const tokenId = 100 + ((cell * 7 + rank * 3 + s + salt) % 50);
      return { tokenId, token: ` t${tokenId}`, logprob: -0.25 * (rank + 1) - ((cell * 13) % 17) / 10, rank };
    });
  return {
    ...{ sample: 0, variant: 'default', sourceLayer: 0, targetLayer: 0 },
    ...{ sourceSite: 'resid_out', targetSite: 'resid_out' },
    ...{ mapping: sweep.mapping ?? 'identity', control: 'none', draw: 0 },
    ...place,
    ...(failed
      ? {
          status: 'failed',
          error: `not_finite: cell ${cell}`,
          text: null,
          tokenIds: [],
          steps: [],
          scores: {},
        }
      : {
          ...{ status: 'ok', error: null, text: `text "${cell}",\n${salt}`, tokenIds: [100, 101 + cell] },
          steps: [step(0), step(1)],
          relevancy: [0, 1].map((s) => {
            const [{ tokenId }] = step(s) as [TokenScore];
            return { tokenId, probability: 0.5, unpatched: (cell % 7) / 10 };
          }),
          scores: { 'answer-found': Number(cell % 3 === 0), 'answer-logprob': -((cell * 31) % 29) / 7 },
        }),
  };
}

function contentsOf({ samples, variants, salt = 0 }: Sweep): RunContents {
  const place = (prompt: number, tokenId: number) => ({
    prompt,
    position: 1,
    tokenId,
    token: ` t${tokenId}`,
  });
  return {
    prompts: Array.from({ length: samples + 1 }, (_, i) => ({
      text: i % 2 === 0 ? `prompt ${i}` : null,
      tokenIds: [1, i + salt, 5],
    })),
    samples: Array.from({ length: samples }, (_, i) => ({
      name: `sample ${i}`,
      ...(i % 3 > 0 && { group: `group ${i % 3}`, answer: [`answer ${i}`, 'x'] }),
    })),
    variants: Array.from({ length: samples }, (_, sample) => sample).flatMap((sample) =>
      variants.map((name) => ({
        ...{ sample, name, source: place(sample, 30 + sample + salt), target: place(samples, 60 + salt) },
        ...{ op: 'replace' as const, alpha: 1, atGenerated: false },
        ...(sample % 2 === 1 && { contrast: { alpha: 1, cutoff: 0.1 }, decay: 0.5 }),
      })),
    ),
  };
}

/** Adds a run, or a shard of it, to a results file. @returns its id. */
export function addRun(path: string, sweep: Sweep, { shard, chunks: most, changes }: Part = {}): number {
  const store = openStore(path);
  const chunks = [...chunksOf(sweep).entries()].filter(
    ([chunk]) => shard === undefined || chunk % shard.count === shard.index - 1,
  );
  const runId = store.beginRun(
    {
      name: sweep.name,
      command: `patchscopes run ${sweep.name}`,
      experiment: { name: sweep.name, layers: sweep.layers },
      experimentSource: `name: ${sweep.name}\n`,
      reading: { topK: 3, maxTokens: 2, stop: [] },
      seed: 7,
      sourceModel: sweep.source ?? model,
      targetModel: model,
      engine,
      addon: '0.2.0',
      cacheLayout: 'unified',
      host: 'here',
      tolerance: 0.25,
      planSha256: `plan of ${sweep.name} ${sweep.salt ?? 0}`,
      cellsPlanned: chunks.reduce((sum, [, cells]) => sum + cells.length, 0),
      chunksPlanned: chunks.length,
      shard: shard ?? null,
      startedAt: new Date(),
      ...sweep.changes,
      ...changes,
    },
    contentsOf(sweep),
  );
  const stored = chunks.slice(0, most);
  for (const [chunk, cells] of stored) store.addChunk(runId, chunk, cells);
  const isWhole = stored.length === chunks.length;
  if (isWhole && shard === undefined) store.aggregate(runId);
  store.finishRun(runId, isWhole ? 'done' : 'interrupted');
  store.close();
  return runId;
}
