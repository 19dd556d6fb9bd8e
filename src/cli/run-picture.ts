/** The value of a run at each pair of layers, or at each source position and layer, as heat maps. */
import {
  type GridCell,
  grouped,
  layerText,
  onOneLine,
  type PositionCell,
  type RunDetails,
} from '../index.js';
import { type Canvas, type HeatMap, heatMapText } from './heat-map.js';
import { placesOf } from './run-facts.js';

/** A map for each variant, of one that goes through several positions by position; where all targets lie at the layer of their source, a strip for each in one map. */
export function runPicture({ grid, positions, value }: RunDetails, canvas: Canvas): string {
  if (grid.length === 0) return 'No cells are stored yet.';
  const maps = [...grouped(positions, (cell) => `${cell.variant} ${placesOf(cell)}`)].map(
    ([title, cells]) => `${onOneLine(title)}\n${heatMapText(byPosition(cells, value), canvas)}`,
  );
  const swept = new Set(positions.map(({ variant }) => variant));
  const others = grid.filter(({ variant }) => !swept.has(variant));
  return [...maps, ...(others.length > 0 ? [layerPicture(others, value, canvas)] : [])].join('\n\n');
}

function layerPicture(grid: readonly GridCell[], value: string, canvas: Canvas): string {
  const isAlwaysSame = grid.every(({ sourceLayer, targetLayer }) => sourceLayer === targetLayer);
  const severalSites = new Set(grid.map(placesOf)).size > 1;
  const titleOf = (cell: GridCell) => (severalSites ? `${cell.variant} ${placesOf(cell)}` : cell.variant);
  const byTitle = [...grouped(grid, titleOf)].sort(([a], [b]) => a.localeCompare(b, 'en', { numeric: true }));
  if (isAlwaysSame) return heatMapText(strips(byTitle, value), canvas);
  return byTitle
    .map(([title, cells]) => {
      const map = heatMapText(layerByLayer(cells, value), canvas);
      return byTitle.length === 1 ? map : `${onOneLine(title)}\n${map}`;
    })
    .join('\n\n');
}

function byPosition(cells: readonly PositionCell[], value: string): HeatMap {
  const side = layersOf(cells, 'sourceLayer').length > 1 ? 'sourceLayer' : 'targetLayer';
  const columns = layersOf(cells, side);
  const tokens = new Map(cells.map(({ sourcePosition, sourceToken }) => [sourcePosition, sourceToken]));
  const rows = [...tokens.keys()].sort((a, b) => a - b);
  const found = grouped(cells, (cell) => `${cell.sourcePosition} ${cell[side]}`);
  return {
    ...{
      value,
      rowTitle: 'source position',
      columnTitle: side === 'sourceLayer' ? 'source layer' : 'target layer',
    },
    rows: rows.map((row) => `${row}${tokens.get(row) === null ? '' : ` ${JSON.stringify(tokens.get(row))}`}`),
    columns: columns.map(layerText),
    at: (row, column) => meanOf(found.get(`${rows[row]} ${columns[column]}`)),
  };
}

/** Over the layers of the other side. */
function meanOf(cells: readonly PositionCell[] | undefined) {
  if (cells === undefined) return undefined;
  const read = cells.filter((cell): cell is PositionCell & { value: number } => cell.value !== null);
  const weight = (cell: PositionCell) => cell.cells - cell.failed;
  const count = read.reduce((sum, cell) => sum + weight(cell), 0);
  return {
    value: count === 0 ? null : read.reduce((sum, cell) => sum + cell.value * weight(cell), 0) / count,
    failed: cells.reduce((sum, { failed }) => sum + failed, 0),
  };
}

function layerByLayer(cells: readonly GridCell[], value: string): HeatMap {
  const rows = layersOf(cells, 'sourceLayer');
  const columns = layersOf(cells, 'targetLayer');
  const at = finder(cells, ({ sourceLayer, targetLayer }) => `${sourceLayer} ${targetLayer}`);
  return {
    ...{ value, rowTitle: 'source layer', columnTitle: 'target layer' },
    rows: rows.map(layerText),
    columns: columns.map(layerText),
    at: (row, column) => at(`${rows[row]} ${columns[column]}`),
  };
}

function strips(byTitle: readonly (readonly [title: string, cells: GridCell[]])[], value: string): HeatMap {
  const columns = layersOf(
    byTitle.flatMap(([, cells]) => cells),
    'sourceLayer',
  );
  const rows = byTitle.map(([, cells]) => finder(cells, ({ sourceLayer }) => `${sourceLayer}`));
  return {
    ...{ value, rowTitle: 'variant', columnTitle: 'layer, the same of source and target' },
    rows: byTitle.map(([title]) => title),
    columns: columns.map(layerText),
    at: (row, column) => rows[row]!(`${columns[column]}`),
  };
}

function layersOf(cells: readonly GridCell[], side: 'sourceLayer' | 'targetLayer'): number[] {
  return [...new Set(cells.map((cell) => cell[side]))].sort((a, b) => a - b);
}

function finder(cells: readonly GridCell[], keyOf: (cell: GridCell) => string) {
  const found = new Map(cells.map((cell) => [keyOf(cell), cell]));
  return (key: string) => found.get(key);
}
