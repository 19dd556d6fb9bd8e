/** Prints which sites each tiny model has, as a table in Markdown: `npm run architectures`. */
import { type ArchitectureReport, examine, type Refusal } from './architecture-report.js';
import { architectureTable } from './architecture-table.js';
import { badKinds, decoderKinds } from './fixtures/models.js';

const reports: (ArchitectureReport | Refusal)[] = [];
for (const kind of [...decoderKinds, ...badKinds]) reports.push(await examine(kind));
console.log(architectureTable(reports));
