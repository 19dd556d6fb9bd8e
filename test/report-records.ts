/** Runs with controls, made up of numbers, put into results files through the store. */
import type { Observation } from '../src/observation.js';
import type { RunRecord } from '../src/store/records.js';
import { openStore } from '../src/store/store.js';
import { cell, failedCell, runOf } from './store-records.js';

export interface Shape {
  readonly names: readonly string[];
  readonly groups?: readonly string[];
  readonly variants?: readonly string[];
  readonly layers: readonly (number | 'embed')[];
  /** Targets at all layers, or at the source's own. */
  readonly grid: boolean;
  readonly changes?: Partial<RunRecord>;
}

type Place = Pick<
  Observation,
  'sample' | 'variant' | 'sourceLayer' | 'targetLayer' | 'control' | 'draw' | 'sourceSite' | 'targetSite'
>;

/** Adds a run whose cells are what `of` makes of their places; two draws of the random control. @returns its id. */
export function addControlled(
  path: string,
  shape: Shape,
  of: (place: Place) => Partial<Observation> | 'failed',
): number {
  const { names, groups, variants = ['default'], layers, grid, changes } = shape;
  const target = { prompt: 0, position: 1, tokenId: 7, token: ' x' };
  const source = { ...target, position: 0 };
  const store = openStore(path);
  const observations = names.flatMap((_, sample) =>
    variants.flatMap((variant) =>
      placesOf(layers, grid).map((place) => {
        const at = { sample, variant, ...place };
        const made = of(at);
        return made === 'failed' ? failedCell(at) : cell({ ...at, ...made });
      }),
    ),
  );
  const runId = store.beginRun(
    runOf({ name: 'controlled', cellsPlanned: observations.length, chunksPlanned: 1, ...changes }),
    {
      prompts: [{ text: 'a x', tokenIds: [1, 7] }],
      samples: names.map((name, i) => ({ name, ...(groups !== undefined && { group: groups[i]! }) })),
      variants: names.flatMap((_, sample) =>
        variants.map((name) => ({
          ...{ sample, name, source, target },
          ...{ op: 'replace' as const, alpha: 1, atGenerated: false },
        })),
      ),
    },
  );
  store.addChunk(runId, 0, observations);
  store.aggregate(runId);
  store.finishRun(runId, 'done');
  store.close();
  return runId;
}

function placesOf(layers: Shape['layers'], grid: boolean): Omit<Place, 'sample' | 'variant'>[] {
  const sites = { sourceSite: 'resid_out', targetSite: 'resid_out' } as const;
  const patched = layers.flatMap((sourceLayer) =>
    (grid ? layers : [sourceLayer]).flatMap((targetLayer) =>
      (
        [
          ['none', 0],
          ['random', 0],
          ['random', 1],
          ['shuffled', 0],
        ] as const
      ).map(([control, draw]) => ({ sourceLayer, targetLayer, control, draw, ...sites })),
    ),
  );
  return [...patched, { sourceLayer: null, targetLayer: null, control: 'unpatched', draw: 0, ...sites }];
}
