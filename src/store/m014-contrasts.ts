import type { Migration } from './migrations.js';

/** What readings are contrasted with, edits that fade, and how much each token depends on the patch. */
export const m014Contrasts: Migration = {
  name: 'm014_contrasts',
  // comments inside a column's definition are kept in the schema, others are not
  sql: `
ALTER TABLE variant ADD COLUMN
  contrast /* JSON: what the logits are contrasted with: alpha and cutoff where it is the unpatched target, layers ("embed" is the embedding) and cutoff where it is the logit lens; null: nothing */
  TEXT CHECK (json_valid(contrast));
ALTER TABLE variant ADD COLUMN
  decay /* with at_generated: alpha is decay^k times as large at the k-th generated token, counted from 1; null: as large at each */
  REAL;

CREATE TABLE token_relevancy (
  -- How much each token of a cell's text depends on the patch, where the metric relevancy is asked for.
  observation_id INTEGER NOT NULL REFERENCES observation (id) ON DELETE CASCADE,
  step INTEGER NOT NULL, -- 0 is the first token after the prompt
  token_id INTEGER NOT NULL,
  probability REAL NOT NULL, -- as it was read
  unpatched REAL NOT NULL, -- its probability behind the same tokens where nothing is patched
  PRIMARY KEY (observation_id, step)
) STRICT, WITHOUT ROWID;

CREATE VIEW relevancy AS
  -- The tokens of each cell's text with their relevancy; blocks count from 0, layer -1 is embed ("embed" in JSON), null: no layer.
  SELECT
    observation.id AS observation_id,
    observation.run_id AS run_id,
    sample.name AS sample,
    observation.variant AS variant,
    observation.control AS control,
    observation.draw AS draw,
    observation.source_layer AS source_layer,
    observation.target_layer AS target_layer,
    token_relevancy.step AS step, -- 0 is the first token after the prompt
    token.text AS token,
    token_relevancy.probability AS probability,
    token_relevancy.unpatched AS unpatched, -- its probability where nothing is patched
    abs(token_relevancy.probability - token_relevancy.unpatched) AS relevancy
  FROM token_relevancy
  JOIN observation ON observation.id = token_relevancy.observation_id
  JOIN run ON run.id = observation.run_id
  JOIN sample ON sample.run_id = observation.run_id AND sample.idx = observation.sample_idx
  JOIN token ON token.model_id = run.target_model_id AND token.token_id = token_relevancy.token_id;
`,
};
