import type { Migration } from './migrations.js';

/** SQLite's planner finds the unpatched cell by the larger index where it has no statistics: fifty times slower on a full grid. */
export const m017SignatureIndex: Migration = {
  name: 'm017_signature_index',
  sql: `
DROP VIEW signature;

CREATE VIEW signature AS
  -- Signs of failure of each cell, 1 or 0; null where it can't be told. Blocks count from 0, layer -1 is embed ("embed" in JSON), null: no layer.
  SELECT
    observation_id,
    run_id,
    sample_idx, -- sample.idx
    variant,
    mapping,
    source_site,
    site, -- of the target
    source_layer,
    target_layer,
    control,
    draw,
    failed, -- no reading
    not_finite, -- failed of NaN or infinity
    empty, -- nothing but white space
    repetitive, -- at least half of the tokens are one piece, three or more times in a row
    unprintable, -- signs that are no text
    meaningless, -- empty, repetitive or unprintable
    CASE WHEN control = 'none' THEN same_as_control AND NOT meaningless END AS unrelated, -- a text that means something, and a random or shuffled state at the same sample and layers gives the same; null for controls, and where these two were not run
    contaminated, -- the text is that of the unpatched target; null where that was not run
    norm_ratio, -- of the vector that was patched to the state that it met
    norm_ratio < 0.5 OR norm_ratio > 2 AS norm_far, -- less than half or more than twice as long
    differs -- when run again, something else came out; null: it was run once
  FROM (
    SELECT
      cell.id AS observation_id,
      cell.run_id AS run_id,
      cell.sample_idx AS sample_idx,
      cell.variant AS variant,
      mapping.name AS mapping,
      cell.source_site AS source_site,
      cell.site AS site,
      cell.source_layer AS source_layer,
      cell.target_layer AS target_layer,
      cell.control AS control,
      cell.draw AS draw,
      cell.status = 'failed' AS failed,
      coalesce(cell.error GLOB 'not_finite:*', 0) AS not_finite,
      cell.empty AS empty,
      cell.repetitive AS repetitive,
      cell.unprintable AS unprintable,
      cell.empty OR cell.repetitive OR cell.unprintable AS meaningless,
      (
        SELECT max(other.text = cell.text)
        FROM observation AS other
        WHERE other.run_id = cell.run_id AND other.sample_idx = cell.sample_idx AND other.variant = cell.variant
          AND other.source_site = cell.source_site AND other.site = cell.site
          AND coalesce(other.source_layer, -2) = coalesce(cell.source_layer, -2)
          AND coalesce(other.target_layer, -2) = coalesce(cell.target_layer, -2)
          AND other.mapping_id = cell.mapping_id AND other.control IN ('random', 'shuffled')
      ) AS same_as_control,
      CASE WHEN cell.control <> 'unpatched' THEN cell.text = unpatched.text END AS contaminated,
      cell.norm_ratio AS norm_ratio,
      cell.differs AS differs
    FROM observation AS cell
    JOIN mapping ON mapping.id = cell.mapping_id
    LEFT JOIN observation AS unpatched INDEXED BY observation_unpatched
      ON unpatched.run_id = cell.run_id AND unpatched.sample_idx = cell.sample_idx
      AND unpatched.variant = cell.variant AND unpatched.control = 'unpatched' AND unpatched.draw = 0
  );
`,
};
