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
`,
};
