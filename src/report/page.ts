/** Readings as one self-contained HTML page: tables whose cells are coloured by probability. */
import { escapeHtml } from './html.js';
import { type PageTable, readingsTable } from './readings-table.js';
import { BASE_STYLE } from './style.js';

export interface Page {
  readonly title: string;
  readonly lead: string;
  readonly tables: readonly PageTable[];
  /** What was run, on what. */
  readonly facts: readonly (readonly [string, string])[];
}

export function renderPage({ title, lead, tables, facts }: Page): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(title)}</title>
<style>${BASE_STYLE}</style>
</head>
<body>
<h1>${escapeHtml(title)}</h1>
<p class="lead">${escapeHtml(lead)}</p>
${tables.map(renderTable).join('\n')}
<h2>What was run</h2>
<dl>${facts.map(([name, value]) => `<dt>${escapeHtml(name)}</dt><dd>${escapeHtml(value)}</dd>`).join('')}</dl>
</body>
</html>
`;
}

function renderTable(table: PageTable): string {
  return `<h2>${escapeHtml(table.title)}</h2>
<p>${escapeHtml(table.about)}</p>
${readingsTable(table)}`;
}
