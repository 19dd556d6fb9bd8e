/** The plot of means by group: a bar each, with its interval. */
import { axisX, axisY, barX, gridX, ruleX, ruleY, text } from '@observablehq/plot';
import { draw, type LineStyle } from './drawing.js';
import type { Mean } from './means.js';

export interface Bar extends Mean {
  readonly group: string;
  readonly label: string;
  /** What stands beside it. Default: the label. */
  readonly shown?: string;
  readonly style: LineStyle;
  readonly isControl: boolean;
}

export function barChart(
  label: string,
  value: string,
  bars: readonly Bar[],
  labels: readonly string[],
  mostMargin = 240,
): string {
  const groups = [...new Set(bars.map(({ group }) => group))];
  const data = [...bars];
  const margin = Math.min(mostMargin, 16 + 7 * Math.max(...groups.map(({ length }) => length)));
  return draw(label, {
    height: 60 + groups.length * (10 + 18 * labels.length),
    ...{ marginLeft: margin, marginRight: 230, marginTop: 8, marginBottom: 40 },
    x: { label: value, nice: true, zero: true },
    y: { domain: [...labels], axis: null, padding: 0.15 },
    fy: { domain: groups, label: null, padding: 0.12, axis: null },
    marks: [
      gridX(),
      axisX({ label: value, facetAnchor: 'bottom' }),
      axisY({ ticks: [], label: null }),
      barX(data, {
        ...{ x: 'mean', y: 'label', fy: 'group' },
        fill: ({ style }: Bar) => style.stroke,
        fillOpacity: ({ isControl }: Bar) => (isControl ? 0.45 : 0.85),
      }),
      ruleY(data, { x1: 'low', x2: 'high', y: 'label', fy: 'group', strokeWidth: 1.5 }),
      ruleX([0]),
      text(data, {
        ...{
          y: 'label',
          fy: 'group',
          text: ({ label, shown = label }: Bar) => shown,
          frameAnchor: 'right',
          textAnchor: 'start',
          dx: 8,
        },
        ...{ fontSize: 11, lineWidth: 19, textOverflow: 'ellipsis-middle' },
      }),
      text(groups, {
        ...{ fy: (group) => group, text: (group) => group, frameAnchor: 'left', textAnchor: 'end', dx: -10 },
        ...{
          fontSize: 12,
          fontWeight: 'bold',
          lineWidth: (mostMargin - 24) / 15,
          textOverflow: 'ellipsis-end',
        },
      }),
    ],
  }).svg;
}
