import type { Migration } from './migrations.js';

/** What may be another in the engine of the source's model. */
export const m007SourceEngine: Migration = {
  name: 'm007_source_engine',
  // comments inside a column's definition are kept in the schema, others are not
  sql: `
ALTER TABLE run ADD COLUMN
  source_engine /* JSON: devices and batches of the source's model, where it is another one; null: those of the run */ TEXT
  CHECK (json_valid(source_engine));
`,
};
