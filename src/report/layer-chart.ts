/** The plot of means by layer: a line each, with a band as wide as its interval. */
import { areaY, axisX, axisY, dot, gridY, lineY, ruleY, text } from '@observablehq/plot';
import { below, draw, type LineStyle, layerFormat, layerTicks, WIDTH } from './drawing.js';
import type { Mean } from './means.js';

type Interval = Pick<Mean, 'mean' | 'low' | 'high'>;

export interface ChartLine {
  readonly label: string;
  readonly style: LineStyle;
  /** One point without a layer: nothing was patched, and it is a line all the way. */
  readonly points: readonly (Interval & { readonly layer: number | null })[];
}

export interface LayerChart {
  /** What a person hears who can't see it. */
  readonly label: string;
  readonly axis: string;
  readonly value: string;
  readonly lines: readonly ChartLine[];
  /** Of differences: the line of no effect. */
  readonly zero: boolean;
}

export function layerChart({ label, axis, value, lines, zero }: LayerChart): string {
  const layers = [
    ...new Set(
      lines.flatMap(({ points }) => points.map(({ layer }) => layer)).filter((layer) => layer !== null),
    ),
  ].sort((a, b) => a - b);
  const ends = [...new Set([layers[0] ?? 0, layers.at(-1) ?? 0])];
  const drawn = lines.map(({ points, style }) => ({ style, points: onLayers(points, layers) }));
  const chart = draw(label, {
    height: 340,
    marginLeft: 56,
    x: { label: axis, domain: [ends[0]!, ends.at(-1)!] },
    y: { label: value, nice: true },
    marks: [
      gridY(),
      axisX({ ticks: layerTicks(layers, 24), tickFormat: layerFormat }),
      axisY(),
      ...(zero ? [ruleY([0])] : []),
      ...drawn.map(({ points, style }) =>
        areaY(points, { x: 'layer', y1: 'low', y2: 'high', fill: style.stroke, fillOpacity: 0.15 }),
      ),
      ...drawn.map(({ points, style }) =>
        lineY(points, { x: 'layer', y: 'mean', strokeWidth: 1.8, ...style }),
      ),
      // a line of one point would not be seen
      ...drawn.map(({ points, style }) => dot(points, { x: 'layer', y: 'mean', fill: style.stroke, r: 1.8 })),
    ],
  });
  return below([chart, legend(lines)]);
}

/** Where a layer has no value, a line has a gap. */
function onLayers(points: ChartLine['points'], layers: readonly number[]) {
  const [everywhere] = points.filter(({ layer }) => layer === null);
  const byLayer = new Map(points.map((point) => [point.layer, point]));
  return (layers.length === 0 ? [0] : layers).map((layer) => {
    const { mean, low, high } = byLayer.get(layer) ?? everywhere ?? nowhere;
    return { layer, mean, low, high };
  });
}

const nowhere = { mean: Number.NaN, low: Number.NaN, high: Number.NaN };

export function legend(lines: readonly Pick<ChartLine, 'label' | 'style'>[]) {
  return draw('legend', {
    ...{ width: WIDTH, height: 18 * lines.length + 4, margin: 0, marginTop: 2, axis: null },
    x: { domain: [0, WIDTH], range: [0, WIDTH] },
    y: { domain: lines.map((_, i) => i), type: 'point', padding: 0.5 },
    marks: [
      ...lines.map(({ style }, y) =>
        lineY(
          [56, 92].map((x) => ({ x, y })),
          { x: 'x', y: 'y', strokeWidth: 1.8, ...style },
        ),
      ),
      text(lines, {
        ...{ x: 98, y: (_, i) => i, text: 'label', textAnchor: 'start', fontSize: 12 },
        ...{ lineWidth: 46, textOverflow: 'ellipsis-middle' },
      }),
    ],
  });
}
