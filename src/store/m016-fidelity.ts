import type { Migration } from './migrations.js';

/** Whether readings are to be believed. */
export const m016Fidelity: Migration = {
  name: 'm016_fidelity',
  // comments inside a column's definition are kept in the schema, others are not
  sql: `
CREATE VIEW fidelity AS
  -- What speaks for each reading and against it. Texts are compared by their words: twice those of both over those of each, without the commonest English ones. Numbers that the experiment does not name among its metrics are null; blocks count from 0, layer -1 is embed ("embed" in JSON), null: no layer.
  SELECT
    signature.observation_id AS observation_id,
    signature.run_id AS run_id,
    signature.sample_idx AS sample_idx, -- sample.idx
    sample.name AS sample,
    signature.variant AS variant,
    signature.mapping AS mapping,
    signature.source_site AS source_site,
    signature.site AS site, -- of the target
    signature.source_layer AS source_layer,
    signature.target_layer AS target_layer,
    observation.move_idx AS move_idx, -- move.idx
    signature.control AS control,
    signature.draw AS draw,
    observation.text AS text,
    agreement.value AS agreement, -- mean overlap with what the other variants say at the same layers, 0 to 1
    stability.value AS stability, -- mean overlap with what is said one source layer before and one behind, of those that were run
    unlike_controls.value AS unlike_controls, -- 1 less the overlap with the random, shuffled or unpatched text that is most like it; null for controls
    relevancy.value AS relevancy, -- how much the patch changes the probability of a token, mean over the text
    signature.unrelated AS unrelated, -- a random or shuffled state gives the very same text
    signature.contaminated AS contaminated, -- the text is that of the unpatched target
    signature.meaningless AS meaningless, -- empty, repetitive or unprintable
    signature.norm_far AS norm_far -- the vector is less than half or more than twice as long as the state that it met
  FROM signature
  JOIN observation ON observation.id = signature.observation_id
  JOIN sample ON sample.run_id = signature.run_id AND sample.idx = signature.sample_idx
  LEFT JOIN score AS agreement ON agreement.observation_id = observation.id AND agreement.name = 'agreement'
  LEFT JOIN score AS stability ON stability.observation_id = observation.id AND stability.name = 'stability'
  LEFT JOIN score AS unlike_controls
    ON unlike_controls.observation_id = observation.id AND unlike_controls.name = 'unlike-controls'
  LEFT JOIN score AS relevancy ON relevancy.observation_id = observation.id AND relevancy.name = 'relevancy';

CREATE VIEW fidelity_by_layer AS
  -- Which readings are to be believed: all variants of a sample and pair of layers together, as inspection prompts that ask the same in other words. Blocks count from 0, layer -1 is embed ("embed" in JSON), null: no layer.
  WITH cell AS (
    SELECT
      *,
      row_number() OVER (
        PARTITION BY run_id, sample_idx, source_site, site, source_layer, target_layer, move_idx, control
        ORDER BY agreement DESC, meaningless, draw, observation_id
      ) AS place
    FROM fidelity
    WHERE control IN ('none', 'random')
  ),
  random AS (
    SELECT
      run_id,
      avg(agreement) AS agreement,
      avg(stability) AS stability
    FROM cell
    WHERE control = 'random' AND coalesce(contaminated, 0) = 0
    GROUP BY run_id, sample_idx, source_site, site, source_layer, target_layer, move_idx, draw
  ),
  chance AS (
    SELECT
      run_id,
      min(CASE WHEN agreement_place >= 0.95 THEN agreement END) AS agreement,
      min(CASE WHEN stability_place >= 0.95 THEN stability END) AS stability
    FROM (
      SELECT
        *,
        cume_dist() OVER (PARTITION BY run_id ORDER BY agreement) AS agreement_place,
        cume_dist() OVER (PARTITION BY run_id ORDER BY stability) AS stability_place
      FROM random
    )
    GROUP BY run_id
  )
  SELECT
    run_id,
    sample_idx, -- sample.idx
    sample,
    source_site,
    site, -- of the target
    source_layer,
    target_layer,
    move_idx, -- move.idx
    variant, -- the one whose text agrees best with the others', of equals one that means something
    text, -- its text
    readings, -- of captured states
    agreement, -- mean
    chance_agreement, -- of 19 of 20 random vectors of the run, at whatever layers and samples, no more; of those that change what the unpatched target says
    stability, -- mean
    chance_stability, -- as chance_agreement
    unlike_controls, -- mean
    relevancy, -- mean
    failed, -- share without a text
    unrelated, -- share; null where random and shuffled states were not run
    contaminated, -- share; null where the unpatched target was not run
    meaningless, -- share
    norm_far, -- share
    CASE WHEN chance_agreement IS NOT NULL THEN
      (agreement > chance_agreement OR agreement = 1)
      AND coalesce(stability > coalesce(chance_stability, 0) OR stability = 1, 1)
      AND coalesce(unlike_controls >= 0.5, 1) AND coalesce(contaminated < 0.5, 1) AND meaningless < 0.5
    END AS believable -- 1: variants agree, and neighbouring layers too, wholly or more than random vectors bear out, and most readings have words that no control says and are neither contaminated nor meaningless; null: it can't be told without several variants and the control random
  FROM (
    SELECT
      cell.run_id AS run_id,
      sample_idx,
      sample,
      source_site,
      site,
      source_layer,
      target_layer,
      move_idx,
      max(CASE WHEN place = 1 THEN variant END) AS variant,
      max(CASE WHEN place = 1 THEN text END) AS text,
      count(text) AS readings,
      avg(cell.agreement) AS agreement,
      chance.agreement AS chance_agreement,
      avg(cell.stability) AS stability,
      chance.stability AS chance_stability,
      avg(unlike_controls) AS unlike_controls,
      avg(relevancy) AS relevancy,
      avg(text IS NULL) AS failed,
      avg(unrelated) AS unrelated,
      avg(contaminated) AS contaminated,
      avg(meaningless) AS meaningless,
      avg(norm_far) AS norm_far
    FROM cell
    LEFT JOIN chance ON chance.run_id = cell.run_id
    WHERE control = 'none'
    GROUP BY cell.run_id, sample_idx, source_site, site, source_layer, target_layer, move_idx
  );
`,
};
