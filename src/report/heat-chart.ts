/** The plot of one value at each pair of layers. */

import { axisX, axisY, cell, rect, text } from '@observablehq/plot';
import { layerText, numberText } from '../store/format.js';
import { below, draw, layerFormat, layerTicks, WIDTH } from './drawing.js';

export interface HeatPoint {
  readonly source_layer: number;
  readonly target_layer: number;
  /** Null where all cells failed, or have no such metric. */
  readonly value: number | null;
  readonly cells: number;
  readonly failed: number;
  readonly ci_low: number | null;
  readonly ci_high: number | null;
}

/** Light is much; both ends are told apart by every kind of eye. */
const scheme = 'cividis';
const scaleSteps = 60;

/** @param range of the colours, the same in pictures that are compared. */
export function heatChart(
  label: string,
  points: readonly HeatPoint[],
  range: readonly [least: number, most: number],
): string {
  const [least, most] = range;
  const domain = least === most ? [least, least + 1] : [least, most];
  const sources = layersOf(points, 'source_layer');
  const targets = layersOf(points, 'target_layer');
  const size = Math.min(26, (WIDTH - 90) / targets.length);
  const common = { x: 'target_layer', y: 'source_layer' } as const;
  const chart = draw(label, {
    ...{ width: Math.max(240, 90 + size * targets.length), height: 44 + size * sources.length },
    ...{ marginLeft: 60, marginTop: 8, marginRight: 30, marginBottom: 36 },
    x: { type: 'band', domain: targets, padding: 0 },
    y: { type: 'band', domain: sources, padding: 0 },
    color: { type: 'linear', domain, scheme },
    marks: [
      axisX({ label: 'target layer', ticks: layerTicks(targets, 30), tickFormat: layerFormat }),
      axisY({ label: 'source layer', ticks: layerTicks(sources, 30), tickFormat: layerFormat }),
      cell(
        points.filter(({ value }) => value !== null),
        { ...common, fill: 'value', title: told, stroke: 'currentColor', strokeOpacity: 0.15 },
      ),
      cell(
        points.filter(({ value }) => value === null),
        {
          ...common,
          fill: 'none',
          stroke: 'currentColor',
          strokeOpacity: 0.4,
          pointerEvents: 'all',
          title: told,
        },
      ),
      text(
        points.filter(({ failed }) => failed > 0),
        {
          ...{ ...common, text: () => '×', fontSize: Math.min(14, size), pointerEvents: 'none' },
          fill: ({ value }: HeatPoint) => (value === null ? 'currentColor' : '#d6409f'),
        },
      ),
    ],
  });
  return below([chart, colourScale(domain)]);
}

/** Of a cell, on hover. */
function told({ source_layer, target_layer, value, cells, failed, ci_low, ci_high }: HeatPoint): string {
  const interval = ci_low === null ? '' : ` [${numberText(ci_low)}, ${numberText(ci_high!)}]`;
  const mean =
    value === null ? (failed === cells ? 'all failed' : 'no value') : `${numberText(value)}${interval}`;
  const some = failed > 0 && value !== null ? `, ${failed} failed` : '';
  return `source layer ${layerText(source_layer)}, target layer ${layerText(target_layer)}: ${mean}; ${cells} cells${some}`;
}

function colourScale([least, most]: readonly number[]) {
  const steps = Array.from({ length: scaleSteps }, (_, i) => least! + ((most! - least!) * i) / scaleSteps);
  const step = (most! - least!) / scaleSteps;
  return draw('colours', {
    ...{ width: 320, height: 40, marginLeft: 60, marginRight: 20, marginTop: 4, marginBottom: 22 },
    x: { domain: [least!, most!], label: null },
    y: { axis: null },
    color: { type: 'linear', domain: [least!, most!], scheme },
    marks: [
      rect(steps, { x1: (x) => x, x2: (x) => x + step, y1: 0, y2: 1, fill: (x) => x + step / 2 }),
      axisX({ ticks: 4, label: null }),
    ],
  });
}

function layersOf(points: readonly HeatPoint[], side: 'source_layer' | 'target_layer'): number[] {
  return [...new Set(points.map((point) => point[side]))].sort((a, b) => a - b);
}
