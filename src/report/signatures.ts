/** How readings fail: counts of cells by what is wrong with them. */
import type { Database } from 'better-sqlite3';
import { askData } from './data.js';
import type { Part } from './part.js';
import type { Subject } from './subject.js';

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

export function textSignatures(database: Database, { runIds }: Subject): Part {
  return {
    ...{ name: 'texts-without-meaning', title: 'Texts that say nothing of the patched state' },
    caption:
      'Cells that did not fail. Empty: nothing but blanks. Unprintable: control characters, or bytes that are no text. Repetitive: of at least four tokens at most half are different ones. Same as unpatched: what the target prompt says anyway comes back, and the reading does not depend on the patched state; blank where that control was not run.',
    data: askData(
      database,
      `WITH unpatched AS MATERIALIZED (
  SELECT run_id, sample_idx, variant, text FROM observation
  WHERE run_id IN (${runIds}) AND control = 'unpatched' AND draw = 0
)
SELECT cell.run_id, cell.variant, cell.control, count(*) AS cells,
  sum(trim(cell.text, char(9, 10, 13, 32)) = '') AS empty,
  sum(cell.text GLOB '*[' || char(1) || '-' || char(8) || char(14) || '-' || char(31) || char(127) || char(65533) || ']*') AS unprintable,
  sum(json_array_length(cell.token_ids) >= 4
    AND 2 * (SELECT count(DISTINCT value) FROM json_each(cell.token_ids)) <= json_array_length(cell.token_ids)) AS repetitive,
  CASE WHEN cell.control <> 'unpatched' THEN sum(cell.text = unpatched.text) END AS same_as_unpatched
FROM observation AS cell
LEFT JOIN unpatched ON unpatched.run_id = cell.run_id AND unpatched.sample_idx = cell.sample_idx
  AND unpatched.variant = cell.variant
WHERE cell.run_id IN (${runIds}) AND cell.status = 'ok'
GROUP BY cell.run_id, cell.variant, cell.control
ORDER BY cell.run_id, cell.variant, cell.control`,
    ),
  };
}
