/** What runs were expected to give where the truth is known, beside what they gave. */

/**
 * A statement with a row for each expectation of the runs. `lowest` and `highest` are means at one pair of layers of
 * one variant, of a probe at one source layer; `holds` is null where no cell is meant.
 *
 * @param runIds `1, 2`, as it stands in SQL.
 */
export function expectationSql(runIds: string): string {
  return `WITH expected AS MATERIALIZED (
  SELECT run.id AS run_id, entry.key AS place, entry.value ->> 'about' AS about, entry.value ->> 'metric' AS metric,
    entry.value ->> 'variant' AS variant, entry.value ->> 'control' AS control, entry.value ->> 'group' AS "group",
    entry.value ->> 'truth' AS truth, entry.value ->> 'least' AS least, entry.value ->> 'most' AS most,
    replace(entry.value ->> 'sourceLayers', '"embed"', '-1') AS source_layers,
    replace(entry.value ->> 'targetLayers', '"embed"', '-1') AS target_layers
  FROM run, json_each(run.experiment, '$.expected') AS entry
  WHERE run.id IN (${runIds})
), cell AS (
  SELECT expected.run_id, expected.place, avg(score.value) AS value, count(*) AS n
  FROM expected
  JOIN observation ON observation.run_id = expected.run_id AND observation.control = expected.control
    AND (expected.variant IS NULL OR observation.variant = expected.variant)
    AND (source_layers IS NULL OR observation.source_layer IN (SELECT value FROM json_each(source_layers)))
    AND (target_layers IS NULL OR observation.target_layer IN (SELECT value FROM json_each(target_layers)))
  JOIN sample ON sample.run_id = observation.run_id AND sample.idx = observation.sample_idx
    AND (expected."group" IS NULL OR sample."group" = expected."group")
  JOIN score ON score.observation_id = observation.id AND score.name = expected.metric
  GROUP BY expected.run_id, expected.place, observation.variant, observation.mapping_id, observation.source_site,
    observation.site, observation.source_layer, observation.target_layer
  UNION ALL
  SELECT expected.run_id, expected.place, avg(probe_prediction.correct), count(*)
  FROM expected
  JOIN probe_prediction ON expected.metric = 'probe' AND probe_prediction.run_id = expected.run_id
    AND probe_prediction.known = 0 AND (expected.variant IS NULL OR probe_prediction.variant = expected.variant)
    AND (source_layers IS NULL OR probe_prediction.source_layer IN (SELECT value FROM json_each(source_layers)))
  JOIN sample ON sample.run_id = probe_prediction.run_id AND sample.idx = probe_prediction.sample_idx
    AND (expected."group" IS NULL OR sample."group" = expected."group")
  GROUP BY expected.run_id, expected.place, probe_prediction.variant, probe_prediction.source_site,
    probe_prediction.source_layer
), measured AS (
  SELECT run_id, place, count(*) AS layer_pairs, sum(n) AS cells, min(value) AS lowest, max(value) AS highest,
    sum(value * n) / sum(n) AS mean
  FROM cell
  GROUP BY run_id, place
)
SELECT run_id, about, truth, least, most, lowest, mean, highest,
  lowest >= coalesce(least, lowest) AND highest <= coalesce(most, highest) AS holds,
  metric, variant, "group", control, source_layers, target_layers, layer_pairs, cells
FROM expected
LEFT JOIN measured USING (run_id, place)
ORDER BY run_id, place`;
}
