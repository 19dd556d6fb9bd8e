/** What can be read and written in one tiny model: the rows of `npm run architectures`, which tests assert. */

import { openEngine } from '../src/llama/llama-engine.js';
import type { Site } from '../src/patchscope.js';
import { device } from './device.js';
import { asFile, tinyPath } from './fixtures/disk.js';
import { type ModelKind, tinyModel } from './fixtures/models.js';
import { type Place, type Shape, SiteProbe } from './site-probe.js';

export interface SiteReport {
  readonly site: Site;
  /** In how many of the blocks it was found; of one for `embed` and `final_norm`. */
  readonly found: number;
  readonly of: number;
  readonly reason: string | null;
}

export interface ArchitectureReport {
  readonly kind: ModelKind;
  readonly architecture: string;
  readonly sites: readonly SiteReport[];
  /** Largest difference of a logit when a state is written back where it was read, over all sites. */
  readonly ownState: number;
  /** Sites where another state changed no logit at all. */
  readonly deaf: readonly Place[];
}

export interface Refusal {
  readonly kind: ModelKind;
  readonly architecture: string;
  readonly refused: string;
}

const shapes: readonly Shape[] = [
  { name: 'one token', prompts: [[5]], outputs: 'all' },
  { name: 'five tokens, one output', prompts: [[5, 90, 70, 71, 72]], outputs: 'last of each' },
  { name: '48 tokens', prompts: [Array.from({ length: 48 }, (_, i) => 40 + i)], outputs: 'all' },
  {
    name: 'three sequences',
    prompts: [
      [5, 90, 70, 71, 72],
      [6, 91, 73, 74, 75],
      [7, 92, 76, 77, 78],
    ],
    outputs: 'all',
  },
];

const largestDifference = (a: Float32Array, b: Float32Array): number =>
  a.reduce((largest, value, i) => Math.max(largest, Math.abs(value - b[i]!)), 0);

export async function examine(kind: ModelKind): Promise<ArchitectureReport | Refusal> {
  const { value } = tinyModel(kind).metadata.get('general.architecture') as { value: string };
  const head = { kind, architecture: value };
  let ownState = 0;
  let sites: SiteReport[] = [];
  const deaf: Place[] = [];
  try {
    await (await openEngine(asFile(tinyPath(kind)), { threads: 1, ...device.options })).close();
  } catch (error) {
    return { ...head, refused: (error as Error).message };
  }
  for (const flashAttention of [true, false]) {
    const probe = await SiteProbe.open(tinyPath(kind), flashAttention);
    try {
      sites = Object.entries(probe.sites).map(([site, { nodes, reason }]) => ({
        site: site as Site,
        found: nodes.filter((node) => node !== null).length,
        of: nodes.length,
        reason,
      }));
      for (const shape of shapes) {
        const before = await probe.run(shape);
        for (const place of probe.places().filter(({ site }) => site !== 'final_norm')) {
          const rows = before.rows(place);
          const own = before.states(place);
          const after = await probe.run(shape, [{ ...place, rows, vectors: own }]);
          ownState = Math.max(ownState, largestDifference(after.logits, before.logits));
          const other = await probe.run(shape, [{ ...place, rows, vectors: own.map((x) => 0.5 - x) }]);
          if (largestDifference(other.logits, before.logits) === 0) deaf.push(place);
        }
      }
    } finally {
      probe.close();
    }
  }
  return { ...head, sites, ownState, deaf };
}
