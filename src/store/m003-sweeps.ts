import type { Migration } from './migrations.js';

/**
 * Prompts, positions and patches move from samples and observations into tables of their own; chunks, metrics
 * and controls are new. Runs of older versions have no plan and no chunks: they can be read, not gone on with.
 */
export const m003Sweeps: Migration = {
  name: 'm003_sweeps',
  // tables are made under another name, filled, and take the place of the old ones: foreign keys are off
  sql: `
DROP VIEW latest_reading;
DROP VIEW reading;
DROP VIEW scored_token;
DROP VIEW run_summary;

ALTER TABLE run ADD COLUMN
  plan_sha256 /* identity of the plan; null: made by an older version, which can't go on */ TEXT;
ALTER TABLE run ADD COLUMN experiment_source /* the experiment's file as written; null: there was none */ TEXT;
ALTER TABLE run ADD COLUMN chunks_planned /* null: made by an older version, which had no chunks */ INTEGER;
ALTER TABLE run ADD COLUMN
  shard_index /* part of the plan that this run does, from 1; null: all of it */ INTEGER CHECK (shard_index >= 1);
ALTER TABLE run ADD COLUMN
  shard_count /* parts the plan was cut into; null: it was not */
  INTEGER CHECK (CASE WHEN shard_index IS NULL THEN shard_count IS NULL ELSE shard_count >= shard_index END);
ALTER TABLE run ADD COLUMN host /* name of the machine; null: made by an older version */ TEXT;
ALTER TABLE run ADD COLUMN addon /* version of the addon; null: made by an older version */ TEXT;

CREATE TABLE prompt (
  -- What the models of a run read.
  run_id INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
  idx INTEGER NOT NULL, -- from 0
  text TEXT, -- null: given as token ids
  token_ids TEXT NOT NULL CHECK (json_valid(token_ids)), -- JSON; where there is an encoder, it reads them
  decoder_token_ids TEXT CHECK (json_valid(decoder_token_ids)), -- JSON: what the decoder reads beside an encoder
  bos INTEGER CHECK (bos IN (0, 1)), -- 1: the model's own first token was put first where it asks for one; null: given as token ids, or not known
  chat INTEGER CHECK (chat IN (0, 1)), -- 1: wrapped as a user's turn in the model's own template
  special INTEGER CHECK (special IN (0, 1)), -- 1: special tokens written in the text were read as such
  PRIMARY KEY (run_id, idx)
) STRICT;

INSERT INTO prompt (run_id, idx, text, token_ids)
SELECT run_id, row_number() OVER (PARTITION BY run_id ORDER BY min(place)) - 1, text, token_ids
FROM (
  SELECT run_id, 2 * idx AS place, source_prompt AS text, source_token_ids AS token_ids FROM sample
  UNION ALL
  SELECT run_id, 2 * idx + 1, target_prompt, target_token_ids FROM sample
)
GROUP BY run_id, text, token_ids;

CREATE TABLE new_sample (
  -- What an experiment is made of: each sample is patched in all variants, at all layers.
  run_id INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
  idx INTEGER NOT NULL, -- place in the experiment, from 0
  name TEXT NOT NULL,
  "group" TEXT, -- what samples are taken together by, such as their relation; null: nothing
  answer TEXT CHECK (json_valid(answer)), -- JSON: texts, any of which is right; null: there is no right one
  PRIMARY KEY (run_id, idx)
) STRICT;

INSERT INTO new_sample (run_id, idx, name) SELECT run_id, idx, name FROM sample;

CREATE TABLE variant (
  -- Where the states of a sample come from and go to, and what the patch does to the states it meets.
  run_id INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
  sample_idx INTEGER NOT NULL, -- sample.idx
  name TEXT NOT NULL,
  source_prompt_idx INTEGER NOT NULL, -- prompt.idx
  source_side TEXT CHECK (source_side IN ('encoder', 'decoder')), -- where the position counts; null: there is no encoder
  source_position INTEGER NOT NULL, -- index of a token of the prompt, from 0
  source_token_id INTEGER NOT NULL,
  source_token TEXT NOT NULL,
  target_prompt_idx INTEGER NOT NULL, -- prompt.idx
  target_side TEXT CHECK (target_side IN ('encoder', 'decoder')), -- where the position counts; null: there is no encoder
  target_position INTEGER NOT NULL, -- index of a token of the prompt, from 0
  target_token_id INTEGER NOT NULL,
  target_token TEXT NOT NULL,
  op TEXT NOT NULL, -- what the patch does to the state h it meets; replace: alpha v
  alpha REAL NOT NULL,
  at_generated INTEGER NOT NULL CHECK (at_generated IN (0, 1)), -- 1: patched again at each generated token
  PRIMARY KEY (run_id, sample_idx, name),
  FOREIGN KEY (run_id, sample_idx) REFERENCES sample (run_id, idx) ON DELETE CASCADE,
  FOREIGN KEY (run_id, source_prompt_idx) REFERENCES prompt (run_id, idx) ON DELETE CASCADE,
  FOREIGN KEY (run_id, target_prompt_idx) REFERENCES prompt (run_id, idx) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

INSERT INTO variant
SELECT
  placed.run_id,
  placed.sample_idx,
  placed.variant,
  source.idx,
  CASE WHEN placed.variant GLOB '*encoder *->*' THEN 'encoder' END,
  placed.source_position,
  placed.source_token_id,
  placed.source_token,
  target.idx,
  CASE WHEN placed.variant GLOB '*->encoder *' THEN 'encoder' END,
  placed.target_position,
  placed.target_token_id,
  placed.target_token,
  placed.op,
  placed.alpha,
  placed.at_generated
FROM (
  SELECT DISTINCT
    run_id, sample_idx, variant, source_position, source_token_id, source_token,
    target_position, target_token_id, target_token, op, alpha, at_generated
  FROM observation
) AS placed
JOIN sample ON sample.run_id = placed.run_id AND sample.idx = placed.sample_idx
JOIN prompt AS source
  ON source.run_id = placed.run_id AND source.text IS sample.source_prompt
  AND source.token_ids = sample.source_token_ids
JOIN prompt AS target
  ON target.run_id = placed.run_id AND target.text IS sample.target_prompt
  AND target.token_ids = sample.target_token_ids;

CREATE TABLE new_observation (
  -- One row a cell; a cell that failed is a row too. Positions and tokens are the variant's.
  id INTEGER PRIMARY KEY,
  run_id INTEGER NOT NULL,
  sample_idx INTEGER NOT NULL, -- sample.idx
  variant TEXT NOT NULL, -- variant.name
  source_site TEXT NOT NULL, -- where the state was captured: embed, resid_mid, attn_out, mlp_out, resid_out or final_norm
  site TEXT NOT NULL, -- where it was patched
  source_layer INTEGER CHECK (source_layer >= -1), -- blocks count from 0; -1 is embed ("embed" in JSON); null: no layer, nothing was patched
  target_layer INTEGER CHECK (target_layer >= -1), -- blocks count from 0; -1 is embed ("embed" in JSON); null: no layer, nothing was patched
  mapping_id INTEGER NOT NULL REFERENCES mapping (id), -- 1 is the identity
  control TEXT NOT NULL CHECK (control IN ('none', 'random', 'shuffled', 'unpatched')), -- what was patched instead of the captured state
  draw INTEGER NOT NULL, -- counts repetitions of a control, from 0
  status TEXT NOT NULL CHECK (status IN ('ok', 'failed')),
  error TEXT CHECK ((status = 'ok') = (error IS NULL)), -- code and sentence
  text TEXT, -- generated
  token_ids TEXT NOT NULL CHECK (json_valid(token_ids)), -- JSON: generated
  CHECK (control = 'unpatched' OR source_layer IS NOT NULL AND target_layer IS NOT NULL),
  FOREIGN KEY (run_id, sample_idx, variant) REFERENCES variant (run_id, sample_idx, name) ON DELETE CASCADE
) STRICT;

INSERT INTO new_observation
SELECT
  id, run_id, sample_idx, variant, source_site, site, source_layer, target_layer, mapping_id, control, draw,
  status, error, text, token_ids
FROM observation;

DROP TABLE observation;
DROP TABLE sample;
ALTER TABLE new_sample RENAME TO sample;
ALTER TABLE new_observation RENAME TO observation;

CREATE UNIQUE INDEX observation_cell ON observation (
  -- A cell is stored once, one without layers too.
  run_id, sample_idx, variant, source_site, site, coalesce(source_layer, -2), coalesce(target_layer, -2),
  mapping_id, control, draw
);
CREATE INDEX variant_source ON variant (
  -- A prompt finds its variants.
  run_id, source_prompt_idx
);
CREATE INDEX variant_target ON variant (
  -- A prompt finds its variants.
  run_id, target_prompt_idx
);

CREATE TABLE chunk (
  -- Parts of a plan that are stored whole; a run that goes on does those that are missing.
  run_id INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
  idx INTEGER NOT NULL CHECK (idx >= 0), -- place in the plan, from 0
  cells INTEGER NOT NULL,
  finished_at TEXT NOT NULL, -- UTC, ISO 8601
  PRIMARY KEY (run_id, idx)
) STRICT, WITHOUT ROWID;

CREATE TABLE score (
  -- Values of metrics for single cells.
  observation_id INTEGER NOT NULL REFERENCES observation (id) ON DELETE CASCADE,
  name TEXT NOT NULL, -- answer-found: 1 where the text holds an answer, blanks aside, else 0; answer-word: the same, as a word of its own; answer-first-token: 1 where the first token begins an answer; answer-rank, answer-logprob: of the best answer's first token at step 0; rouge-1, rouge-l: F1 of the text against the first answer, unstemmed; precision-at-1: 1 where the most probable token is the model's own next one at the source; surprisal: of that token to the model itself, in nats; surprisal-of-own: of the model's own next token to the patched one
  value REAL NOT NULL,
  PRIMARY KEY (observation_id, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE metric (
  -- Means of scores over the cells that share all columns before value; made when a run ends.
  run_id INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
  name TEXT NOT NULL, -- score.name
  control TEXT NOT NULL, -- what was patched instead of the captured state
  variant TEXT NOT NULL, -- variant.name
  mapping_id INTEGER NOT NULL REFERENCES mapping (id), -- 1 is the identity
  source_site TEXT NOT NULL, -- where the states were captured
  site TEXT NOT NULL, -- where they were patched
  source_layer INTEGER, -- blocks count from 0; -1 is embed ("embed" in JSON); null: no layer, nothing was patched
  target_layer INTEGER, -- blocks count from 0; -1 is embed ("embed" in JSON); null: no layer, nothing was patched
  "group" TEXT NOT NULL, -- sample.group; empty: all samples together
  value REAL NOT NULL, -- mean
  n INTEGER NOT NULL, -- cells in the mean
  ci_low REAL NOT NULL, -- percentile bootstrap over samples, 95 %, drawn with run.seed
  ci_high REAL NOT NULL -- as ci_low
) STRICT;

CREATE UNIQUE INDEX metric_key ON metric (
  -- A mean is stored once.
  run_id, name, control, variant, mapping_id, source_site, site, coalesce(source_layer, -2),
  coalesce(target_layer, -2), "group"
);

CREATE TRIGGER run_deleted AFTER DELETE ON run BEGIN
  -- A model that no run names any more goes too, and its tokens with it.
  DELETE FROM model
  WHERE id IN (OLD.source_model_id, OLD.target_model_id)
    AND NOT EXISTS (SELECT 1 FROM run WHERE source_model_id = model.id OR target_model_id = model.id);
END;

CREATE VIEW pair AS
  -- Each sample in each variant: what is read where.
  SELECT
    variant.run_id AS run_id,
    sample.name AS sample,
    sample."group" AS "group",
    variant.name AS variant,
    source.text AS source_prompt, -- null: given as token ids
    source.token_ids AS source_token_ids, -- JSON
    variant.source_position AS source_position,
    variant.source_token AS source_token,
    target.text AS target_prompt, -- null: given as token ids
    target.token_ids AS target_token_ids, -- JSON
    variant.target_position AS target_position,
    variant.target_token AS target_token,
    variant.op AS op,
    variant.alpha AS alpha,
    variant.at_generated AS at_generated
  FROM variant
  JOIN sample ON sample.run_id = variant.run_id AND sample.idx = variant.sample_idx
  JOIN prompt AS source ON source.run_id = variant.run_id AND source.idx = variant.source_prompt_idx
  JOIN prompt AS target ON target.run_id = variant.run_id AND target.idx = variant.target_prompt_idx;

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
    observation.draw AS draw,
    variant.source_position AS source_position,
    variant.source_token AS source_token,
    variant.target_position AS target_position,
    variant.target_token AS target_token,
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
  JOIN mapping ON mapping.id = observation.mapping_id
  LEFT JOIN token_score
    ON token_score.observation_id = observation.id AND token_score.step = 0 AND token_score.rank = 0
  LEFT JOIN token ON token.model_id = run.target_model_id AND token.token_id = token_score.token_id;

CREATE VIEW latest_reading AS
  -- reading, for the newest run of each name.
  SELECT * FROM reading WHERE run_id IN (SELECT max(id) FROM run GROUP BY name);

CREATE VIEW scored_token AS
  -- Every token that was scored, readable: the most probable ones of each step, the chosen and the tracked ones; blocks count from 0, layer -1 is embed ("embed" in JSON), null: no layer.
  SELECT
    observation.id AS observation_id,
    observation.run_id AS run_id,
    sample.name AS sample,
    sample."group" AS "group", -- such as the relation
    observation.variant AS variant,
    observation.source_layer AS source_layer,
    observation.target_layer AS target_layer,
    token_score.step AS step, -- 0 is the first token after the prompt
    token_score.rank AS rank, -- 0 is the most probable
    token_score.token_id AS token_id,
    token.text AS token,
    token_score.logprob AS logprob,
    exp(token_score.logprob) AS probability
  FROM observation
  JOIN run ON run.id = observation.run_id
  JOIN sample ON sample.run_id = observation.run_id AND sample.idx = observation.sample_idx
  JOIN token_score ON token_score.observation_id = observation.id
  LEFT JOIN token ON token.model_id = run.target_model_id AND token.token_id = token_score.token_id;

CREATE VIEW run_summary AS
  -- What was run, on which model, and how far it came.
  SELECT
    run.id AS run_id,
    run.name AS run_name,
    run.status AS status,
    source_model.name AS source_model,
    source_model.quantization AS source_quantization,
    target_model.name AS target_model,
    target_model.quantization AS target_quantization,
    run.backend AS backend,
    run.started_at AS started_at,
    round((julianday(run.finished_at) - julianday(run.started_at)) * 86400, 3) AS seconds,
    run.cells_planned AS cells_planned,
    (SELECT count(*) FROM observation WHERE observation.run_id = run.id) AS cells_stored,
    run.cells_failed AS cells_failed
  FROM run
  JOIN model AS source_model ON source_model.id = run.source_model_id
  JOIN model AS target_model ON target_model.id = run.target_model_id;

CREATE VIEW layer_grid AS
  -- Each metric at each pair of layers, over all samples; blocks count from 0, layer -1 is embed ("embed" in JSON), null: no layer.
  SELECT
    metric.run_id AS run_id,
    run.name AS run_name,
    metric.name AS name,
    metric.control AS control,
    metric.variant AS variant,
    mapping.name AS mapping,
    metric.source_site AS source_site,
    metric.site AS site, -- of the target
    metric.source_layer AS source_layer,
    metric.target_layer AS target_layer,
    metric.value AS value, -- mean over cells
    metric.n AS n, -- cells
    metric.ci_low AS ci_low, -- percentile bootstrap over samples, 95 %
    metric.ci_high AS ci_high -- as ci_low
  FROM metric
  JOIN run ON run.id = metric.run_id
  JOIN mapping ON mapping.id = metric.mapping_id
  WHERE metric."group" = '';

CREATE VIEW metric_by_layer AS
  -- Each metric at each source layer, over all samples and target layers; blocks count from 0, layer -1 is embed ("embed" in JSON), null: no layer.
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
    sum(value * n) / sum(n) AS value, -- mean over cells
    sum(n) AS n -- cells
  FROM layer_grid
  GROUP BY run_id, name, control, variant, mapping, source_site, site, source_layer;

CREATE VIEW best_cell AS
  -- The best cell of each sample by each metric: the largest value, of a rank or a surprisal the smallest; of equals the one at the lowest layers, where -1 is embed.
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
          CASE WHEN score.name GLOB '*-rank' OR score.name GLOB 'surprisal*' THEN score.value ELSE -score.value END,
          observation.source_layer, observation.target_layer, observation.id
      ) AS place
    FROM observation
    JOIN score ON score.observation_id = observation.id
    JOIN run ON run.id = observation.run_id
    JOIN sample ON sample.run_id = observation.run_id AND sample.idx = observation.sample_idx
    WHERE observation.control = 'none'
  )
  WHERE place = 1;

CREATE VIEW success_by_group AS
  -- How many cells and samples of each group found an answer, over all layers.
  SELECT
    run_id,
    run_name,
    "group", -- such as the relation; null: samples without one
    variant,
    control,
    count(*) AS samples,
    sum(cells) AS cells,
    sum(found) / sum(cells) AS success, -- part of the cells whose text holds an answer
    avg(found > 0) AS solved -- part of the samples with such a cell
  FROM (
    SELECT
      observation.run_id AS run_id,
      run.name AS run_name,
      sample."group" AS "group",
      observation.variant AS variant,
      observation.control AS control,
      count(*) AS cells,
      sum(score.value) AS found
    FROM observation
    JOIN score ON score.observation_id = observation.id AND score.name = 'answer-found'
    JOIN run ON run.id = observation.run_id
    JOIN sample ON sample.run_id = observation.run_id AND sample.idx = observation.sample_idx
    GROUP BY observation.run_id, observation.sample_idx, observation.variant, observation.control
  )
  GROUP BY run_id, "group", variant, control;
`,
};
