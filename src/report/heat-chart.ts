/** The plot of one value at each pair of layers, or of a position and a layer. */

import { axisX, axisY, cell, rect, text } from '@observablehq/plot';
import { numberText } from '../store/format.js';
import { below, draw, layerFormat, layerTicks, WIDTH } from './drawing.js';

export interface HeatPoint extends HeatValue {
  readonly source_layer: number;
  readonly target_layer: number;
}

export interface HeatValue {
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

/** What lies along one side of a plot. */
export interface HeatAxis<Point> {
  readonly key: string & keyof Point;
  readonly label: string;
  readonly format: (value: number) => string;
  /** Room for what is written at the side, in pixels. */
  readonly margin?: number;
  /** Most of its values that are written. */
  readonly ticks?: number;
}

export function layerAxis<Key extends string>(key: Key): HeatAxis<Readonly<Record<Key, number>>> {
  return { key, label: key.replace('_', ' '), format: layerFormat };
}

const layerAxes = [layerAxis('target_layer'), layerAxis('source_layer')] as const;

/** @param range of the colours, the same in pictures that are compared. */
export function heatChart(
  label: string,
  points: readonly HeatPoint[],
  range: readonly [least: number, most: number],
): string {
  return heatChartOf(label, points, range, layerAxes);
}

export function heatChartOf<Point extends HeatValue>(
  label: string,
  points: readonly Point[],
  range: readonly [least: number, most: number],
  [across, down]: readonly [across: HeatAxis<Point>, down: HeatAxis<Point>],
): string {
  const [least, most] = range;
  const domain = least === most ? [least, least + 1] : [least, most];
  const [columns, rows] = [across, down].map(({ key }) => valuesOf(points, key)) as [number[], number[]];
  const { margin = 60 } = down;
  const size = Math.min(26, (WIDTH - margin - 30) / columns.length);
  const common = { x: across.key, y: down.key } as const;
  const told = (point: Point) => {
    const places = [down, across].map(({ key, label, format }) => `${label} ${format(Number(point[key]))}`);
    return `${places.join(', ')}: ${valueTold(point)}`;
  };
  const ticksOf = (
    { label, format: tickFormat, ticks = 30 }: HeatAxis<Point>,
    values: readonly number[],
  ) => ({
    ...{ label, tickFormat, ticks: layerTicks(values, ticks) },
  });
  const chart = draw(label, {
    ...{
      width: Math.max(180 + margin, margin + 30 + size * columns.length),
      height: 44 + size * rows.length,
    },
    ...{ marginLeft: margin, marginTop: 8, marginRight: 30, marginBottom: 36 },
    x: { type: 'band', domain: columns, padding: 0 },
    y: { type: 'band', domain: rows, padding: 0 },
    color: { type: 'linear', domain, scheme },
    marks: [
      axisX(ticksOf(across, columns)),
      axisY(ticksOf(down, rows)),
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
          fill: ({ value }: HeatValue) => (value === null ? 'currentColor' : '#d6409f'),
        },
      ),
    ],
  });
  return below([chart, colourScale(domain)]);
}

/** Of a cell, on hover. */
function valueTold({ value, cells, failed, ci_low, ci_high }: HeatValue): string {
  const interval = ci_low === null ? '' : ` [${numberText(ci_low)}, ${numberText(ci_high!)}]`;
  const mean =
    value === null ? (failed === cells ? 'all failed' : 'no value') : `${numberText(value)}${interval}`;
  const some = failed > 0 && value !== null ? `, ${failed} failed` : '';
  return `${mean}; ${cells} cells${some}`;
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

function valuesOf<Point>(points: readonly Point[], key: keyof Point): number[] {
  return [...new Set(points.map((point) => Number(point[key])))].sort((a, b) => a - b);
}
