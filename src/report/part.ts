/** Parts of a report, and their HTML: what is seen, the numbers behind it, the SQL that made them. */
import { formatCsv, numberText, onOneLine } from '../store/format.js';
import type { SqlValue } from '../store/query.js';
import type { Data } from './data.js';
import { escapeHtml } from './html.js';

export interface Part {
  /** Of its files, and of its place on the page: letters, digits and dashes. */
  readonly name: string;
  readonly title: string;
  readonly caption: string;
  /** A picture as SVG, or a table as HTML; where it is left out, the data are shown as a table. */
  readonly svg?: string;
  readonly html?: string;
  /** The picture is seen when asked for. */
  readonly folded?: boolean;
  readonly data: Data;
}

export interface Section {
  readonly name: string;
  readonly title: string;
  readonly about: string;
  readonly parts: readonly Part[];
}

export function csvOf({ columns, rows }: Data): string {
  return formatCsv({ columns, rows, truncated: false });
}

export function renderSection({ name, title, about, parts }: Section): string {
  return `<section aria-labelledby="${name}"><h2 id="${name}">${escapeHtml(title)}</h2>
<p class="about">${escapeHtml(about)}</p>
${parts.map(renderPart).join('\n')}
</section>`;
}

function renderPart({ name, title, caption, svg, html, folded = false, data }: Part): string {
  const csv = `data:text/csv;charset=utf-8,${encodeURIComponent(csvOf(data))}`;
  const table = dataTable(data, `${title}: data`);
  const shown = svg ?? html;
  return `<figure id="${name}"><h3>${escapeHtml(title)}</h3>
${folded ? `<details><summary>Picture: ${escapeHtml(title)}</summary>${shown}</details>` : (shown ?? table)}
<figcaption>${escapeHtml(caption)}</figcaption>
${shown === undefined ? '' : `<details><summary>Data as a table: ${escapeHtml(title)}</summary>${table}</details>`}
<details><summary>SQL: ${escapeHtml(title)}</summary><pre tabindex="0"><code>${escapeHtml(data.sql)}</code></pre></details>
<p class="download"><a href="${csv}" download="${name}.csv">Data as CSV: ${escapeHtml(title)}</a></p>
</figure>`;
}

export function dataTable({ columns, rows }: Pick<Data, 'columns' | 'rows'>, label: string): string {
  return `<div class="scroll" tabindex="0" role="region" aria-label="${escapeHtml(label)}"><table>
<thead><tr>${columns.map((column) => `<th scope="col">${escapeHtml(column)}</th>`).join('')}</tr></thead>
<tbody>${rows.map((row) => `<tr>${row.map(dataCell).join('')}</tr>`).join('\n')}</tbody>
</table></div>`;
}

function dataCell(value: SqlValue): string {
  const isNumber = typeof value === 'number' || typeof value === 'bigint';
  const text =
    typeof value === 'number' && !Number.isInteger(value)
      ? numberText(value)
      : value === null
        ? ''
        : String(value);
  return `<td${isNumber ? ' class="number"' : ''}>${escapeHtml(onOneLine(text))}</td>`;
}

/** Fit for `Part.name`. */
export function partName(...words: readonly (string | number)[]): string {
  return words
    .join('-')
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-|-$/g, '');
}
