/** Scores of single cells -> what the captured state adds to a control, with confidence intervals over samples. */
import type { Database } from 'better-sqlite3';
import { meansOf, type Score, type Shared, Sums, scoresOf } from './score-sums.js';

/** Where a layer is null, it is all of them. */
export type EffectRow = readonly [
  ...Shared,
  string,
  value: number,
  n: number,
  samples: number,
  low: number,
  high: number,
];

/** Of these a difference is told in two ways: as it is, and as a part of what it is compared with. */
const relativeName: ReadonlyMap<string, string> = new Map([
  ['answer-probability', 'answer-probability-change'],
]);

/** The rows of `effect`: at each pair of layers, each layer of either side, and over all; they depend on the cells alone. */
export function* effectRows(database: Database, runId: number): Generator<EffectRow> {
  const means = meansOf(database, runId, differences(database, runId));
  for (const { shared, group, value, n, samples, low, high } of means) {
    yield [...shared, group, value, n, samples, low, high];
  }
}

function differences(database: Database, runId: number): Iterable<[Shared, Sums]> {
  const effects = new Map<string, [Shared, Sums]>();
  const add = (shared: Shared, sample: number, difference: number) => {
    const key = shared.join('\n');
    let effect = effects.get(key);
    if (effect === undefined) {
      effect = [shared, new Sums()];
      effects.set(key, effect);
    }
    effect[1].add(sample, difference, 1);
  };
  for (const [sample, scores] of bySample(database, runId)) {
    const controls = controlMeans(scores);
    for (const [name, control, variant, mapping, sourceSite, site, source, target, , value] of scores) {
      if (control !== 'none') continue;
      const sites = [sourceSite, site].map((one) => (one === 'embed' ? 'resid_out' : one)) as [
        string,
        string,
      ];
      const exact = [name, variant, mapping, sourceSite, site, source, target].join('\n');
      const beside = [...(controls.get(exact) ?? []), ...(controls.get([name, variant].join('\n')) ?? [])];
      for (const [other, { sums, counts }] of beside) {
        const own = sums[0]! / counts[0]!;
        const relative = own === 0 ? undefined : relativeName.get(name);
        for (const layers of [
          [source, target],
          [source, null],
          [null, target],
          [null, null],
        ] as const) {
          add([name, other, variant, mapping, ...sites, ...layers], sample, value - own);
          if (relative !== undefined)
            add([relative, other, variant, mapping, ...sites, ...layers], sample, (value - own) / own);
        }
      }
    }
  }
  return effects.values();
}

/** By what they are compared with, then by control: over draws. What is not patched has no layers, and goes with all. */
function controlMeans(scores: readonly Score[]): Map<string, Map<string, Sums>> {
  const means = new Map<string, Map<string, Sums>>();
  for (const [name, control, variant, mapping, sourceSite, site, source, target, sample, value] of scores) {
    if (control === 'none') continue;
    const place = control === 'unpatched' ? [] : [mapping, sourceSite, site, source, target];
    const key = [name, variant, ...place].join('\n');
    let byControl = means.get(key);
    if (byControl === undefined) {
      byControl = new Map();
      means.set(key, byControl);
    }
    let sums = byControl.get(control);
    if (sums === undefined) {
      sums = new Sums();
      byControl.set(control, sums);
    }
    sums.add(sample, value, 1);
  }
  return means;
}

/** In the order of samples, since all scores at once may be more than memory holds. */
function* bySample(database: Database, runId: number): Generator<[number, Score[]]> {
  let sample: number | undefined;
  let scores: Score[] = [];
  for (const score of scoresOf(database, runId)) {
    if (sample !== undefined && score[8] !== sample) {
      yield [sample, scores];
      scores = [];
    }
    sample = score[8];
    scores.push(score);
  }
  if (sample !== undefined) yield [sample, scores];
}
