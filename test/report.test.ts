/** The report of runs: its numbers are those of the file, and whoever wrote the texts has no say on the page. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { parseHTML } from 'linkedom';
import { grouped } from '../src/group.js';
import type { Data } from '../src/report/data.js';
import type { Part } from '../src/report/part.js';
import { csvOf, renderReport } from '../src/report/report.js';
import { query } from '../src/store/query.js';
import { runDetails } from '../src/store/run-details.js';
import { addControlled, type Shape } from './report-records.js';
import { folder } from './store-records.js';
import { addRun, sweep } from './sweep-records.js';

const command = fileURLToPath(new URL('../dist/cli.js', import.meta.url));

function cli(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [command, ...args], {
    ...{ encoding: 'utf8', timeout: 60_000, killSignal: 'SIGKILL' },
  });
  return { code: status, stdout, stderr };
}

const names = ['a', 'b', 'c', 'd', 'e', 'f'];
const shape: Shape = {
  names,
  groups: ['x', 'x', 'y', 'y', 'y', 'y'],
  layers: ['embed', 0, 1, 2],
  grid: false,
};

/** Numbers of which no two are alike; one cell failed. */
function valued(place: {
  sample: number;
  sourceLayer: unknown;
  targetLayer: unknown;
  control: string;
  draw: number;
}) {
  const { sample, sourceLayer, targetLayer, control, draw } = place;
  if (sample === 2 && sourceLayer === 1 && control === 'none') return 'failed';
  const layer = sourceLayer === 'embed' ? -1 : Number(sourceLayer ?? 7);
  const other = targetLayer === 'embed' ? -1 : Number(targetLayer ?? 7);
  const gain = control === 'none' ? 3 : draw;
  return {
    scores: {
      surprisal: gain + Math.sin(31 * sample + 7 * layer + other),
      'answer-found': ((sample + layer + gain) % 2) & 1,
    },
  };
}

const file = (t: TestContext) => join(folder(t), 'r.db');
const partOf = (parts: readonly Part[], name: string) => parts.find((part) => part.name === name)!;
const objects = ({ columns, rows }: Pick<Data, 'columns' | 'rows'>) =>
  rows.map(
    (row) => Object.fromEntries(columns.map((column, i) => [column, row[i]])) as Record<string, number>,
  );

function assertNear(actual: number, expected: number, where: string) {
  assert.ok(Math.abs(actual - expected) < 1e-9, `${where}: ${actual}, not ${expected}`);
}

test('where a layer has one target, its curve is the means and intervals that the file has', (t) => {
  const path = file(t);
  addControlled(path, shape, valued);
  const { parts } = renderReport(path, ['1']);
  for (const metric of ['surprisal', 'answer-found']) {
    const points = objects(partOf(parts, `curve-${metric}`).data);
    const stored = objects(
      query(
        path,
        `SELECT control, source_layer, value, n, ci_low, ci_high FROM layer_grid WHERE name = '${metric}'`,
      ),
    );
    assert.equal(stored.length, 13);
    assert.equal(points.length, stored.length);
    for (const { control, source_layer, value, n, ci_low, ci_high } of stored) {
      const where = `${metric} ${control} ${source_layer}`;
      const point = points.find((one) => one.control === control && one.source_layer === source_layer)!;
      assert.equal(point.cells, n, where);
      assertNear(point.mean!, value!, where);
      assertNear(point.ci_low!, ci_low!, where);
      assertNear(point.ci_high!, ci_high!, where);
    }
  }
});

