/** Pictures in the terminal: what is seen is what the numbers are. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { codeOf, colourOf, toLab } from '../src/cli/colour-scale.js';
import { type HeatCell, type HeatMap, heatMapText } from '../src/cli/heat-map.js';

const wide = Number.POSITIVE_INFINITY;

/** Values that grow by rows and columns; some cells failed, some are not there. */
function map(rows: number, columns: number, at: HeatMap['at'] = valueAt(columns)): HeatMap {
  const labels = (count: number) => Array.from({ length: count }, (_, i) => `${i}`);
  return {
    ...{ value: 'p', rowTitle: 'source layer', columnTitle: 'target layer' },
    ...{ rows: labels(rows), columns: labels(columns), at },
  };
}

function valueAt(columns: number) {
  return (row: number, column: number): HeatCell | undefined => {
    const cell = row * columns + column;
    if (cell % 13 === 12) return undefined;
    if (cell % 13 === 6) return { value: null, failed: 4 };
    return { value: cell, failed: cell % 13 === 3 ? 1 : 0 };
  };
}

/** The cells of each row as pairs of signs, where the map is drawn without colours. */
function pairs(text: string): Map<string, string[]> {
  const rows = new Map<string, string[]>();
  for (const [, label, cells] of text.matchAll(/^ *(\d+) {2}((?:[0-9x.][ x]?)+)$/gm)) {
    rows.set(label!, [
      ...(rows.get(label!) ?? []),
      ...cells!.match(/.{1,2}/g)!.map((pair) => pair.padEnd(2)),
    ]);
  }
  return rows;
}

test('digits are ten equal steps from the least to the most, and marks say what failed', () => {
  const [rows, columns] = [6, 9];
  const drawn = pairs(heatMapText(map(rows, columns), { depth: 1, width: wide }));
  const last = rows * columns - 1;
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const cell = valueAt(columns)(row, column);
      const expected =
        cell === undefined
          ? '. '
          : cell.value === null
            ? 'xx'
            : `${Math.min(9, Math.floor((10 * cell.value) / last))}${cell.failed > 0 ? 'x' : ' '}`;
      assert.equal(drawn.get(`${row}`)![column], expected, `${row} ${column}`);
    }
  }
});

test('a map is cut where the terminal ends, and nothing is lost', () => {
  const [rows, columns] = [4, 47];
  const whole = pairs(heatMapText(map(rows, columns), { depth: 1, width: wide }));
  for (const width of [30, 40, 61, 80, 109, 110, 300]) {
    const text = heatMapText(map(rows, columns), { depth: 1, width });
    assert.deepEqual(pairs(text), whole, `${width}`);
    const grid = text.split('\n').slice(0, -1);
    assert.ok(Math.max(...grid.map(({ length }) => length)) <= width, `${width}`);
  }
  assert.doesNotThrow(() => heatMapText(map(rows, columns), { depth: 1, width: 1 }));
});

test('a label of a column stands over its column', () => {
  const lines = heatMapText(map(2, 130), { depth: 1, width: wide }).split('\n');
  const labels = lines[1]!;
  const margin = lines[2]!.indexOf('0  ') + 3;
  for (const found of labels.slice(margin).matchAll(/\d+/g)) assert.equal(found.index, 2 * Number(found[0]));
  assert.match(labels, / 100 /);
});

test('colours say what digits say', () => {
  for (const depth of [8, 24]) {
    const text = heatMapText(
      map(3, 4, (row, column) => ({ value: row * 4 + column, failed: column === 2 ? 1 : 0 })),
      { depth, width: wide },
    );
    const cells = [...text.matchAll(/\[\d+;48;([\d;]+)m([x ] )/g)].map(([, code, sign]) => [code, sign]);
    assert.deepEqual(
      cells,
      Array.from({ length: 12 }, (_, i) => [
        depth === 24 ? `2;${colourOf(i / 11).join(';')}` : `5;${codeOf(i / 11)}`,
        i % 4 === 2 ? 'x ' : '  ',
      ]),
    );
  }
});

test('the legend names the ends and the marks that are there, and no others', () => {
  const legend = (at: HeatMap['at']) =>
    heatMapText(map(1, 2, at), { depth: 4, width: wide })
      .split('\n')
      .at(-1);
  assert.equal(
    legend((_, column) => ({ value: column / 3, failed: 0 })),
    'p: 0 to 9 are ten equal steps from 0 to 0.333',
  );
  assert.equal(
    legend(() => ({ value: 0.25, failed: 1 })),
    'p: 0.25 everywhere   x: some failed',
  );
  assert.equal(
    legend(() => ({ value: null, failed: 1 })),
    'p: no values   xx: all failed',
  );
  assert.equal(
    legend((_, column) => (column === 0 ? undefined : { value: 1, failed: 0 })),
    'p: 1 everywhere   .: no cell',
  );
});

test('what steers a terminal does not reach it by a label', () => {
  const odd = { ...map(1, 1, () => ({ value: 1, failed: 0 })), rows: [`\u001b[2J${'wide '.repeat(20)}`] };
  const [, , row] = heatMapText(odd, { depth: 1, width: wide }).split('\n');
  assert.match(row!, /^\\u001b\[2J/);
  assert.ok(row!.length < 50);
});

test('equal steps of value look equal, and lightness only rises', () => {
  const steps = 20;
  const labs = Array.from({ length: steps + 1 }, (_, i) => toLab(colourOf(i / steps)));
  const distances = labs.slice(1).map((lab, i) => Math.hypot(...lab.map((value, j) => value - labs[i]![j]!)));
  const mean = distances.reduce((sum, distance) => sum + distance) / steps;
  for (const distance of distances) assert.ok(Math.abs(distance / mean - 1) < 0.1, `${distance} of ${mean}`);
  for (let i = 1; i <= steps; i++) assert.ok(labs[i]![0] > labs[i - 1]![0] + 0.02);
  assert.deepEqual(
    [colourOf(0), colourOf(1)],
    [
      [0, 32, 77],
      [255, 234, 70],
    ],
  );
});

test('of 256 colours the scale takes a dozen or more, each once and none twice on its way', () => {
  const codes = Array.from({ length: 1001 }, (_, i) => codeOf(i / 1000));
  const runs = codes.filter((code, i) => code !== codes[i - 1]);
  assert.equal(new Set(runs).size, runs.length);
  assert.ok(runs.length >= 12, `${runs}`);
});
