import type { Migration } from './migrations.js';

/** What a patch does and where a state came from, how tokens were drawn, and how far a cell may depend on its company. */
export const m002Sites: Migration = {
  name: 'm002_sites',
  // comments inside a column's definition are kept in the schema, others are not
  sql: `
ALTER TABLE observation ADD COLUMN
  source_site /* where the state was captured; site is where it was patched */ TEXT NOT NULL DEFAULT 'resid_out';
ALTER TABLE observation ADD COLUMN
  at_generated /* 1: patched again at each generated token */ INTEGER NOT NULL DEFAULT 0 CHECK (at_generated IN (0, 1));
ALTER TABLE run ADD COLUMN
  split_mode /* none: one device takes the blocks that are not on the CPU; layer: all devices share them */
  TEXT NOT NULL DEFAULT 'layer';
ALTER TABLE run ADD COLUMN
  tolerance /* largest difference of a log-probability (natural) that the company of a cell in its batch was
  measured to make on this backend; 0 in exact mode, null where nothing was measured */ REAL;

UPDATE observation SET source_site = 'embed' WHERE source_layer = -1;
UPDATE observation SET alpha = 1 WHERE alpha IS NULL;

DROP VIEW latest_reading;
DROP VIEW reading;

CREATE VIEW reading AS
  -- What came out of each cell; blocks count from 0, layer -1 is embed.
  SELECT
    observation.id AS observation_id,
    observation.run_id AS run_id,
    run.name AS run_name,
    sample.name AS sample,
    observation.variant AS variant,
    observation.source_site AS source_site, -- embed, resid_mid, attn_out, mlp_out, resid_out or final_norm
    observation.site AS site, -- of the target
    observation.source_layer AS source_layer,
    observation.target_layer AS target_layer,
    mapping.name AS mapping,
    observation.op AS op, -- what the patch does to the state h it meets; replace: alpha v
    observation.alpha AS alpha,
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
`,
};