test('over a grid, curves are means over all targets, or the best of them in each draw', (t) => {
  const path = file(t);
  addControlled(path, { ...shape, grid: true }, valued);
  const { parts } = renderReport(path, ['1']);
  const stored = objects(
    query(path, "SELECT control, source_layer, value, n FROM metric_by_layer WHERE name = 'surprisal'"),
  );
  const points = objects(partOf(parts, 'curve-surprisal').data);
  assert.equal(points.length, stored.length);
  for (const { control, source_layer, value, n } of stored) {
    const point = points.find((one) => one.control === control && one.source_layer === source_layer)!;
    assert.equal(point.cells, n);
    assertNear(point.mean!, value!, `${control} ${source_layer}`);
  }
  const cells = objects(
    query(
      path,
      "SELECT *, score.value AS value FROM observation JOIN score ON score.observation_id = id AND name = 'surprisal'",
    ),
  ) as unknown as {
    sample_idx: number;
    control: string;
    draw: number;
    source_layer: number;
    value: number;
  }[];
  for (const { control, source_layer, mean } of objects(partOf(parts, 'best-surprisal').data)) {
    const own = cells.filter(
      (cell) => `${cell.control}` === `${control}` && cell.source_layer === source_layer,
    );
    const least = [...grouped(own, ({ sample_idx, draw }) => `${sample_idx} ${draw}`).values()].map((some) =>
      Math.min(...some.map(({ value }) => value)),
    );
    assertNear(mean!, least.reduce((a, b) => a + b) / least.length, `${control} ${source_layer}`);
  }
});

test('a difference pairs each cell with the control at its own sample and layers', (t) => {
  const path = file(t);
  addControlled(path, { ...shape, grid: true }, valued);
  const { parts } = renderReport(path, ['1']);
  const cells = objects(
    query(
      path,
      "SELECT *, score.value AS value FROM observation JOIN score ON score.observation_id = id AND name = 'surprisal'",
    ),
  ) as unknown as {
    sample_idx: number;
    control: string;
    source_layer: number | null;
    target_layer: number;
    value: number;
  }[];
  const differences = objects(partOf(parts, 'difference-surprisal').data);
  assert.equal(differences.length, 12);
  for (const { control, source_layer, mean, cells: count, samples, ci_low, ci_high } of differences) {
    const pairs = cells
      .filter((cell) => cell.control === 'none' && cell.source_layer === source_layer)
      .map((cell) => {
        const others = cells.filter(
          (other) =>
            other.control === `${control}` &&
            other.sample_idx === cell.sample_idx &&
            (other.source_layer === null ||
              (other.source_layer === cell.source_layer && other.target_layer === cell.target_layer)),
        );
        assert.equal(others.length, `${control}` === 'random' ? 2 : 1);
        return cell.value - others.reduce((sum, { value }) => sum + value, 0) / others.length;
      });
    assert.equal(pairs.length, source_layer === 1 ? 20 : 24, 'the failed cells have no pair');
    assert.deepEqual([count, samples], [pairs.length, source_layer === 1 ? 5 : 6]);
    assertNear(mean!, pairs.reduce((a, b) => a + b) / pairs.length, `${control} ${source_layer}`);
    assert.ok(ci_low! <= mean! && mean! <= ci_high!);
  }
  // the same number in every pair has an interval without width
  for (const { control, mean, ci_low, ci_high } of differences.filter(
    (row) => `${row.control}` === 'shuffled',
  )) {
    for (const value of [mean!, ci_low!, ci_high!]) assertNear(value, 3, `${control}`);
  }
});

test('a heat map has the means of its cells, and names them where a pointer rests', (t) => {
  const path = file(t);
  addRun(path, sweep);
  const { parts } = renderReport(path, ['1']);
  sweep.variants.forEach((variant, i) => {
    const { svg, data } = partOf(parts, `layers-answer-logprob-${i + 1}`);
    const { grid } = runDetails(path, { run: '1', value: 'answer-logprob', variant });
    const rows = objects(data);
    assert.deepEqual(
      rows.map((row) => [row.source_layer, row.target_layer, row.value, row.cells, row.failed]),
      grid.map((cell) => [cell.sourceLayer, cell.targetLayer, cell.value, cell.cells, cell.failed]),
    );
    const { document } = parseHTML(svg!);
    const titles = [...document.querySelectorAll('rect title')].map(({ textContent }) => textContent!);
    assert.equal(titles.length, 25);
    assert.ok(
      titles.some((title) => /^source layer embed, target layer 2: -?[\d.]+ \[.*\]; 5 cells/.test(title)),
      titles[3],
    );
    assert.equal(
      titles.filter((title) => title.includes('1 failed')).length,
      rows.filter(({ failed }) => failed! === 1).length,
    );
  });
});

