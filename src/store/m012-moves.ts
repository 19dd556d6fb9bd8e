import type { Migration } from './migrations.js';

/** Cells that patch several tokens, variants that go through several positions, and cells that are run several times. */
export const m012Moves: Migration = {
  name: 'm012_moves',
  // comments inside a column's definition are kept in the schema, others are not
  sql: `
CREATE TABLE move (
  -- From which token of the source to which of the target the states of a variant go.
  run_id INTEGER NOT NULL,
  sample_idx INTEGER NOT NULL, -- sample.idx
  variant TEXT NOT NULL, -- variant.name
  idx INTEGER NOT NULL, -- from 0; all of them are of each cell, but in a variant that is swept
  source_position INTEGER NOT NULL, -- index of a token of the prompt, from 0
  source_token_id INTEGER NOT NULL,
  source_token TEXT NOT NULL,
  target_position INTEGER NOT NULL, -- index of a token of the prompt, from 0
  target_token_id INTEGER NOT NULL,
  target_token TEXT NOT NULL,
  PRIMARY KEY (run_id, sample_idx, variant, idx),
  FOREIGN KEY (run_id, sample_idx, variant) REFERENCES variant (run_id, sample_idx, name) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

INSERT INTO move
SELECT
  run_id, sample_idx, name, 0,
  source_position, source_token_id, source_token, target_position, target_token_id, target_token
FROM variant;

ALTER TABLE variant ADD COLUMN
  swept /* 1: cells go through several source positions, each with moves of its own */
  INTEGER NOT NULL DEFAULT 0 CHECK (swept IN (0, 1));
ALTER TABLE observation ADD COLUMN
  move_idx /* move.idx: the first of the cell's own where the variant is swept, else 0 */
  INTEGER NOT NULL DEFAULT 0;

DROP INDEX observation_cell;
CREATE UNIQUE INDEX observation_cell ON observation (
  -- A cell is stored once, one without layers too.
  run_id, sample_idx, variant, source_site, site, coalesce(source_layer, -2), coalesce(target_layer, -2),
  mapping_id, control, draw, move_idx
);

DROP VIEW latest_reading;
DROP VIEW reading;

CREATE VIEW reading AS
  -- What came out of each cell; blocks count from 0, layer -1 is embed ("embed" in JSON), null: no layer.
  SELECT
    observation.id AS observation_id,
    observation.run_id AS run_id,
    run.name AS run_name,
    sample.name AS sample,
    sample."group" AS "group", -- such as the relation
    observation.variant AS variant,
    observation.source_site AS source_site, -- embed, resid_mid, attn_out, mlp_out, resid_out or final_norm
    observation.site AS site, -- of the target
    observation.source_layer AS source_layer,
    observation.target_layer AS target_layer,
    mapping.name AS mapping,
    variant.op AS op, -- what the patch does to the state h it meets; replace: alpha v
    variant.alpha AS alpha,
    observation.control AS control,
    observation.draw AS draw, -- of a cell that is run several times, and repetitions of a control
    move.source_position AS source_position, -- of the cell; of several that are patched together the first
    move.source_token AS source_token,
    move.target_position AS target_position,
    move.target_token AS target_token,
    token.text AS top_token, -- most probable first token
    exp(token_score.logprob) AS top_probability,
    observation.text AS text,
    observation.status AS status,
    observation.error AS error
  FROM observation
  JOIN run ON run.id = observation.run_id
  JOIN sample ON sample.run_id = observation.run_id AND sample.idx = observation.sample_idx
  JOIN variant
    ON variant.run_id = observation.run_id AND variant.sample_idx = observation.sample_idx
    AND variant.name = observation.variant
  JOIN move
    ON move.run_id = observation.run_id AND move.sample_idx = observation.sample_idx
    AND move.variant = observation.variant AND move.idx = observation.move_idx
  JOIN mapping ON mapping.id = observation.mapping_id
  LEFT JOIN token_score
    ON token_score.observation_id = observation.id AND token_score.step = 0 AND token_score.rank = 0
  LEFT JOIN token ON token.model_id = run.target_model_id AND token.token_id = token_score.token_id;

CREATE VIEW latest_reading AS
  -- reading, for the newest run of each name.
  SELECT * FROM reading WHERE run_id IN (SELECT max(id) FROM run GROUP BY name);

DROP VIEW signature_by_layer;
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
          AND other.move_idx = cell.move_idx AND other.source_site = cell.source_site AND other.site = cell.site
          AND coalesce(other.source_layer, -2) = coalesce(cell.source_layer, -2)
          AND coalesce(other.target_layer, -2) = coalesce(cell.target_layer, -2)
          AND other.mapping_id = cell.mapping_id AND other.control = 'random'
      ) END AS same_as_random,
      CASE WHEN cell.control = 'none' THEN (
        SELECT max(other.text = cell.text)
        FROM observation AS other
        WHERE other.run_id = cell.run_id AND other.sample_idx = cell.sample_idx AND other.variant = cell.variant
          AND other.move_idx = cell.move_idx AND other.source_site = cell.source_site AND other.site = cell.site
          AND coalesce(other.source_layer, -2) = coalesce(cell.source_layer, -2)
          AND coalesce(other.target_layer, -2) = coalesce(cell.target_layer, -2)
          AND other.mapping_id = cell.mapping_id AND other.control = 'shuffled'
      ) END AS same_as_shuffled,
      CASE WHEN cell.control <> 'unpatched' THEN cell.text = unpatched.text END AS contaminated,
      cell.norm_ratio AS norm_ratio,
      cell.differs AS differs
    FROM observation AS cell
    JOIN mapping ON mapping.id = cell.mapping_id
    LEFT JOIN observation AS unpatched INDEXED BY observation_unpatched
      ON unpatched.run_id = cell.run_id AND unpatched.sample_idx = cell.sample_idx
      AND unpatched.variant = cell.variant AND unpatched.control = 'unpatched' AND unpatched.draw = cell.draw % (
        SELECT count(*) FROM observation AS other INDEXED BY observation_unpatched
        WHERE other.run_id = cell.run_id AND other.sample_idx = cell.sample_idx AND other.variant = cell.variant
          AND other.control = 'unpatched'
      )
  );

CREATE VIEW signature_by_layer AS
  -- How many cells at each target layer have each sign of failure. Blocks count from 0, layer -1 is embed ("embed" in JSON), null: no layer.
  SELECT
    run_id,
    variant,
    mapping,
    control,
    target_layer,
    count(*) AS cells,
    sum(failed) AS failed,
    sum(not_finite) AS not_finite,
    sum(meaningless) AS meaningless,
    sum(unrelated) AS unrelated,
    sum(contaminated) AS contaminated,
    sum(norm_far) AS norm_far,
    min(min(contaminated)) OVER (
      PARTITION BY run_id, variant, mapping, control ORDER BY target_layer DESC
    ) AS collapsed -- 1: here and at all later layers every text is that of the unpatched target; null: that was not run
  FROM signature
  GROUP BY run_id, variant, mapping, control, target_layer;

CREATE VIEW position_grid AS
  -- Each metric at each source position and pair of layers, of runs that go through several positions: means over samples and draws; blocks count from 0, layer -1 is embed ("embed" in JSON).
  SELECT
    observation.run_id AS run_id,
    run.name AS run_name,
    score.name AS name,
    observation.control AS control,
    observation.variant AS variant,
    mapping.name AS mapping,
    observation.source_site AS source_site,
    observation.site AS site, -- of the target
    move.source_position AS source_position,
    CASE WHEN min(move.source_token) = max(move.source_token) THEN min(move.source_token) END AS source_token, -- null: samples have different ones
    observation.source_layer AS source_layer,
    observation.target_layer AS target_layer,
    avg(score.value) AS value, -- mean over cells
    count(*) AS n -- cells
  FROM observation
  JOIN run ON run.id = observation.run_id
  JOIN mapping ON mapping.id = observation.mapping_id
  JOIN score ON score.observation_id = observation.id
  JOIN variant
    ON variant.run_id = observation.run_id AND variant.sample_idx = observation.sample_idx
    AND variant.name = observation.variant
  JOIN move
    ON move.run_id = observation.run_id AND move.sample_idx = observation.sample_idx
    AND move.variant = observation.variant AND move.idx = observation.move_idx
  WHERE variant.swept AND observation.control <> 'unpatched'
  GROUP BY
    observation.run_id, score.name, observation.control, observation.variant, observation.mapping_id,
    observation.source_site, observation.site, move.source_position, observation.source_layer,
    observation.target_layer;
`,
};
