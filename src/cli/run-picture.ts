/** The value of a run at each pair of layers, as heat maps. */
import { type GridCell, grouped, layerText, onOneLine, type RunDetails } from '../index.js';
import { type Canvas, type HeatMap, heatMapText } from './heat-map.js';
import { placesOf } from './run-facts.js';

/** A map for each variant; where all targets lie at the layer of their source, a strip for each in one map. */
export function runPicture({ grid, value }: RunDetails, canvas: Canvas): string {
  if (grid.length === 0) return 'No cells are stored yet.';
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