test('a run without a metric has no map of it, and a line has no point where all cells failed', (t) => {
  const path = file(t);
  addControlled(path, { ...shape, grid: true }, valued);
  addControlled(path, { ...shape, grid: true }, (place) =>
    place.sourceLayer === 1 && place.control === 'none' ? 'failed' : { scores: { other: place.sample } },
  );
  const { parts } = renderReport(path, ['1', '2']);
  const maps = parts.filter(({ name }) => name.startsWith('layers-'));
  assert.deepEqual(
    maps.map(({ title }) => title),
    [
      'answer-found by source and target layer: run 1 controlled',
      'other by source and target layer: run 2 controlled',
      'surprisal by source and target layer: run 1 controlled',
    ],
  );
  const [, other] = maps;
  assert.equal(other!.svg!.match(/all failed; 6 cells/g)!.length, 4);
  const path2 = /aria-label="line">.*?<path d="([^"]*)"/s.exec(partOf(parts, 'curve-other').svg!)![1]!;
  assert.equal(path2.match(/M/g)!.length, 2, path2);
});

test('groups have the means of their samples', (t) => {
  const path = file(t);
  addControlled(path, { ...shape, grid: true }, valued);
  const bars = objects(partOf(renderReport(path, ['1']).parts, 'groups-surprisal').data);
  const stored = objects(
    query(
      path,
      `SELECT "group", control, sum(value * n) / sum(n) AS mean, sum(n) AS n FROM metric WHERE name = 'surprisal' AND "group" <> '' GROUP BY "group", control`,
    ),
  );
  assert.equal(bars.length, 8);
  for (const { group, control, mean, n } of stored) {
    const bar = bars.find((one) => one.group === group && one.control === control)!;
    assert.equal(bar.cells, n);
    assertNear(bar.mean!, mean!, `${group} ${control}`);
  }
});

test('groups have a line each where layers do not cross', (t) => {
  const path = file(t);
  addControlled(path, shape, valued);
  const { svg, data } = partOf(renderReport(path, ['1']).parts, 'group-curve-surprisal');
  const points = objects(data);
  const cells = objects(
    query(
      path,
      `SELECT "group", control, source_layer AS layer, avg(score.value) AS mean, count(*) AS n
      FROM reading JOIN score USING (observation_id)
      WHERE score.name = 'surprisal' AND control IN ('none', 'shuffled') GROUP BY 1, 2, 3`,
    ),
  );
  assert.ok(cells.length > 8 && points.length === cells.length, `${points.length} ${cells.length}`);
  for (const { group, control, layer, mean, n } of cells) {
    const point = points.find(
      (one) => one.group === group && one.control === control && one.layer === layer,
    )!;
    assert.equal(point.cells, n);
    assertNear(point.mean!, mean!, `${group} ${control} ${layer}`);
  }
  for (const label of ['x', 'y', 'x, shuffled', 'y, shuffled']) assert.ok(svg!.includes(`>${label}<`), label);
  addControlled(path, { ...shape, grid: true }, valued);
  assert.equal(partOf(renderReport(path, ['2']).parts, 'group-curve-surprisal'), undefined);
});

