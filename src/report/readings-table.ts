/** A table of readings, whose cells are coloured by probability. */
import { escapeHtml, visible } from './html.js';

export interface PageCell {
  readonly text: string;
  /** The text in its tokens, each underlined by a number in [0, 1]. */
  readonly tokens?: readonly { readonly text: string; readonly weight: number }[];
  /** Probability in [0, 1], or null where there is none to show. */
  readonly probability: number | null;
  /** Shown on hover, and to screen readers. */
  readonly detail: string;
  /** Drawn with a frame. */
  readonly marked?: boolean;
  /** Hatched: there is no reading. */
  readonly failed?: boolean;
}

export interface PageTable {
  readonly title: string;
  readonly about: string;
  /** What a frame around a cell means. */
  readonly framed?: string;
  /** What a line under a token means. */
  readonly underlined?: string;
  /** Groups of columns: a title over one or more headings. */
  readonly groups: readonly { readonly title: string; readonly columns: readonly string[] }[];
  readonly rows: readonly { readonly heading: string; readonly cells: readonly PageCell[] }[];
}

/** The table and what its colours mean, without title and text. */
export function readingsTable({ title, framed, underlined, groups, rows }: PageTable): string {
  const groupHeads = groups.map(
    (group) => `<th scope="colgroup" colspan="${group.columns.length}">${escapeHtml(group.title)}</th>`,
  );
  const heads = groups.flatMap(({ columns }) =>
    columns.map((name) => `<th scope="col">${escapeHtml(name)}</th>`),
  );
  const cells = rows.flatMap((row) => row.cells);
  const legend = [
    'probability <span class="ramp"></span> 0 to 100 %',
    ...(framed !== undefined && cells.some(({ marked }) => marked) ? [`framed: ${escapeHtml(framed)}`] : []),
    ...(underlined !== undefined && cells.some(({ tokens }) => tokens !== undefined)
      ? [`<u class="token" style="--w:100%">underlined</u>: ${escapeHtml(underlined)}`]
      : []),
    ...(cells.some(({ failed }) => failed) ? ['hatched: failed'] : []),
  ];
  return `<div class="scroll" tabindex="0" role="region" aria-label="${escapeHtml(title)}"><table>
<thead><tr><th></th>${groupHeads.join('')}</tr>
<tr><th scope="col">layer</th>${heads.join('')}</tr></thead>
<tbody>
${rows.map((row) => `<tr><th scope="row">${escapeHtml(row.heading)}</th>${row.cells.map(renderCell).join('')}</tr>`).join('\n')}
</tbody>
</table></div>
<p class="scale">${legend.join('; ')}</p>`;
}

function renderCell({ text, tokens, probability, detail, marked, failed }: PageCell): string {
  const style = probability === null ? '' : ` style="--p:${Math.round(100 * probability)}%"`;
  const kind = failed ? ' class="failed"' : marked ? ' class="marked"' : '';
  return `<td${kind}${style} title="${escapeHtml(detail)}">${tokens?.map(renderToken).join('') ?? escapeHtml(visible(text))}</td>`;
}

function renderToken({ text, weight }: NonNullable<PageCell['tokens']>[number]): string {
  return `<u class="token" style="--w:${Math.round(100 * weight)}%">${escapeHtml(visible(text))}</u>`;
}
