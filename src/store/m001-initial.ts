import type { Migration } from './migrations.js';

/** SQLite keeps these statements with their comments: `.schema` is the documentation. */
export const m001Initial: Migration = {
  name: 'm001_initial',
  sql: `
CREATE TABLE migration (
  -- Changes of this schema, in the order they were made.
  name TEXT PRIMARY KEY,
  applied_at TEXT NOT NULL -- UTC, ISO 8601
) STRICT;

CREATE TABLE model (
  -- Model files, told apart by their content.
  id INTEGER PRIMARY KEY,
  sha256 TEXT NOT NULL UNIQUE,
  path TEXT NOT NULL, -- where the file was when it was first used
  bytes INTEGER NOT NULL,
  architecture TEXT NOT NULL,
  name TEXT NOT NULL,
  quantization TEXT NOT NULL,
  layers INTEGER NOT NULL, -- blocks
  width INTEGER NOT NULL, -- floats of a hidden state
  vocabulary INTEGER NOT NULL -- tokens
) STRICT;

CREATE TABLE token (
  -- Texts of the tokens that occur in observations; each model has its own ids.
  model_id INTEGER NOT NULL REFERENCES model (id) ON DELETE CASCADE,
  token_id INTEGER NOT NULL,
  text TEXT NOT NULL,
  PRIMARY KEY (model_id, token_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE mapping (
  -- What is done to a hidden state between capture and patch: f of the paper.
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL
) STRICT;

INSERT INTO mapping (id, name, kind) VALUES (1, 'identity', 'identity');

CREATE TABLE run (
  -- Commands that made observations, with all that is needed to repeat them.
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL,
  command TEXT NOT NULL, -- as typed
  experiment TEXT NOT NULL CHECK (json_valid(experiment)), -- JSON
  reading TEXT NOT NULL CHECK (json_valid(reading)), -- JSON: what is read from each patched run
  seed INTEGER NOT NULL,
  source_model_id INTEGER NOT NULL REFERENCES model (id),
  target_model_id INTEGER NOT NULL REFERENCES model (id),
  package TEXT NOT NULL, -- version of patchscopes
  llama_cpp TEXT NOT NULL, -- version of llama.cpp
  backend TEXT NOT NULL, -- cpu, cuda, vulkan or metal
  devices TEXT NOT NULL CHECK (json_valid(devices)), -- JSON: name, description and library file of each
  gpu_layers INTEGER NOT NULL,
  threads INTEGER NOT NULL,
  batch_tokens INTEGER NOT NULL, -- most tokens in one decode
  batch_rows INTEGER NOT NULL, -- most patched rows in one decode
  batch_outputs INTEGER NOT NULL, -- most tokens in one decode whose logits are computed
  cache_layout TEXT NOT NULL, -- unified: all sequences share the cells of the K/V cache
  type_k TEXT NOT NULL,
  type_v TEXT NOT NULL,
  flash_attention INTEGER NOT NULL CHECK (flash_attention IN (0, 1)),
  exact INTEGER NOT NULL CHECK (exact IN (0, 1)), -- 1: a cell does not depend on its neighbours in a batch
  started_at TEXT NOT NULL, -- UTC, ISO 8601
  finished_at TEXT, -- null while the run goes on, or if its process was killed
  status TEXT NOT NULL CHECK (status IN ('running', 'done', 'failed', 'interrupted')),
  cells_planned INTEGER NOT NULL,
  cells_failed INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE sample (
  -- Pairs of prompts: a state is captured in the source and patched into the target.
  run_id INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
  idx INTEGER NOT NULL, -- place in the experiment, from 0
  name TEXT NOT NULL,
  source_prompt TEXT, -- null: given as token ids
  source_token_ids TEXT NOT NULL CHECK (json_valid(source_token_ids)), -- JSON
  target_prompt TEXT, -- null: given as token ids
  target_token_ids TEXT NOT NULL CHECK (json_valid(target_token_ids)), -- JSON
  PRIMARY KEY (run_id, idx)
) STRICT;

CREATE TABLE observation (
  -- One row a cell; a cell that failed is a row too.
  id INTEGER PRIMARY KEY,
  run_id INTEGER NOT NULL,
  sample_idx INTEGER NOT NULL, -- sample.idx
  variant TEXT NOT NULL, -- tells apart cells that are otherwise the same
  site TEXT NOT NULL, -- embed: input of block 0; resid_out: output of a block
  source_layer INTEGER NOT NULL CHECK (source_layer >= -1), -- blocks count from 0; -1 is embed
  target_layer INTEGER NOT NULL CHECK (target_layer >= -1), -- blocks count from 0; -1 is embed
  mapping_id INTEGER NOT NULL DEFAULT 1 REFERENCES mapping (id), -- 1 is the identity
  control TEXT NOT NULL DEFAULT 'none', -- what was patched instead of the captured state
  draw INTEGER NOT NULL DEFAULT 0, -- counts repetitions of a random control
  source_position INTEGER NOT NULL, -- index of a token of the source prompt, from 0
  source_token_id INTEGER NOT NULL,
  source_token TEXT NOT NULL,
  target_position INTEGER NOT NULL, -- index of a token of the target prompt, from 0
  target_token_id INTEGER NOT NULL,
  target_token TEXT NOT NULL,
  op TEXT NOT NULL DEFAULT 'replace', -- what the patch does to the state it meets
  alpha REAL, -- null where op takes no number
  status TEXT NOT NULL CHECK (status IN ('ok', 'failed')),
  error TEXT CHECK ((status = 'ok') = (error IS NULL)), -- code and sentence
  text TEXT, -- generated
  token_ids TEXT NOT NULL CHECK (json_valid(token_ids)), -- JSON: generated
  UNIQUE (run_id, sample_idx, variant, site, source_layer, target_layer, mapping_id, control, draw),
  FOREIGN KEY (run_id, sample_idx) REFERENCES sample (run_id, idx) ON DELETE CASCADE
) STRICT;

CREATE TABLE token_score (
  -- Most probable tokens of each token read; texts are in token, under run.target_model_id.
  observation_id INTEGER NOT NULL REFERENCES observation (id) ON DELETE CASCADE,
  step INTEGER NOT NULL, -- 0 is the first token after the prompt
  rank INTEGER NOT NULL, -- 0 is the most probable
  token_id INTEGER NOT NULL,
  logprob REAL NOT NULL, -- natural
  PRIMARY KEY (observation_id, step, rank)
) STRICT, WITHOUT ROWID;

CREATE VIEW reading AS
  -- What came out of each cell; blocks count from 0, layer -1 is embed.
  SELECT
    observation.id AS observation_id,
    observation.run_id AS run_id,
    run.name AS run_name,
    sample.name AS sample,
    observation.variant AS variant,
    observation.site AS site,
    observation.source_layer AS source_layer,
    observation.target_layer AS target_layer,
    mapping.name AS mapping,
    observation.control AS control,
    observation.draw AS draw,
    observation.source_position AS source_position,
    observation.source_token AS source_token,
    observation.target_position AS target_position,
    observation.target_token AS target_token,
    token.text AS top_token, -- most probable first token
    exp(token_score.logprob) AS top_probability,
    observation.text AS text,
    observation.status AS status,
    observation.error AS error
  FROM observation
  JOIN run ON run.id = observation.run_id
  JOIN sample ON sample.run_id = observation.run_id AND sample.idx = observation.sample_idx
  JOIN mapping ON mapping.id = observation.mapping_id
  LEFT JOIN token_score
    ON token_score.observation_id = observation.id AND token_score.step = 0 AND token_score.rank = 0
  LEFT JOIN token ON token.model_id = run.target_model_id AND token.token_id = token_score.token_id;

CREATE VIEW latest_reading AS
  -- reading, for the newest run of each name.
  SELECT * FROM reading WHERE run_id IN (SELECT max(id) FROM run GROUP BY name);

CREATE VIEW scored_token AS
  -- Every token that was scored, readable; blocks count from 0, layer -1 is embed.
  SELECT
    observation.id AS observation_id,
    observation.run_id AS run_id,
    sample.name AS sample,
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
`,
};