test('failure signatures are counted', (t) => {
  const path = file(t);
  const texts = ['', ' \n', 'fine words', 'a\u0001b', 'x\ufffd', 'anyway'];
  addControlled(path, { ...shape, layers: [0], groups: undefined as never }, ({ sample, control, draw }) => {
    if (control === 'shuffled') return 'failed';
    if (control === 'unpatched') return { text: 'anyway', tokenIds: [1, 2, 3, 4] };
    const tokenIds = draw === 1 ? [5, 6, 5, 6] : [5, 6, 7, 6];
    return { text: texts[sample]!, tokenIds: control === 'random' ? tokenIds : [5, 5, 5] };
  });
  const { parts } = renderReport(path, ['1']);
  assert.deepEqual(partOf(parts, 'failed-cells').data.rows, [
    [1, 'default', 'shuffled', 'not_finite', 6, 0, 0, 'not_finite: a logit is NaN'],
  ]);
  const none = [null, null, null];
  assert.deepEqual(partOf(parts, 'signs-of-failure').data.rows, [
    [1, 'default', 'identity', 'none', 6, 0, 0, 2, 6, 2, 6, 0, 1, ...none],
    [1, 'default', 'identity', 'random', 12, 0, 0, 4, 0, 4, 8, null, 2, ...none],
    [1, 'default', 'identity', 'shuffled', 6, 6, 6, null, ...none, null, null, ...none],
    [1, 'default', 'identity', 'unpatched', 6, 0, 0, 0, 0, 0, 0, null, null, ...none],
  ]);
  const causes = objects(partOf(parts, 'causes').data);
  assert.deepEqual(
    causes.map(({ sign, cells }) => [sign, cells]),
    [
      ['all', 6],
      ['meaningless', 6],
      ['contaminated', 1],
    ],
  );
  const { document } = parseHTML(partOf(parts, 'texts-1').html!);
  assert.equal(document.querySelector('td.failed')!.textContent, 'failed: not_finite: a logit is NaN');
});

test('the SQL of each part runs in the results file as it stands, and tables are its rows', (t) => {
  const path = file(t);
  addRun(path, { ...sweep, variants: ["it's", 'b'] });
  addControlled(path, { ...shape, grid: true, changes: { name: "o'clock" } }, valued);
  const { parts } = renderReport(path, ['1', '2']);
  for (const { name, data } of parts) {
    const asked = query(path, data.sql);
    if (data.sql.startsWith('--')) assert.ok(asked.rows.length >= data.rows.length, name);
    else assert.deepEqual([asked.columns, asked.rows], [data.columns, data.rows], name);
  }
});

const hostile = [
  '</script><script>window.hacked = 1</script>',
  '"><img src=x onerror="window.hacked = 1">',
  "' onmouseover='window.hacked = 1",
  '</title></svg><svg onload="window.hacked = 1">',
  ']]><iframe src="//example.org">\u0000\u001b[2J\u202e',
  '&lt;b&gt; <b>bold</b>',
];

