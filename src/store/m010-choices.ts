import type { Migration } from './migrations.js';

/** What variants that are made of factors come to, honestly chosen and compared, and the file that a run was read from. */
export const m010Choices: Migration = {
  name: 'm010_choices',
  // comments inside a column's definition are kept in the schema, others are not
  sql: `
ALTER TABLE run ADD COLUMN experiment_file /* JSON: the experiment's file as it was run, with --set and --limit, factors as variants and whole paths; null: there was none, or made by an older version */ TEXT CHECK (json_valid(experiment_file));

CREATE TABLE choice (
  -- What each variant that is made of factors comes to: means over the source layers that all of them have, each into the target layer that is best for the other half of the samples; made when a run ends.
  run_id INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
  name TEXT NOT NULL, -- score.name
  variant TEXT NOT NULL, -- variant.name; empty: the best of them all, chosen together with its target layers
  tried_on TEXT NOT NULL CHECK (tried_on IN ('all', 'even', 'odd')), -- samples by sample.idx: those at even places are tried with what is best for the odd ones, and the other way round; all: both
  chosen TEXT, -- the variant that was tried; null: each half has another
  layers TEXT CHECK (json_valid(layers)), -- JSON: pairs of source layer and the target layer that was chosen for it; -1 is embed; null: each half has its own
  samples INTEGER NOT NULL,
  value REAL NOT NULL, -- mean over samples and source layers
  ci_low REAL NOT NULL, -- percentile bootstrap over samples, 95 %, drawn with run.seed
  ci_high REAL NOT NULL, -- as ci_low
  difference REAL, -- from the first variant, which has the first level of each factor; null: it is the first
  difference_low REAL, -- paired bootstrap over the samples that both have, as ci_low
  difference_high REAL, -- as difference_low
  beyond REAL, -- of two factors changed at once: the difference less those of each alone; null: it is no pair
  beyond_low REAL, -- as difference_low
  beyond_high REAL, -- as difference_low
  PRIMARY KEY (run_id, name, variant, tried_on)
) STRICT, WITHOUT ROWID;

CREATE VIEW ranking AS
  -- Variants that are made of factors, the best first, as in choice.
  SELECT
    choice.run_id AS run_id,
    run.name AS run_name,
    choice.name AS name, -- of the metric
    rank() OVER (
      PARTITION BY choice.run_id, choice.name
      ORDER BY CASE WHEN EXISTS (SELECT 1 FROM smaller_is_better WHERE choice.name GLOB pattern) THEN choice.value ELSE -choice.value END
    ) AS place, -- from 1; of equals the same
    choice.variant AS variant,
    choice.samples AS samples,
    choice.value AS value,
    choice.ci_low AS ci_low,
    choice.ci_high AS ci_high,
    choice.difference AS difference, -- from the first variant; null: it is the first
    choice.difference_low AS difference_low,
    choice.difference_high AS difference_high
  FROM choice
  JOIN run ON run.id = choice.run_id
  WHERE choice.tried_on = 'all' AND choice.variant <> '';

CREATE VIEW variant_level AS
  -- Levels of the factors that variants are made of.
  SELECT
    run.id AS run_id,
    variant.value ->> '$.name' AS variant, -- variant.name
    factor.key AS factor,
    factor.value AS level,
    variant.key = 0 AS is_first -- 1: the variant that the others are compared with
  FROM run, json_each(run.experiment, '$.variants') AS variant, json_each(variant.value, '$.factors') AS factor;
`,
};
