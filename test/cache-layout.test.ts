/** The layout of the cache that is chosen for work of the shapes that were measured, and how it depends on the shape. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { chooseCacheLayout, type WorkShape } from '../src/cache-layout.js';

const shape = (changes: Partial<WorkShape> = {}): WorkShape => ({
  prefixTokens: 20,
  rowTokens: 1,
  generatedTokens: 1,
  rows: 128,
  batchRows: 256,
  ...changes,
});

const measured: [what: string, changes: Partial<WorkShape>, chosen: string][] = [
  ['one token of 16 rows', { rows: 16 }, 'unified'],
  ['one token of 128 rows', {}, 'unified'],
  ['one token of 256 rows', { rows: 256 }, 'unified'],
  ['one token of 900 rows, 128 at once', { rows: 900, batchRows: 128 }, 'unified'],
  ['one token of 128 rows behind a long prefix', { prefixTokens: 250 }, 'unified'],
  ['5 tokens of 60 rows', { rows: 60, generatedTokens: 5 }, 'unified'],
  [
    '5 tokens of 60 rows behind a long prefix',
    { rows: 60, generatedTokens: 5, prefixTokens: 250 },
    'unified',
  ],
  ['20 tokens of one row', { rows: 1, generatedTokens: 20 }, 'unified'],
  ['20 tokens of 16 rows', { rows: 16, generatedTokens: 20 }, 'unified'],
  ['5 tokens of 128 rows', { generatedTokens: 5 }, 'unified'],
  ['20 tokens of 60 rows', { rows: 60, generatedTokens: 20 }, 'unified'],
  ['20 tokens of 128 rows', { generatedTokens: 20 }, 'streams'],
  ['20 tokens of 256 rows', { rows: 256, generatedTokens: 20 }, 'streams'],
  ['one token of 50 rows of 10 tokens each', { rows: 50, rowTokens: 10 }, 'unified'],
];

for (const [what, changes, chosen] of measured) {
  test(`${what}: ${chosen}`, () => assert.equal(chooseCacheLayout(shape(changes)), chosen));
}

test('rows that come in several batches are chosen for by what a batch holds', () => {
  const long = { rows: 4096, generatedTokens: 20 };
  assert.equal(chooseCacheLayout(shape({ ...long, batchRows: 8 })), 'unified');
  assert.equal(chooseCacheLayout(shape({ ...long, batchRows: 128 })), 'streams');
});

test('the more is generated, the more streams suit: once chosen, they stay so', () => {
  for (const rows of [1, 16, 60, 256]) {
    for (const prefixTokens of [0, 20, 100]) {
      let chosen = 'unified';
      for (let generatedTokens = 0; generatedTokens < 200 - prefixTokens; generatedTokens++) {
        const now = chooseCacheLayout(shape({ rows, prefixTokens, generatedTokens }));
        assert.ok(chosen === 'unified' || now === 'streams', `${rows} ${prefixTokens} ${generatedTokens}`);
        chosen = now;
      }
    }
  }
});
