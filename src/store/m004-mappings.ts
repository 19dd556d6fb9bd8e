import type { Migration } from './migrations.js';

/** Mappings that were fitted: which file, and how. */
export const m004Mappings: Migration = {
  name: 'm004_mappings',
  // comments inside a column's definition are kept in the schema, others are not
  sql: `
ALTER TABLE mapping ADD COLUMN sha256 /* of the file; null: there is none */ TEXT;
ALTER TABLE mapping ADD COLUMN
  record /* JSON: models, places, data and quality of the fit; null: there was none */ TEXT CHECK (json_valid(record));
`,
};
