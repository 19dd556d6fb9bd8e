/** Readings as one self-contained HTML page: tables whose cells are coloured by probability. */

export interface PageCell {
  readonly text: string;
  /** Probability in [0, 1], or null where there is none to show. */
  readonly probability: number | null;
  /** Shown on hover, and to screen readers. */
  readonly detail: string;
  /** Drawn with a frame. */
  readonly marked?: boolean;
}

export interface PageTable {
  readonly title: string;
  readonly about: string;
  /** Groups of columns: a title over one or more headings. */
  readonly groups: readonly { readonly title: string; readonly columns: readonly string[] }[];
  readonly rows: readonly { readonly heading: string; readonly cells: readonly PageCell[] }[];
}

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
<style>${STYLE}</style>
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

function renderTable({ title, about, groups, rows }: PageTable): string {
  const groupHeads = groups.map(
    (group) => `<th scope="colgroup" colspan="${group.columns.length}">${escapeHtml(group.title)}</th>`,
  );
  const heads = groups.flatMap(({ columns }) =>
    columns.map((name) => `<th scope="col">${escapeHtml(name)}</th>`),
  );
  return `<h2>${escapeHtml(title)}</h2>
<p>${escapeHtml(about)}</p>
<div class="scroll" tabindex="0" role="region" aria-label="${escapeHtml(title)}"><table>
<thead><tr><th></th>${groupHeads.join('')}</tr>
<tr><th scope="col">layer</th>${heads.join('')}</tr></thead>
<tbody>
${rows.map(({ heading, cells }) => `<tr><th scope="row">${escapeHtml(heading)}</th>${cells.map(renderCell).join('')}</tr>`).join('\n')}
</tbody>
</table></div>
<p class="scale">probability <span class="ramp"></span> 0 to 100 %${rows.some(({ cells }) => cells.some(({ marked }) => marked)) ? '; framed: what the model itself says next' : ''}</p>`;
}

function renderCell({ text, probability, detail, marked }: PageCell): string {
  const style = probability === null ? '' : ` style="--p:${Math.round(100 * probability)}%"`;
  return `<td${marked ? ' class="marked"' : ''}${style} title="${escapeHtml(detail)}">${escapeHtml(visible(text))}</td>`;
}

/** A cell that holds nothing but blanks would look empty. */
function visible(text: string): string {
  return /^\s+$/.test(text) ? text.replaceAll('\n', '⏎').replace(/\s/g, '␣') : text;
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
}

const STYLE = `
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1b1b; --line: #d0d0d0; --hot: #f2a33a; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e8e6e3; --line: #3a3d44; --hot: #9a5b00; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; background: var(--paper); color: var(--ink); }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.lead { max-width: 46rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
th { font-weight: 600; padding: 3px 8px; text-align: left; vertical-align: bottom; }
thead tr:first-child th { border-bottom: 1px solid var(--line); }
tbody th { text-align: right; }
td { padding: 3px 8px; border: 1px solid var(--line); white-space: pre-wrap; max-width: 18rem; font-family: ui-monospace, monospace;
  background: color-mix(in oklab, var(--hot) var(--p, 0%), var(--paper)); }
td.marked { outline: 2px solid var(--ink); outline-offset: -2px; }
.scale { font-size: 12px; }
.ramp { display: inline-block; width: 8rem; height: .8em; border: 1px solid var(--line); background: linear-gradient(to right in oklab, var(--paper), var(--hot)); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 1rem; font-size: 13px; } dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
@media print { body { margin: 0; max-width: none; } .scroll { overflow: visible; } }
`;
