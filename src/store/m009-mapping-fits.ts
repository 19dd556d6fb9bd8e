import type { Migration } from './migrations.js';

/** How large mappings are, and what they were fitted to, as columns. */
export const m009MappingFits: Migration = {
  name: 'm009_mapping_fits',
  sql: `
CREATE VIEW mapping_fit AS
  -- Each mapping with its size and its data; of a chain the sum over its links, and the fewest pairs of them.
  SELECT
    mapping.id AS mapping_id,
    mapping.name AS mapping,
    mapping.kind AS kind,
    CASE mapping.kind WHEN 'identity' THEN 0 ELSE sum(link.record ->> '$.parameters') END
      AS parameters, -- numbers of one map that were fitted; null: its file does not say
    min(link.record ->> '$.data.pairs.train') AS pairs, -- of states that it was fitted to; null: to none
    CASE mapping.kind WHEN 'chain' THEN NULL ELSE (
      SELECT avg(map.value ->> '$.r2.heldOut') FROM json_each(mapping.record, '$.maps') AS map
    ) END AS r2 -- mean of its maps on held-out pairs; null: there are none, or it is a chain
  FROM mapping
  LEFT JOIN (
    SELECT id AS mapping_id, record FROM mapping WHERE kind <> 'chain'
    UNION ALL
    SELECT mapping.id, each.value ->> '$.record' FROM mapping, json_each(mapping.record, '$.links') AS each
    WHERE mapping.kind = 'chain'
  ) AS link ON link.mapping_id = mapping.id
  GROUP BY mapping.id;
`,
};
