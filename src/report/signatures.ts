/** How readings fail: counts of cells by what is wrong with them. */
import type { Database } from 'better-sqlite3';
import { type CurveRow, curveParts, lineLabel, lineMeans, sumsNote } from './curves.js';
import { ask, askData, sqlText } from './data.js';
import { type Part, partName } from './part.js';
import { placeColumns, placeJoins, type Subject } from './subject.js';

export function failureReasons(database: Database, { runIds }: Subject): Part {
  return {
    ...{ name: 'failed-cells', title: 'Failed cells by reason' },
    caption: 'No row: no cell failed. The sentence is that of the first such cell.',
    data: askData(
      database,
      `SELECT run_id, variant, control, substr(error, 1, instr(error, ':') - 1) AS reason, count(*) AS cells,
  min(source_layer) AS first_source_layer, max(source_layer) AS last_source_layer, min(error) AS example
FROM observation
WHERE run_id IN (${runIds}) AND status = 'failed'
GROUP BY run_id, variant, control, reason
ORDER BY run_id, variant, control, reason`,
    ),
  };
}

/** Counts of the signs of failure, by variant and control. */
export function signatureCounts(database: Database, { runIds }: Subject): Part {
  return {
    ...{ name: 'signs-of-failure', title: 'Cells with signs of failure' },
    caption:
      'Empty: nothing but white space. Repetitive: at least half of the tokens are one piece, three or more times in a row. Unprintable: signs that are no text. Meaningless: any of these three. Unrelated: a text that means something, and a random or shuffled state at the same sample and layers gives the same one. Contaminated: what the unpatched target says comes back. Norm far: the patched vector is less than half or more than twice as long as the state that the target prompt itself has at that place and position. Differs: of the cells that were run twice, those of which something else came out. Blank: it can not be told, since that control was not run, nothing was run twice, or an older version made the run. A text of one token is easily that of a control by chance.',
    data: askData(
      database,
      `SELECT run_id, variant, mapping, control, count(*) AS cells, sum(failed) AS failed, sum(not_finite) AS not_finite,
  sum(empty) AS empty, sum(repetitive) AS repetitive, sum(unprintable) AS unprintable, sum(meaningless) AS meaningless,
  sum(unrelated) AS unrelated, sum(contaminated) AS contaminated, sum(norm_far) AS norm_far,
  nullif(count(differs), 0) AS run_twice, sum(differs) AS differs
FROM signature
WHERE run_id IN (${runIds})
GROUP BY run_id, variant, mapping, control
ORDER BY run_id, variant, mapping, control`,
    ),
  };
}

/** Signs, what they usually come of, and how often these causes are there too. */
const usualCauses = [
  ['all', '1', 'To compare with: the shares of all cells.'],
  [
    'failed',
    'failed',
    'Numbers that overflow: a state or a mapped one out of range, or a K/V cache of a narrow type.',
  ],
  [
    'meaningless',
    'meaningless',
    'A vector far longer or shorter than the states of the target layer, or of a layer far from it.',
  ],
  [
    'unrelated',
    'unrelated',
    'A target prompt that says it all itself, or a target layer too late for the vector to be read.',
  ],
  [
    'contaminated',
    'contaminated',
    'The placeholder is read instead of the vector: blocks before the target layer have passed it on. At collapsed layers this is so for every sample.',
  ],
  [
    'differs',
    'differs',
    'A device or threads that add in another order. Nothing else in a plan may change between runs.',
  ],
] as const;

export function signatureCauses(database: Database, { runIds }: Subject): Part {
  const rows = usualCauses.map(
    (
      [sign, condition, cause],
      i,
    ) => `SELECT ${i} AS place, run_id, variant, ${sqlText(sign)} AS sign, count(*) AS cells,
  avg(contaminated) AS contaminated, avg(norm_far) AS norm_far, avg(collapsed) AS collapsed, ${sqlText(cause)} AS usual_causes
FROM cell WHERE ${condition} GROUP BY run_id, variant`,
  );
  return {
    ...{ name: 'causes', title: 'Signs and their causes' },
    caption:
      'Captured states alone. Of the cells with a sign: the share that is contaminated, whose vector has a norm far from that of the state it meets, and that lies at a collapsed layer: there and at all later target layers every text is that of the unpatched target. A cause is likely where its share is well above that of all cells.',
    data: askData(
      database,
      `WITH cell AS MATERIALIZED (
  SELECT signature.*, layer.collapsed
  FROM signature
  LEFT JOIN (SELECT * FROM signature_by_layer WHERE run_id IN (${runIds}) AND control = 'none') AS layer
    USING (run_id, variant, mapping, target_layer)
  WHERE signature.run_id IN (${runIds}) AND signature.control = 'none'
), signs AS (
${rows.join('\nUNION ALL\n')}
)
SELECT run_id, variant, sign, cells, contaminated, norm_far, collapsed, usual_causes FROM signs
ORDER BY run_id, variant, place`,
    ),
  };
}

const drawnSigns = [
  [
    'contaminated',
    'Share of texts that are those of the unpatched target',
    'A line that comes to 1 and stays there is the collapse at late layers: what is patched is read no more.',
  ],
  ['unrelated', 'Share of texts that a random or shuffled state gives too', ''],
  ['meaningless', 'Share of texts that are empty, repetitive or unprintable', ''],
  [
    'norm_ratio',
    'Norm of what is patched, in norms of what it replaces',
    'The state that the target prompt itself has at that place and position is 1.',
  ],
] as const;

/** A curve for each sign that some cell has. */
export function signatureCurves(database: Database, subject: Subject): Part[] {
  const axis = subject.isGrid ? 'target_layer' : subject.axis;
  const layer = subject.isGrid ? 'target layer' : 'layer';
  return drawnSigns.flatMap(([sign, title, note]) => {
    const sql = `SELECT ${placeColumns},
  observation.control, observation.${axis} AS layer, observation.sample_idx,
  sum(signature.${sign}) AS sum, count(signature.${sign}) AS cells
FROM observation
JOIN signature ON signature.observation_id = observation.id
${placeJoins}
WHERE observation.run_id IN (${subject.runIds}) AND observation.control <> 'unpatched'${sign === 'norm_ratio' ? " AND observation.control = 'none'" : ''}
GROUP BY observation.run_id, observation.variant, observation.mapping_id, 5, 6, observation.control, layer, observation.sample_idx
HAVING count(signature.${sign}) > 0
ORDER BY observation.run_id, observation.variant, observation.control, layer, observation.sample_idx`;
    const rows = ask<CurveRow>(database, sql);
    if (rows.every(({ sum }) => sum === 0)) return [];
    return curveParts(subject, lineMeans(subject, rows), {
      ...{ sql: `${sumsNote}\n${sql}`, zero: false, axis, value: sign.replace('_', ' ') },
      name: partName('sign', sign),
      title: `${title}, by ${layer}`,
      caption: `Mean over samples and all layers of the other side; bands: 95 % intervals, percentile bootstrap over samples. ${note}`,
      labelOf: (place, control) => lineLabel(subject.nameOf(place), control),
    });
  });
}
