/** `npm run schema:experiment`: writes the JSON Schema of experiment files, which editors read. */
import { writeFileSync } from 'node:fs';
import { jsonSchema } from '../src/experiment-file/schema.js';

writeFileSync(new URL('../src/experiments/schema.json', import.meta.url), jsonSchema());
