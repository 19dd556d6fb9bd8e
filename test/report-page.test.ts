/** The report as a person has it before them: in a browser, in the dark, on paper, without a mouse. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { after, before, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { type Browser, type BrowserContextOptions, chromium, type Page } from 'playwright-core';
import { csvOf, renderReport } from '../src/report/report.js';
import { addControlled } from './report-records.js';
import { folder } from './support.js';

const executablePath = (process.env.PATH ?? '')
  .split(delimiter)
  .flatMap((place) => ['chromium', 'chromium-browser'].map((name) => join(place, name)))
  .find((file) => existsSync(file));
const skip =
  executablePath === undefined ? 'chromium is not on the PATH (Debian: apt-get install chromium)' : false;
if (skip) console.log(`report pages are not opened: ${skip}`);

const home = folder();
const db = join(home, 'r.db');
const file = join(home, 'page.html');
const attack =
  '</td><script>window.hacked = 1</script><img src="http://127.0.0.1:1/x" onerror="window.hacked = 1">';
let browser: Browser;
let csvs: Map<string, string>;

before(async () => {
  addControlled(
    db,
    {
      ...{ names: ['one', attack, 'three'], groups: ['x', attack, 'x'], variants: ['default', attack] },
      ...{ layers: ['embed', 0, 1, 2, 3], grid: true },
    },
    ({ sample, sourceLayer, targetLayer, control }) =>
      sample === 2 && sourceLayer === 1
        ? 'failed'
        : {
            text: attack,
            scores: {
              'answer-found': Number(control === 'none'),
              [attack]: Number(sourceLayer) + Number(targetLayer) || 0,
            },
          },
  );
  const { html, parts } = renderReport(db, ['1']);
  csvs = new Map(parts.map(({ name, data }) => [`${name}.csv`, csvOf(data)]));
  writeFileSync(file, html);
  if (executablePath !== undefined) browser = await chromium.launch({ executablePath });
});
after(() => browser?.close());

/** A page that asks the network for nothing, complains of nothing and runs nothing. */
async function opened(options: BrowserContextOptions, check: (page: Page) => Promise<void>): Promise<void> {
  const page = await browser.newPage({ viewport: { width: 1100, height: 800 }, ...options });
  const seen: string[] = [];
  const { href } = pathToFileURL(file);
  page.on('request', (request) => request.url() !== href && seen.push(`request ${request.url()}`));
  page.on('console', (message) => seen.push(`console ${message.text()}`));
  page.on('pageerror', (error) => seen.push(`error ${error.message}`));
  page.on('dialog', (dialog) => seen.push(`dialog ${dialog.message()}`));
  await page.goto(href);
  await check(page);
  assert.deepEqual(seen, []);
  assert.equal(await page.evaluate('window.hacked'), undefined);
  await page.close();
}

test('plots and tables are there, and a text is but a text', { skip }, () =>
  opened({}, async (page) => {
    const boxes = await page
      .locator('figure > svg')
      .evaluateAll((all) => all.map((svg) => svg.getBoundingClientRect().toJSON()));
    assert.ok(boxes.length >= 10, `${boxes.length} plots`);
    for (const { width, height } of boxes) assert.ok(width > 200 && height > 60, `${width} x ${height}`);
    for (const kind of ['curve', 'best', 'difference', 'layers', 'groups']) {
      const marks = page.locator(`figure[id^="${kind}-answer-found"]`).first().locator('svg :is(path, rect)');
      assert.ok((await marks.count()) > 3, kind);
    }
    assert.ok((await page.getByRole('cell', { name: attack, exact: true }).count()) > 0);
    assert.ok((await page.locator('td.failed').count()) > 0);
    assert.equal(await page.locator('script, img').count(), 0);
  }),
);

test('a cell of a heat map tells its numbers where the pointer rests', { skip }, () =>
  opened({}, async (page) => {
    const cell = page.locator('#layers-answer-found-1 rect:has(title)').nth(7);
    await cell.scrollIntoViewIfNeeded();
    const { x, y, width, height } = (await cell.boundingBox())!;
    assert.equal(
      await page.evaluate(
        ([left, top]) => document.elementFromPoint(left!, top!)!.querySelector('title')!.textContent,
        [x + width / 2, y + height / 2],
      ),
      await cell.locator('title').textContent(),
    );
  }),
);

test('a narrow window scrolls tables, not the page', { skip }, () =>
  opened({ viewport: { width: 380, height: 700 } }, async (page) => {
    assert.equal(await page.evaluate('document.documentElement.scrollWidth'), 380);
  }),
);

test('keys alone reach the contents, the data and the SQL', { skip }, () =>
  opened({}, async (page) => {
    await page.keyboard.press('Tab');
    assert.equal(await page.evaluate('document.activeElement.getAttribute("href")'), '#what-was-run');
    assert.notEqual(await page.evaluate('getComputedStyle(document.activeElement).outlineStyle'), 'none');
    const details = page.locator('#curve-answer-found details');
    for (const i of [0, 1]) {
      await details.nth(i).locator('summary').focus();
      await page.keyboard.press('Enter');
      assert.equal(await details.nth(i).getAttribute('open'), '');
    }
    assert.ok(await details.nth(0).getByRole('table').isVisible());
    assert.match((await details.nth(1).locator('pre').textContent())!, /SELECT/);
  }),
);

test('a link gives the data of its plot as CSV', { skip }, () =>
  opened({ acceptDownloads: true }, async (page) => {
    const waiting = page.waitForEvent('download');
    await page.locator('#curve-answer-found a[download]').press('Enter');
    const download = await waiting;
    assert.equal(download.suggestedFilename(), 'curve-answer-found.csv');
    assert.equal(readFileSync(await download.path(), 'utf8'), csvs.get('curve-answer-found.csv'));
  }),
);

test('ink stands out from the ground, in the light, in the dark and on paper', { skip }, async () => {
  for (const [colorScheme, media, dark] of [
    ['light', 'screen', false],
    ['dark', 'screen', true],
    ['dark', 'print', false],
  ] as const) {
    await opened({ colorScheme }, async (page) => {
      await page.emulateMedia({ media });
      const lightness = (selector: string, property: string) =>
        page.evaluate(
          ([at, name]) => {
            const colour = getComputedStyle(document.querySelector(at!)!).getPropertyValue(name!);
            return colour
              .match(/[\d.]+/g)!
              .slice(0, 3)
              .reduce((sum, part) => sum + Number(part) / 3, 0);
          },
          [selector, property],
        );
      const ground = await lightness('body', 'background-color');
      assert.equal(ground < 60, dark, `${colorScheme} ${media}: ${ground}`);
      for (const [selector, property] of [
        ['body', 'color'],
        ['figcaption', 'color'],
        ['figure > svg text', 'fill'],
        ['a', 'color'],
      ] as const) {
        const ink = await lightness(selector, property);
        assert.ok(Math.abs(ink - ground) > 90, `${colorScheme} ${media} ${selector}: ${ink} on ${ground}`);
      }
    });
  }
});
