import type { Migration } from './migrations.js';

/** The LoRA adapters that models were read with. */
export const m015Adapters: Migration = {
  name: 'm015_adapters',
  // comments inside a column's definition are kept in the schema, others are not
  sql: `
ALTER TABLE run ADD COLUMN
  adapters /* JSON: LoRAs of the variants, a list of name, path, sha256, scale, bytes, alpha; null: none */ TEXT CHECK (json_valid(adapters));
ALTER TABLE variant ADD COLUMN
  source_adapter /* name of the LoRA that the source prompt was read with; null: none */ TEXT;
ALTER TABLE variant ADD COLUMN
  target_adapter /* as source_adapter */ TEXT;
`,
};
