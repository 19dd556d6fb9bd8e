import type { Migration } from './migrations.js';

/** Signs of failure of single cells, effects against controls, and which metrics are best where they are smallest. */
export const m006Signatures: Migration = {
  name: 'm006_signatures',
  // comments inside a column's definition are kept in the schema, others are not
  sql: `
ALTER TABLE observation ADD COLUMN
  empty /* 1: the text is nothing but white space; null: no text, or made by an older version */
  INTEGER CHECK (empty IN (0, 1));
ALTER TABLE observation ADD COLUMN
  repetitive /* 1: at least half of the tokens are one piece, of any length, three or more times in a row; null: as empty */
  INTEGER CHECK (repetitive IN (0, 1));
ALTER TABLE observation ADD COLUMN
  unprintable /* 1: the text holds bytes that make no character, control characters but tabs and line ends, or unassigned ones; null: as empty */
  INTEGER CHECK (unprintable IN (0, 1));
ALTER TABLE observation ADD COLUMN
  norm_ratio /* norm of the vector that was patched, before op and alpha, in norms of the state that the target prompt itself has at that place and position; null: there is no such vector, or made by an older version */
  REAL;
ALTER TABLE observation ADD COLUMN
  differs /* 1: when its chunk was run again with the same plan, some bit of what came out was another; 0: none was; null: it was run once */
  INTEGER CHECK (differs IN (0, 1));

CREATE INDEX observation_unpatched ON observation (
  -- A cell finds the unpatched one of its sample and variant.
  run_id, sample_idx, variant
) WHERE control = 'unpatched';

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
    LEFT JOIN observation AS unpatched
      ON unpatched.run_id = cell.run_id AND unpatched.sample_idx = cell.sample_idx
      AND unpatched.variant = cell.variant AND unpatched.control = 'unpatched' AND unpatched.draw = 0
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

CREATE TABLE effect (
  -- What patching the captured state adds to a metric beyond a control: means of differences between cells of one sample, variant and pair of layers; made when a run ends.
  run_id INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
  name TEXT NOT NULL, -- score.name
  control TEXT NOT NULL CHECK (control <> 'none'), -- what is subtracted: the mean over its draws
  variant TEXT NOT NULL, -- variant.name
  mapping_id INTEGER NOT NULL REFERENCES mapping (id), -- 1 is the identity
  source_site TEXT NOT NULL, -- where the states were captured; embed counts as the resid_out of layer -1
  site TEXT NOT NULL, -- where they were patched; as source_site
  source_layer INTEGER, -- blocks count from 0; -1 is embed ("embed" in JSON); null: all layers together
  target_layer INTEGER, -- blocks count from 0; -1 is embed ("embed" in JSON); null: all layers together
  "group" TEXT NOT NULL, -- sample.group; empty: all samples together
  value REAL NOT NULL, -- mean difference, captured state less control
  n INTEGER NOT NULL, -- pairs of cells in the mean
  samples INTEGER NOT NULL,
  ci_low REAL NOT NULL, -- paired percentile bootstrap over samples, 95 %, drawn with run.seed
  ci_high REAL NOT NULL -- as ci_low
) STRICT;

CREATE UNIQUE INDEX effect_key ON effect (
  -- An effect is stored once.
  run_id, name, control, variant, mapping_id, source_site, site, coalesce(source_layer, -2),
  coalesce(target_layer, -2), "group"
);

CREATE VIEW smaller_is_better AS
  -- Patterns (GLOB) of the names of metrics whose smallest value is the best.
  SELECT column1 AS pattern FROM (VALUES ('*-rank'), ('surprisal*'));

CREATE VIEW best_layers AS
  -- Where each metric is best over all samples; of equals the lowest layers, where -1 is embed, null: no layer.
  SELECT
    run_id,
    run_name,
    name,
    control,
    variant,
    mapping,
    source_site,
    site, -- of the target
    source_layer,
    target_layer,
    value, -- mean over cells
    n, -- cells
    ci_low, -- percentile bootstrap over samples, 95 %
    ci_high -- as ci_low
  FROM (
    SELECT
      *,
      row_number() OVER (
        PARTITION BY run_id, name, control, variant, mapping
        ORDER BY
          CASE WHEN EXISTS (SELECT 1 FROM smaller_is_better WHERE layer_grid.name GLOB pattern) THEN value ELSE -value END,
          source_layer, target_layer
      ) AS place
    FROM layer_grid
  )
  WHERE place = 1;

DROP VIEW best_cell;

CREATE VIEW best_cell AS
  -- The best cell of each sample by each metric: the largest value or, by smaller_is_better, the smallest; of equals the one at the lowest layers, where -1 is embed.
  SELECT
    observation_id,
    run_id,
    run_name,
    sample,
    "group", -- such as the relation
    name, -- of the metric
    value,
    variant,
    source_site,
    site, -- of the target
    source_layer,
    target_layer,
    text
  FROM (
    SELECT
      observation.id AS observation_id,
      observation.run_id AS run_id,
      run.name AS run_name,
      sample.idx AS sample_idx,
      sample.name AS sample,
      sample."group" AS "group",
      score.name AS name,
      score.value AS value,
      observation.variant AS variant,
      observation.source_site AS source_site,
      observation.site AS site,
      observation.source_layer AS source_layer,
      observation.target_layer AS target_layer,
      observation.text AS text,
      row_number() OVER (
        PARTITION BY observation.run_id, observation.sample_idx, score.name
        ORDER BY
          CASE WHEN EXISTS (SELECT 1 FROM smaller_is_better WHERE score.name GLOB pattern) THEN score.value ELSE -score.value END,
          observation.source_layer, observation.target_layer, observation.id
      ) AS place
    FROM observation
    JOIN score ON score.observation_id = observation.id
    JOIN run ON run.id = observation.run_id
    JOIN sample ON sample.run_id = observation.run_id AND sample.idx = observation.sample_idx
    WHERE observation.control = 'none'
  )
  WHERE place = 1;
`,
};
