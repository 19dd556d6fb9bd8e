import type { Migration } from './migrations.js';

/** Sources without a prompt, and the target's own edits. */
export const m013Vectors: Migration = {
  name: 'm013_vectors',
  // comments inside a column's definition are kept in the schema, others are not
  sql: `
CREATE TABLE vector (
  -- Vectors that stand in place of a source prompt, or are used by the target's own edits.
  run_id INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
  idx INTEGER NOT NULL, -- from 0
  text TEXT NOT NULL, -- what it is, in words
  record TEXT NOT NULL CHECK (json_valid(record)), -- JSON: kind, and of a file name, sha256, tensor and row; of means prompts and positions (prompt.idx, index of a token); of noise sigma, of and deviation; of a random direction norm; what is drawn is drawn with run.seed, sample_idx and a number of the draw
  PRIMARY KEY (run_id, idx)
) STRICT;

ALTER TABLE variant ADD COLUMN
  source_vector_idx /* vector.idx: what stands in place of a source prompt, whose text is then its words, without tokens, position 0 and token id -1; null: there is a prompt */ INTEGER;
ALTER TABLE variant ADD COLUMN
  own_edits /* JSON: what is done to the target's states in every cell, before the patch, a list of tokens (indexes), places (site, layer), op, alpha, atGenerated, vector (vector.idx); null: nothing */ TEXT CHECK (json_valid(own_edits));
`,
};
