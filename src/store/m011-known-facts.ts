import type { Migration } from './migrations.js';

/** Answers of single variants, several variants that tell what is known, and signs against each control by itself. */
export const m011KnownFacts: Migration = {
  name: 'm011_known_facts',
  // comments inside a column's definition are kept in the schema, others are not
  sql: `
ALTER TABLE variant ADD COLUMN
  answer /* JSON: texts of which any is right in this variant; null: those of its sample */ TEXT CHECK (json_valid(answer));

DROP VIEW known_sample;

CREATE VIEW known_sample AS
  -- Samples whose facts the model knows: in each variant that the experiment names under known, which patch nothing, its text holds an answer.
  SELECT
    run.id AS run_id,
    sample.idx AS sample_idx,
    sample.name AS sample,
    sample."group" AS "group" -- such as the relation
  FROM run
  CROSS JOIN sample ON sample.run_id = run.id
  WHERE json_extract(run.experiment, '$.known') IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM json_each(run.experiment, '$.known') AS named
    WHERE NOT EXISTS (
      SELECT 1
      FROM observation
      JOIN score ON score.observation_id = observation.id AND score.name = 'answer-found' AND score.value = 1
      WHERE observation.run_id = run.id AND observation.sample_idx = sample.idx
        AND observation.variant = named.value AND observation.control = 'none'
    )
  );

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
    same_as_random, -- some draw of a random vector at the same sample and layers gives the same text; null for controls, and where that was not run
    same_as_shuffled, -- the same of other samples' states
    CASE WHEN control = 'none' THEN
      coalesce(max(same_as_random, same_as_shuffled), same_as_random, same_as_shuffled) AND NOT meaningless
    END AS unrelated, -- a text that means something, and a random or shuffled state gives the same; null for controls, and where these two were not run
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
      CASE WHEN cell.control = 'none' THEN (
        SELECT max(other.text = cell.text)
        FROM observation AS other
        WHERE other.run_id = cell.run_id AND other.sample_idx = cell.sample_idx AND other.variant = cell.variant
          AND other.source_site = cell.source_site AND other.site = cell.site
          AND coalesce(other.source_layer, -2) = coalesce(cell.source_layer, -2)
          AND coalesce(other.target_layer, -2) = coalesce(cell.target_layer, -2)
          AND other.mapping_id = cell.mapping_id AND other.control = 'random'
      ) END AS same_as_random,
      CASE WHEN cell.control = 'none' THEN (
        SELECT max(other.text = cell.text)
        FROM observation AS other
        WHERE other.run_id = cell.run_id AND other.sample_idx = cell.sample_idx AND other.variant = cell.variant
          AND other.source_site = cell.source_site AND other.site = cell.site
          AND coalesce(other.source_layer, -2) = coalesce(cell.source_layer, -2)
          AND coalesce(other.target_layer, -2) = coalesce(cell.target_layer, -2)
          AND other.mapping_id = cell.mapping_id AND other.control = 'shuffled'
      ) END AS same_as_shuffled,
      CASE WHEN cell.control <> 'unpatched' THEN cell.text = unpatched.text END AS contaminated,
      cell.norm_ratio AS norm_ratio,
      cell.differs AS differs
    FROM observation AS cell
    JOIN mapping ON mapping.id = cell.mapping_id
    LEFT JOIN observation AS unpatched
      ON unpatched.run_id = cell.run_id AND unpatched.sample_idx = cell.sample_idx
      AND unpatched.variant = cell.variant AND unpatched.control = 'unpatched' AND unpatched.draw = 0
  );
`,
};
