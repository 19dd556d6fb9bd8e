import type { Migration } from './migrations.js';

/** Edges of attention that are cut. */
export const m008Cuts: Migration = {
  name: 'm008_cuts',
  // comments inside a column's definition are kept in the schema, others are not
  sql: `
ALTER TABLE variant ADD COLUMN
  cuts /* JSON: cut edges of attention, a list of from, to (token indexes), layers, atGenerated; null: none */ TEXT CHECK (json_valid(cuts));
`,
};
