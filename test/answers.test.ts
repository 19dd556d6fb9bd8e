/** Whether a generated text holds an answer, is like one, or says nothing. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { measure } from '../src/metrics.js';
import { metricNames } from '../src/patchscope.js';
import { cropDescription } from '../src/statistics/crop-description.js';
import { failureSigns } from '../src/statistics/failure-signs.js';
import { rouge1, rougeL } from '../src/statistics/rouge.js';

const { rouge }: { readonly rouge: [reference: string, text: string, one: number, l: number][] } = JSON.parse(
  readFileSync(new URL('reference/statistics.json', import.meta.url), 'utf8'),
);

test('ROUGE is what rouge_score says', () => {
  for (const [reference, text, one, l] of rouge) {
    const what = JSON.stringify([reference, text]);
    assert.ok(
      Math.abs(rouge1(reference, text) - one) < 1e-15,
      `${what}: ${rouge1(reference, text)}, not ${one}`,
    );
    assert.ok(Math.abs(rougeL(reference, text) - l) < 1e-15, `${what}: ${rougeL(reference, text)}, not ${l}`);
  }
});

function scores(text: string, answer: string[], tokenIds: number[] = [], answerIds: number[] = []) {
  return measure(metricNames, { text, tokenIds, steps: [] }, { answer, tokenIds: answerIds, own: [] });
}

test('an answer as a word is in the text as it is written, and in no longer word', () => {
  const cases: [text: string, answer: string, word: 0 | 1][] = [
    [' Paris, of course', 'Paris', 1],
    ['Parisian', 'Paris', 0],
    ['a Parisian in Paris', ' Paris', 1],
    ['NotParis', 'Paris', 0],
    ['paris', 'Paris', 0],
    ['NewYork', 'New York', 0],
    ['in New York.', 'New York', 1],
    ['cafés', 'café', 0],
    ['cafe\u0301', 'cafe', 0],
    ['Zürich', 'Z', 0],
    ['5$', '$', 1],
    ['C++ code', 'C++', 1],
    ['C.A', 'C+A', 0],
    ['42', '4', 0],
    ['𝒳Paris', 'Paris', 0],
    ['東京は', '東京', 0],
    ['', 'Paris', 0],
  ];
  for (const [text, answer, word] of cases) {
    const found = scores(text, [answer]);
    assert.equal(found['answer-word'], word, `${text} / ${answer}`);
    if (word === 1) assert.equal(found['answer-found'], 1, 'the rule of the paper is the weaker one');
  }
  assert.equal(scores('NewYork', ['New York'])['answer-found'], 1);
  assert.equal(scores('the city of light', ['Paris', 'light'])['answer-word'], 1);
});

test('the first token is right where it begins an answer', () => {
  assert.equal(scores('x', ['a'], [7, 8], [3, 7])['answer-first-token'], 1);
  assert.equal(scores('x', ['a'], [8, 7], [3, 7])['answer-first-token'], 0);
  assert.equal(scores('', ['a'], [], [3, 7])['answer-first-token'], 0);
});

test('ROUGE of a cell is against the first answer, and there is none without', () => {
  const found = scores('country in the East', ['Country in the Middle East', 'country in the East']);
  assert.equal(found['rouge-1'], rouge1('Country in the Middle East', 'country in the East'));
  assert.equal(found['rouge-l'], rougeL('Country in the Middle East', 'country in the East'));
  assert.ok(!('rouge-1' in scores('a text', [])));
});

test('a description ends where another one begins', () => {
  const cases: [string, string][] = [
    [': Country in the Middle East, Leonardo DiCaprio: American actor', ': Country in the Middle East'],
    [': British princess, born in 1961\nDiana: x', ': British princess, born in 1961'],
    [': actor, singer, and author', ': actor, singer, and author'],
    [': actor, note: famous', ': actor, note: famous'],
    [': band,3M: company', ': band'],
    ['', ''],
  ];
  for (const [text, cropped] of cases) assert.equal(cropDescription(text), cropped);
});

test('a reading that says nothing is empty, repetitive or unprintable', () => {
  const signs = (text: string, tokenIds: number[] = [1, 2, 3]) =>
    Object.entries(failureSigns(text, tokenIds)).flatMap(([name, value]) => (value ? [name] : []));
  assert.deepEqual(signs(' a country in the East\n'), []);
  assert.deepEqual(signs(' \n\t'), ['empty']);
  assert.deepEqual(signs('a\ufffdb'), ['unprintable']);
  assert.deepEqual(signs('a\u0007'), ['unprintable']);
  assert.deepEqual(signs('a\ud800'), ['unprintable']);
  assert.deepEqual(signs('naïve 東京 👍\ta\r\n'), []);
  const repetitive: [number[], boolean][] = [
    [[], false],
    [[5], false],
    [[5, 5], false],
    [[5, 5, 5], true],
    [[1, 2, 3, 5, 5, 5], true],
    [[1, 2, 3, 4, 5, 5, 5], false],
    [[5, 5, 5, 1, 2, 3, 4], false],
    [[1, 2, 1, 2, 1, 2], true],
    [[1, 2, 1, 2, 1], false],
    [[9, 1, 2, 1, 2, 1, 2, 8], true],
    [[1, 2, 3, 1, 2, 3, 1, 2, 3, 1], true],
    [[1, 2, 3, 4, 1, 2, 3, 4], false],
  ];
  for (const [tokenIds, expected] of repetitive)
    assert.deepEqual(signs('text', tokenIds), expected ? ['repetitive'] : [], `${tokenIds}`);
});
