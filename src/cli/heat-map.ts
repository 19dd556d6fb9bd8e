/** A table of numbers as a picture for a terminal: blocks of colour, or digits where there are no colours. */
import { numberText, onOneLine } from '../index.js';
import { codeOf, colourOf } from './colour-scale.js';

export interface HeatCell {
  /** Null where there is nothing to be seen: all failed. */
  readonly value: number | null;
  readonly failed: number;
}

export interface HeatMap {
  /** What the values are. */
  readonly value: string;
  /** What rows and columns are, such as `source layer`. */
  readonly rowTitle: string;
  readonly columnTitle: string;
  readonly rows: readonly string[];
  readonly columns: readonly string[];
  /** Undefined where no cell was planned. */
  readonly at: (row: number, column: number) => HeatCell | undefined;
}

export interface Canvas {
  /** Bits of colour, as `tty.WriteStream.getColorDepth` tells; below 8 there are digits. */
  readonly depth: number;
  /** Columns of the terminal. */
  readonly width: number;
}

const cellWidth = 2;

/** Room for the label of the last column. */
const labelRoom = 5;

const longestLabel = 32;

/** A map that is wider than the canvas is cut into several below each other. */
export function heatMapText(map: HeatMap, { depth, width }: Canvas): string {
  const scale = scaleOf(map);
  const labels = map.rows.map(labelText);
  const margin = Math.max(map.rowTitle.length, ...labels.map(({ length }) => length)) + 2;
  const fitting = Math.max(1, Math.floor((width - margin - labelRoom) / cellWidth));
  const lines: string[] = [];
  for (let begin = 0; begin < map.columns.length; begin += fitting) {
    const columns = map.columns.slice(begin, begin + fitting);
    if (begin > 0) lines.push('');
    lines.push(`${' '.repeat(margin)}${map.columnTitle}`);
    lines.push(`${map.rowTitle.padStart(margin - 2)}  ${columnLabels(columns)}`);
    for (const [row, label] of labels.entries()) {
      const cells = columns.map((_, i) => cellText(map.at(row, begin + i), scale, depth)).join('');
      lines.push(`${label.padStart(margin - 2)}  ${cells}`.trimEnd());
    }
  }
  return [...lines, '', legend(map, scale, depth)].join('\n');
}

interface Scale {
  readonly least: number;
  readonly most: number;
}

/** Undefined where there is no value at all. */
function scaleOf(map: HeatMap): Scale | undefined {
  let [least, most] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const value of cellsOf(map).map((cell) => cell.value)) {
    if (value === null) continue;
    least = Math.min(least, value);
    most = Math.max(most, value);
  }
  return most < least ? undefined : { least, most };
}

function cellsOf(map: HeatMap): HeatCell[] {
  return map.rows.flatMap((_, row) =>
    map.columns.map((_, column) => map.at(row, column)).filter((cell) => cell !== undefined),
  );
}

function labelText(label: string): string {
  const characters = [...onOneLine(label)];
  return characters.length > longestLabel
    ? `${characters.slice(0, longestLabel - 1).join('')}…`
    : characters.join('');
}

/** Above the left edge of their columns, as many as do not meet. */
function columnLabels(columns: readonly string[]): string {
  let line = '';
  for (const [i, label] of columns.entries()) {
    const at = i * cellWidth;
    if (i === 0 || at > line.length) line = line.padEnd(at) + label;
  }
  return line;
}

function cellText(cell: HeatCell | undefined, scale: Scale | undefined, depth: number): string {
  if (cell === undefined) return '. ';
  if (cell.value === null || scale === undefined) return 'xx';
  const share = scale.most > scale.least ? (cell.value - scale.least) / (scale.most - scale.least) : 0;
  const mark = cell.failed > 0 ? 'x' : ' ';
  return depth < 8 ? `${digitOf(share)}${mark}` : painted(`${mark} `, share, depth);
}

function digitOf(share: number): number {
  return Math.min(9, Math.floor(10 * share));
}

function painted(text: string, share: number, depth: number): string {
  const ink = share < 0.5 ? 97 : 30;
  const ground = depth >= 24 ? `2;${colourOf(share).join(';')}` : `5;${codeOf(share)}`;
  return `\u001b[${ink};48;${ground}m${text}\u001b[0m`;
}

const legendSteps = 20;

function legend(map: HeatMap, scale: Scale | undefined, depth: number): string {
  const cells = cellsOf(map);
  const parts: string[] = [];
  if (scale === undefined) parts.push(`${map.value}: no values`);
  else if (scale.least === scale.most) parts.push(`${map.value}: ${numberText(scale.least)} everywhere`);
  else if (depth < 8) {
    parts.push(
      `${map.value}: 0 to 9 are ten equal steps from ${numberText(scale.least)} to ${numberText(scale.most)}`,
    );
  } else {
    const bar = Array.from({ length: legendSteps }, (_, i) =>
      painted(' ', i / (legendSteps - 1), depth),
    ).join('');
    parts.push(`${map.value}: ${numberText(scale.least)} ${bar} ${numberText(scale.most)}`);
  }
  if (cells.some(({ value, failed }) => value !== null && failed > 0)) parts.push('x: some failed');
  if (cells.some(({ value }) => value === null)) parts.push('xx: all failed');
  if (cells.length < map.rows.length * map.columns.length) parts.push('.: no cell');
  return parts.join('   ');
}
