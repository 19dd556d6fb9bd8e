/** Lines over layers, a small plot for each group. */
import { axisX, axisY, dot, frame, gridY, lineY, text } from '@observablehq/plot';
import { below, draw, type LineStyle, layerFormat, layerTicks } from './drawing.js';
import { legend } from './layer-chart.js';

export interface SmallLine {
  readonly group: string;
  readonly label: string;
  readonly style: LineStyle;
  readonly points: readonly { readonly layer: number | null; readonly accuracy: number }[];
}

const COLUMNS = 4;
const HEIGHT = 130;

export function smallCharts(label: string, axis: string, lines: readonly SmallLine[]): string {
  const groups = [...new Set(lines.map(({ group }) => group))];
  const place = new Map(
    groups.map((group, i) => [group, { column: i % COLUMNS, row: Math.floor(i / COLUMNS) }]),
  );
  const layers = [
    ...new Set(
      lines.flatMap(({ points }) => points.map(({ layer }) => layer)).filter((layer) => layer !== null),
    ),
  ].sort((a, b) => a - b);
  const ends = [layers[0] ?? 0, layers.at(-1) ?? 0];
  const facets = { fx: 'column', fy: 'row' } as const;
  const at = ({ group, points }: SmallLine) =>
    points
      .flatMap(({ layer, accuracy }) =>
        layer === null ? [...new Set(ends)].map((end) => ({ layer: end, accuracy })) : [{ layer, accuracy }],
      )
      .map((point) => ({ ...point, ...place.get(group)! }));
  const columns = Math.min(COLUMNS, groups.length);
  const chart = draw(label, {
    height: 58 + HEIGHT * Math.ceil(groups.length / COLUMNS),
    ...{ marginLeft: 44, marginTop: 24, marginBottom: 34, marginRight: 8 },
    x: { domain: ends, label: axis },
    y: { domain: [0, 1], label: null },
    fx: { domain: Array.from({ length: columns }, (_, i) => i), axis: null, padding: 0.08 },
    fy: { axis: null, padding: 0.22 },
    marks: [
      gridY({ ticks: 4 }),
      frame({ strokeOpacity: 0.3 }),
      axisX({ ticks: layerTicks(layers, 24 / columns), tickFormat: layerFormat, label: axis }),
      axisY({ ticks: 4, tickFormat: '%', label: null }),
      ...lines.map((line) =>
        lineY(at(line), { ...facets, x: 'layer', y: 'accuracy', strokeWidth: 1.6, ...line.style }),
      ),
      // a line of one point would not be seen
      ...lines.map((line) =>
        dot(at(line), { ...facets, x: 'layer', y: 'accuracy', r: 1.2, fill: line.style.stroke }),
      ),
      text(
        groups.map((group) => ({ group, ...place.get(group)! })),
        {
          ...{ ...facets, text: 'group', frameAnchor: 'top-left', dy: -12, fontWeight: 'bold', fontSize: 11 },
          ...{ lineWidth: 15, textOverflow: 'ellipsis-end' },
        },
      ),
    ],
  });
  const labels = [...new Map(lines.map((line) => [line.label, line])).values()];
  return below([chart, legend(labels)]);
}
