/** The plot of means by layer: a line each, with a band as wide as its interval. */
import { areaY, axisX, axisY, dot, gridY, lineY, ruleY, text } from '@observablehq/plot';
import { below, draw, layerFormat, layerTicks, palette, WIDTH } from './drawing.js';
import type { Mean } from './means.js';

export interface ChartLine {
  readonly label: string;
  readonly control: string;
  /** One point without a layer: nothing was patched, and it is a line all the way. */
  readonly points: readonly (Mean & { readonly layer: number | null })[];
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

/** By control; lines of states that were captured are whole. */
const dashes: Readonly<Record<string, string>> = { random: '6 3', shuffled: '2 3', unpatched: '9 3 2 3' };

export function layerChart({ label, axis, value, lines, zero }: LayerChart): string {
  const layers = [
    ...new Set(
      lines.flatMap(({ points }) => points.map(({ layer }) => layer)).filter((layer) => layer !== null),
    ),
  ].sort((a, b) => a - b);
  const ends = [...new Set([layers[0] ?? 0, layers.at(-1) ?? 0])];
  const drawn = lines.map(({ points, control }, i) => ({
    stroke: palette[i % palette.length]!,
    strokeDasharray: dashes[control] ?? 'none',
    points: points.flatMap((point) =>
      point.layer === null ? ends.map((layer) => ({ ...point, layer })) : [{ ...point, layer: point.layer }],
    ),
  }));
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
      ...drawn.map(({ points, stroke }) =>
        areaY(points, { x: 'layer', y1: 'low', y2: 'high', fill: stroke, fillOpacity: 0.15 }),
      ),
      ...drawn.map(({ points, ...style }) =>
        lineY(points, { x: 'layer', y: 'mean', strokeWidth: 1.8, ...style }),
      ),
      // a line of one point would not be seen
      ...drawn
        .filter(({ points }) => points.length === 1)
        .map(({ points, stroke }) => dot(points, { x: 'layer', y: 'mean', fill: stroke })),
    ],
  });
  return below([chart, legend(lines, drawn)]);
}

function legend(lines: readonly ChartLine[], styles: readonly { stroke: string; strokeDasharray: string }[]) {
  const rows = lines.map((_, i) => i);
  return draw('legend', {
    ...{ width: WIDTH, height: 18 * lines.length + 4, margin: 0, marginTop: 2, axis: null },
    x: { domain: [0, WIDTH], range: [0, WIDTH] },
    y: { domain: rows, type: 'point', padding: 0.5 },
    marks: [
      ...rows.map((y) =>
        lineY(
          [56, 92].map((x) => ({ x, y })),
          { x: 'x', y: 'y', strokeWidth: 1.8, ...pick(styles[y]!) },
        ),
      ),
      text(lines, { x: 98, y: (_, i) => i, text: 'label', textAnchor: 'start', fontSize: 12 }),
    ],
  });
}

function pick({ stroke, strokeDasharray }: { stroke: string; strokeDasharray: string }) {
  return { stroke, strokeDasharray };
}