test('whatever models and people wrote stands on the page as text', (t) => {
  const path = file(t);
  addControlled(
    path,
    {
      ...{ names: hostile, groups: hostile, variants: hostile, layers: [0, 1], grid: true },
      changes: { name: hostile[0]!, command: hostile[1]!, host: hostile[2]! },
    },
    ({ sample, control }) =>
      control === 'shuffled'
        ? {
            status: 'failed',
            error: `x: ${hostile[sample]}`,
            text: null,
            tokenIds: [],
            steps: [],
            scores: {},
          }
        : { text: hostile[(sample + 1) % hostile.length]!, scores: { [hostile[3]!]: sample } },
  );
  const { html, parts } = renderReport(path, ['1']);
  const { document } = parseHTML(html);
  assert.equal(document.querySelectorAll('script, img, iframe, b, object, link').length, 0);
  for (const element of document.querySelectorAll('*')) {
    for (const { name, value } of element.attributes) {
      assert.doesNotMatch(name, /^on/);
      if (['href', 'src'].includes(name)) assert.match(value, /^(#|data:text\/csv;charset=utf-8,)/);
    }
  }
  const cells = [...document.querySelectorAll('td')].map(({ textContent }) => textContent!);
  for (const text of hostile.slice(0, 4)) assert.ok(cells.includes(text), text);
  for (const { svg } of parts) {
    if (svg === undefined) continue;
    const drawn = parseHTML(svg).document;
    assert.equal(drawn.querySelectorAll('script, img, iframe, b').length, 0);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: XML has none of them
    assert.doesNotMatch(svg, /[\u0000-\u0008\u000b-\u001f]/);
  }
});

test('the page holds the data and the pictures that the folders get', (t) => {
  const home = folder(t);
  const path = join(home, 'r.db');
  addControlled(path, { ...shape, grid: true }, valued);
  addRun(path, sweep);
  addRun(path, { ...sweep, name: 'third' }, { chunks: 2 });
  const [page, svg, csv] = ['page.html', 'deep/svg', 'csv'].map((name) => join(home, name)) as [
    string,
    string,
    string,
  ];
  const ended = cli(
    'report',
    'controlled',
    '--compare',
    'sweep',
    '3',
    '-o',
    page,
    '--svg',
    svg,
    '--csv',
    csv,
    '--db',
    path,
  );
  assert.equal(ended.code, 0, ended.stderr);
  const html = readFileSync(page, 'utf8');
  const { document } = parseHTML(html);
  assert.equal(document.title, 'run 1 controlled, run 2 sweep, run 3 third');
  assert.match(document.querySelector('[role="note"]')!.textContent!, /^Run 3 is not whole: 14 of 260 cells/);
  const links = [...document.querySelectorAll('a[download]')].map((link) => [
    link.getAttribute('download')!,
    decodeURIComponent(link.getAttribute('href')!.replace('data:text/csv;charset=utf-8,', '')),
  ]);
  assert.deepEqual(new Map(links.map(([name, text]) => [name, text])).size, readdirSync(csv).length);
  for (const [name, text] of links) assert.equal(readFileSync(join(csv, name!), 'utf8'), text);
  const pictures = readdirSync(svg);
  assert.equal(pictures.length, document.querySelectorAll('figure > svg').length);
  for (const name of pictures) assert.ok(html.includes(readFileSync(join(svg, name), 'utf8')), name);
  for (const picture of document.querySelectorAll('figure > svg')) {
    assert.equal(picture.getAttribute('role'), 'img');
    assert.ok(picture.getAttribute('aria-label')!.length > 40);
  }
  for (const link of document.querySelectorAll('nav a')) {
    assert.ok(document.getElementById(link.getAttribute('href')!.slice(1)), link.outerHTML);
  }
  assert.equal(csvOf(renderReport(path, ['3']).parts[0]!.data).split('\r\n').length, 3);
});

test('what can not be written is refused in a sentence, and nothing is left', (t) => {
  const home = folder(t);
  const path = join(home, 'r.db');
  addRun(path, sweep);
  const page = join(home, 'page.html');
  const taken = join(home, 'taken');
  mkdirSync(taken);
  writeFileSync(join(taken, 'numbers.csv'), 'mine');
  const refused: [string[], RegExp][] = [
    [['report', '--db', path], /--output must be given/],
    [['report', '-o', path, '--db', path], /exists: remove it, or name another/],
    [['report', 'none', '-o', page, '--db', path], /There is no run none/],
    [['report', '1', '--compare', '1', '7', '-o', page, '--db', path], /There is no run 7/],
    [['report', '-o', page, '--db', join(home, 'no.db')], /There is no results file/],
    [
      ['report', '-o', page, '--csv', taken, '--db', path],
      /numbers\.csv exists: remove it, or name another folder/,
    ],
    [['report', '-o', page, '--svg', path, '--db', path], /The folder .* can't be made/],
    [['report', '-o', join(home, 'no', 'page.html'), '--db', path], /can't be written \(ENOENT\)/],
  ];
  for (const [words, sentence] of refused) {
    const { code, stdout, stderr } = cli(...words);
    assert.deepEqual([code, stdout], [2, ''], stderr);
    assert.match(stderr, /^patchscopes: [^\n]+\n$/);
    assert.match(stderr, sentence);
    assert.ok(!existsSync(page));
  }
  assert.deepEqual(readdirSync(taken), ['numbers.csv']);
});
