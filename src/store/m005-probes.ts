import type { Migration } from './migrations.js';

/** Linear probes of source states; which facts the model knows; accuracy by layer. */
export const m005Probes: Migration = {
  name: 'm005_probes',
  // comments inside a column's definition are kept in the schema, others are not
  sql: `
ALTER TABLE sample ADD COLUMN subject /* what it is about; a probe holds samples of one subject out together */ TEXT;
ALTER TABLE sample ADD COLUMN class /* what a probe is to find in its states */ TEXT;

CREATE TABLE probe (
  -- A linear probe of the source states of a group of samples, each sample held out once; folds are drawn with run.seed. A run that goes on does those that are missing.
  run_id INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
  variant TEXT NOT NULL, -- variant.name
  "group" TEXT NOT NULL, -- sample.group; empty: samples without one
  known INTEGER NOT NULL CHECK (known IN (0, 1)), -- 1: it saw no other samples than those of known_sample
  samples INTEGER NOT NULL,
  subjects INTEGER NOT NULL, -- distinct ones of these samples
  classes INTEGER NOT NULL, -- distinct ones of these samples
  note TEXT, -- why there are no predictions, or not at all layers; null: all are there
  finished_at TEXT NOT NULL, -- UTC, ISO 8601
  PRIMARY KEY (run_id, variant, "group", known)
) STRICT, WITHOUT ROWID;

CREATE TABLE probe_prediction (
  -- The class that a probe found for a sample which it was not fitted to, at one source layer.
  run_id INTEGER NOT NULL,
  variant TEXT NOT NULL, -- variant.name
  sample_idx INTEGER NOT NULL, -- sample.idx
  known INTEGER NOT NULL, -- as in probe
  source_site TEXT NOT NULL, -- where the state was captured
  source_layer INTEGER NOT NULL CHECK (source_layer >= -1), -- blocks count from 0; -1 is embed ("embed" in JSON)
  fold INTEGER NOT NULL, -- in which it was held out, from 0
  predicted TEXT NOT NULL, -- class
  correct INTEGER NOT NULL CHECK (correct IN (0, 1)), -- 1: it is sample.class
  PRIMARY KEY (run_id, sample_idx, variant, known, source_site, source_layer),
  FOREIGN KEY (run_id, sample_idx, variant) REFERENCES variant (run_id, sample_idx, name) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE VIEW known_sample AS
  -- Samples whose fact the model knows: in the variant that the experiment names under known, which patches nothing, its text holds an answer.
  SELECT DISTINCT
    run.id AS run_id,
    sample.idx AS sample_idx,
    sample.name AS sample,
    sample."group" AS "group" -- such as the relation
  FROM run
  CROSS JOIN sample ON sample.run_id = run.id
  CROSS JOIN observation
    ON observation.run_id = run.id AND observation.sample_idx = sample.idx
    AND observation.variant = json_extract(run.experiment, '$.known') AND observation.control = 'none'
  JOIN score ON score.observation_id = observation.id AND score.name = 'answer-found' AND score.value = 1;

CREATE VIEW probe_reading AS
  -- What the probe found, readable: a row each sample and source layer; blocks count from 0, -1 is embed ("embed" in JSON).
  SELECT
    probe_prediction.run_id AS run_id,
    run.name AS run_name,
    probe_prediction.sample_idx AS sample_idx,
    sample.name AS sample,
    sample."group" AS "group", -- such as the relation
    sample.subject AS subject,
    sample.class AS class,
    probe_prediction.variant AS variant,
    probe_prediction.known AS known, -- 1: by a probe that saw no other samples than those of known_sample
    probe_prediction.source_site AS source_site,
    probe_prediction.source_layer AS source_layer,
    probe_prediction.fold AS fold, -- in which it was held out
    probe_prediction.predicted AS predicted, -- class
    probe_prediction.correct AS correct
  FROM probe_prediction
  JOIN run ON run.id = probe_prediction.run_id
  JOIN sample ON sample.run_id = probe_prediction.run_id AND sample.idx = probe_prediction.sample_idx;

CREATE VIEW accuracy_by_layer AS
  -- By each rule of success, the part of the samples that some target layer succeeds with, at each source layer; a control has as many chances in each of its draws. By the name probe the part whose class the probe found. Beside all samples those alone whose fact the model knows; blocks count from 0, layer -1 is embed ("embed" in JSON), null: no layer.
  SELECT
    run_id,
    run_name,
    "group", -- such as the relation; empty: samples without one
    variant,
    name, -- answer-found, answer-word, answer-first-token or probe
    control, -- what was patched instead of the captured state
    source_site,
    source_layer,
    avg(success) AS accuracy,
    count(DISTINCT sample_idx) AS samples,
    avg(CASE WHEN is_known THEN success END) AS known_accuracy, -- of the samples of known_sample; of the probe that saw these alone
    count(DISTINCT CASE WHEN is_known THEN sample_idx END) AS known_samples
  FROM (
    SELECT
      observation.run_id AS run_id,
      run.name AS run_name,
      coalesce(sample."group", '') AS "group",
      observation.sample_idx AS sample_idx,
      observation.variant AS variant,
      score.name AS name,
      observation.control AS control,
      observation.source_site AS source_site,
      observation.source_layer AS source_layer,
      max(score.value) AS success,
      EXISTS (
        SELECT 1 FROM known_sample
        WHERE known_sample.run_id = observation.run_id AND known_sample.sample_idx = observation.sample_idx
      ) AS is_known
    FROM observation
    JOIN score
      ON score.observation_id = observation.id
      AND score.name IN ('answer-found', 'answer-word', 'answer-first-token')
    JOIN run ON run.id = observation.run_id
    JOIN sample ON sample.run_id = observation.run_id AND sample.idx = observation.sample_idx
    GROUP BY
      observation.run_id, observation.sample_idx, observation.variant, score.name, observation.control,
      observation.draw, observation.source_site, observation.source_layer
  )
  GROUP BY run_id, "group", variant, name, control, source_site, source_layer
  UNION ALL
  SELECT
    probe_prediction.run_id,
    run.name,
    coalesce(sample."group", ''),
    probe_prediction.variant,
    'probe',
    'none',
    probe_prediction.source_site,
    probe_prediction.source_layer,
    avg(CASE probe_prediction.known WHEN 0 THEN probe_prediction.correct END),
    sum(probe_prediction.known = 0),
    avg(CASE probe_prediction.known WHEN 1 THEN probe_prediction.correct END),
    sum(probe_prediction.known = 1)
  FROM probe_prediction
  JOIN run ON run.id = probe_prediction.run_id
  JOIN sample ON sample.run_id = probe_prediction.run_id AND sample.idx = probe_prediction.sample_idx
  GROUP BY
    probe_prediction.run_id, coalesce(sample."group", ''), probe_prediction.variant, probe_prediction.source_site,
    probe_prediction.source_layer;

CREATE VIEW accuracy AS
  -- Mean and standard deviation of accuracy_by_layer over source layers.
  SELECT
    run_id,
    run_name,
    "group", -- such as the relation; empty: samples without one
    variant,
    name, -- answer-found, answer-word, answer-first-token or probe
    control, -- what was patched instead of the captured state
    count(*) AS layers,
    avg(accuracy) AS mean,
    sqrt(max(0, sum(accuracy * accuracy) - sum(accuracy) * avg(accuracy)) / (count(accuracy) - 1)) AS sd, -- null: a single layer
    max(samples) AS samples,
    avg(known_accuracy) AS known_mean, -- of the samples of known_sample
    sqrt(max(0, sum(known_accuracy * known_accuracy) - sum(known_accuracy) * avg(known_accuracy)) / (count(known_accuracy) - 1)) AS known_sd,
    max(known_samples) AS known_samples
  FROM accuracy_by_layer
  GROUP BY run_id, "group", variant, name, control;
`,
};
