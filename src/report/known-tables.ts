/** What is known and what came out, as tables to be read; all numbers stand in their data. */
import { grouped } from '../group.js';
import { layerText, numberText, onOneLine } from '../store/format.js';
import { escapeHtml } from './html.js';

export interface ExpectationRow {
  readonly run_id: number;
  readonly about: string;
  readonly truth: number | null;
  readonly least: number | null;
  readonly most: number | null;
  readonly lowest: number | null;
  readonly highest: number | null;
  readonly holds: number | null;
  readonly metric: string;
  readonly variant: string | null;
  readonly group: string | null;
  readonly control: string;
  readonly source_layers: string | null;
  readonly target_layers: string | null;
}

export interface SignRow {
  /** Where the readings were made. */
  readonly place: string;
  readonly sign: string;
  readonly right: number;
  readonly wrong: number;
  readonly area: number;
}

export interface MethodRow {
  readonly run_id: number;
  readonly variant: string;
  /** Which are read: `none` are the captured ones, as everywhere; `probe` is read by a probe. */
  readonly states: string;
  readonly source_layer: number;
  readonly found: number;
  readonly truth: number | null;
}

export function expectationTable(rows: readonly ExpectationRow[]): string {
  const lines = rows.map((row) => [
    ...[text(`${row.run_id}`), text(row.about), text(cellsOf(row)), text(row.metric)],
    ...[number(row.truth), number(boundOf(row)), number(measuredOf(row))],
    ...[row.holds === 0 ? '<td class="marked">no</td>' : text(row.holds === null ? 'not measured' : 'yes')],
  ]);
  const heads = ['run', 'what', 'cells', 'metric', 'truth', 'bound', 'found', 'holds'];
  return table('What came out beside the truth', heads, lines);
}

/** A line each sign, a column each place. */
export function signTable(rows: readonly SignRow[]): string {
  const places = grouped(rows, ({ place }) => place);
  const heads = [...places].map(
    ([place, own]) => `${place} (${own[0]!.right} right, ${own[0]!.wrong} wrong)`,
  );
  const lines = [...grouped(rows, ({ sign }) => sign)].map(([sign, own]) => [
    text(sign),
    ...[...places.keys()].map((at) => number(own.find(({ place }) => place === at)?.area ?? null)),
  ]);
  return table('Which signs tell right readings from wrong ones', ['sign', ...heads], lines);
}

/** A line each way of reading, a column each source layer. */
export function methodTable(title: string, rows: readonly MethodRow[]): string {
  const layers = [...new Set(rows.map(({ source_layer }) => source_layer))].sort((a, b) => a - b);
  const lines = [
    ...grouped(rows, ({ run_id, variant, states }) => JSON.stringify([run_id, variant, states])),
  ];
  const heads = ['run', 'variant', 'read', ...layers.map((layer) => `layer ${layerText(layer)}`)];
  return table(
    title,
    heads,
    lines.map(([, own]) => {
      const { run_id, variant, states } = own[0]!;
      return [
        ...[text(`${run_id}`), text(variant), text(wordsOf[states] ?? states)],
        ...layers.map((layer) => {
          const cell = own.find(({ source_layer }) => source_layer === layer);
          const truth = cell?.truth == null ? '' : ` (${numberText(cell.truth)})`;
          return number(cell === undefined ? '' : `${numberText(cell.found)}${truth}`);
        }),
      ];
    }),
  );
}

const wordsOf: Readonly<Record<string, string>> = {
  none: 'captured states, patched',
  random: 'random vectors, patched',
  shuffled: "other samples' states, patched",
  probe: 'captured states, by a probe',
};

function table(label: string, heads: readonly string[], lines: readonly (readonly string[])[]): string {
  return `<div class="scroll" tabindex="0" role="region" aria-label="${escapeHtml(label)}"><table>
<thead><tr>${heads.map((head) => `<th scope="col">${escapeHtml(onOneLine(head))}</th>`).join('')}</tr></thead>
<tbody>${lines.map((cells) => `<tr>${cells.join('')}</tr>`).join('\n')}</tbody>
</table></div>`;
}

function cellsOf({ variant, group, control, source_layers, target_layers }: ExpectationRow): string {
  const layers = [source_layers, target_layers].map((list) =>
    list === null ? 'all' : (JSON.parse(list) as number[]).map(layerText).join(' '),
  );
  const parts = [variant, group, control === 'none' ? null : control].filter((part) => part !== null);
  const between = control === 'unpatched' ? [] : [`layers ${layers.join(' into ')}`];
  return [...parts, ...between].join(', ');
}

function boundOf({ least, most }: ExpectationRow): string {
  const bounds = [['at least', least] as const, ['at most', most] as const];
  return bounds
    .flatMap(([word, value]) => (value === null ? [] : [`${word} ${numberText(value)}`]))
    .join(', ');
}

function measuredOf({ lowest, highest }: ExpectationRow): string {
  if (lowest === null || highest === null) return '';
  const [from, to] = [numberText(lowest), numberText(highest)];
  return from === to ? from : `${from} to ${to}`;
}

function text(value: string): string {
  return `<td>${escapeHtml(onOneLine(value))}</td>`;
}

function number(value: number | string | null): string {
  const shown = typeof value === 'number' ? numberText(value) : (value ?? '');
  return `<td class="number">${escapeHtml(shown)}</td>`;
}
