/** Which readings are to be believed, where the experiment asked for numbers that say so. */
import type { Database } from 'better-sqlite3';
import { fidelityMetricNames } from '../store/fidelity.js';
import { askData } from './data.js';
import type { Part } from './part.js';
import type { Subject } from './subject.js';

/** Of the first samples: what the variants say together at each pair of layers, and each reading alone. */
export function fidelityTables(
  database: Database,
  { runIds, metrics }: Subject,
  sampleCount: number,
): Part[] {
  if (!fidelityMetricNames.some((name) => metrics.includes(name))) return [];
  const layer = (column: string) => `CASE ${column} WHEN -1 THEN 'embed' ELSE ${column} END AS ${column}`;
  const layers = `${layer('source_layer')}, ${layer('target_layer')}`;
  const rounded = ['agreement', 'stability', 'unlike_controls', 'relevancy']
    .map((name) => `round(${name}, 2) AS ${name}`)
    .join(', ');
  return [
    {
      ...{ name: 'believable', title: 'Readings of all variants, by layer' },
      caption:
        'Text: of the variant that agrees best with the others. Agreement: mean overlap of what the variants say, by words, 0 to 1. Stability: mean overlap with the layers before and behind. Unlike controls: 1 less the overlap with the control that is most like it. Relevancy: how much the patch changes the probabilities of the tokens. Chance: what 19 of 20 random vectors that change the text do not exceed. Believable: agreement and stability are beyond chance or whole, and most texts have words that no control says, are not those of the unpatched target and mean something; blank: it can not be told without several variants and the control random.',
      data: askData(
        database,
        `SELECT sample, ${layers}, CASE believable WHEN 1 THEN 'yes' WHEN 0 THEN 'no' END AS believable, text, ${rounded},
  round(chance_agreement, 2) AS chance_agreement, round(chance_stability, 2) AS chance_stability,
  round(contaminated, 2) AS contaminated, round(meaningless, 2) AS meaningless, round(norm_far, 2) AS norm_far, run_id
FROM fidelity_by_layer AS layer
WHERE run_id IN (${runIds}) AND sample_idx < ${sampleCount}
ORDER BY run_id, sample_idx, layer.source_layer, layer.target_layer`,
      ),
    },
    {
      ...{ name: 'fidelity-of-readings', title: 'Each reading' },
      caption: 'The same numbers, and 1 where the reading has a sign of failure.',
      // its rows are seen when asked for
      html: '',
      data: askData(
        database,
        `SELECT sample, ${layers}, variant, text, ${rounded}, unrelated, contaminated, meaningless, norm_far, run_id
FROM fidelity AS reading
WHERE run_id IN (${runIds}) AND sample_idx < ${sampleCount} AND control = 'none'
ORDER BY run_id, sample_idx, reading.source_layer, reading.target_layer, observation_id`,
      ),
    },
  ];
}
