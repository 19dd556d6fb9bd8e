/** Plots as SVG texts, drawn where there is no browser. */
import { type PlotOptions, plot } from '@observablehq/plot';
import { parseHTML } from 'linkedom';
import { layerText, onOneLine } from '../store/format.js';

export const WIDTH = 760;

/** Told apart by most eyes, on white and on black. */
export const palette = [
  ...[
    '#2f7fd1',
    '#e08214',
    '#1f9e77',
    '#d6409f',
    '#8f6fd8',
    '#a0761d',
    '#5a9bb8',
    '#c0392b',
    '#6f8f1f',
    '#7f7f7f',
  ],
];

/** By control; captured states are drawn whole. */
const dashes: Readonly<Record<string, string>> = { random: '6 3', shuffled: '2 3', unpatched: '9 3 2 3' };

const controls = ['none', 'random', 'shuffled', 'unpatched'];

export interface LineStyle {
  readonly stroke: string;
  readonly strokeDasharray: string;
}

/** Colours tell places apart, or controls in a picture of a single place. */
export function lineStyle(place: number, control: string, isSingle: boolean): LineStyle {
  const colour = isSingle ? controls.indexOf(control) : place;
  return { stroke: palette[colour % palette.length]!, strokeDasharray: dashes[control] ?? 'none' };
}

export interface Picture {
  readonly svg: string;
  readonly width: number;
  readonly height: number;
}

/** @param label what a person hears who can't see it. */
export function draw(label: string, options: PlotOptions): Picture {
  const { document } = parseHTML('<!doctype html><html></html>');
  const drawn = plot({
    ...{ document: document as unknown as Document, width: WIDTH, ariaLabel: onOneLine(label) },
    ...options,
  });
  drawn.setAttribute('role', 'img');
  // a picture that is a file of its own needs it too
  drawn.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
  const [width, height] = ['width', 'height'].map((name) => Number(drawn.getAttribute(name)));
  return { svg: drawn.outerHTML, width: width!, height: height! };
}

/** Layers that are labelled on an axis with room for so many. */
export function layerTicks(layers: readonly number[], room: number): number[] {
  const step = [1, 2, 5, 10, 20, 50].find((size) => layers.length / size <= room) ?? 100;
  return layers.filter((layer) => layer === -1 || layer % step === 0);
}

export const layerFormat = (layer: number) => layerText(layer);

/** Pictures below each other, as one. */
export function below(pictures: readonly Picture[]): string {
  const [first] = pictures;
  const width = Math.max(...pictures.map((picture) => picture.width));
  const label = /aria-label="([^"]*)"/.exec(first!.svg)?.[1] ?? '';
  let height = 0;
  const placed = pictures.map(({ svg, height: own }) => {
    const at = svg.replace(/^<svg /, `<svg y="${height}" `);
    height += own;
    return at;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" class="plots" role="img" aria-label="${label}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" fill="currentColor" font-family="system-ui, sans-serif">${placed.join('')}</svg>`;
}
