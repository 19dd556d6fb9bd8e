/**
 * A perceptually uniform scale of colours: a straight line in OKLab from a dark blue to a light yellow. Equal steps
 * of value look like equal steps, lightness only rises, and both ends are told apart by every kind of eye.
 */

export type Rgb = readonly [red: number, green: number, blue: number];
export type Lab = readonly [lightness: number, a: number, b: number];

const low: Rgb = [0, 32, 77];
const high: Rgb = [255, 234, 70];

/** @param share of the way from the lowest value to the highest, 0 to 1. */
export function colourOf(share: number): Rgb {
  const [from, to] = [toLab(low), toLab(high)];
  const at = (i: 0 | 1 | 2) => from[i] + share * (to[i] - from[i]);
  return fromLab([at(0), at(1), at(2)]);
}

export function toLab(colour: Rgb): Lab {
  const [r, g, b] = colour.map(linear) as [number, number, number];
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}

function fromLab([lightness, a, b]: Lab): Rgb {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    byte(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s),
    byte(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s),
    byte(-0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s),
  ];
}

function linear(byteOf: number): number {
  const share = byteOf / 255;
  return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
}

function byte(light: number): number {
  const share = light <= 0.0031308 ? 12.92 * light : 1.055 * light ** (1 / 2.4) - 0.055;
  return Math.round(255 * Math.min(1, Math.max(0, share)));
}

/** Of a terminal's 256 colours those that lie along the scale; others nearby stand out by their hue. */
const along: readonly (readonly [code: number, colour: Rgb])[] = [
  [17, [0, 0, 95]],
  ...Array.from({ length: 9 }, (_, i): [number, Rgb] => [235 + i, [38 + 10 * i, 38 + 10 * i, 38 + 10 * i]]),
  [101, [135, 135, 95]],
  [143, [175, 175, 95]],
  [185, [215, 215, 95]],
  [220, [255, 215, 0]],
];

/** Code of the colour nearest to `colourOf(share)` where a terminal has 256. */
export function codeOf(share: number): number {
  const wanted = toLab(colourOf(share));
  const distances = along.map(([, colour]) =>
    Math.hypot(...toLab(colour).map((value, i) => value - wanted[i]!)),
  );
  return along[distances.indexOf(Math.min(...distances))]![0];
}
