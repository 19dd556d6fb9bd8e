/** What a row reads by itself: tokens tracked in it alone, and the texts that end it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Engine, PatchRow } from '../src/engine.js';
import { splitReadings } from '../src/llama/batch.js';
import {
  assertSameBits,
  captured,
  edit,
  law,
  mixedStates,
  type OkRow,
  patched,
  SOURCE,
  TARGET,
  tokens,
} from './support.js';

async function someRows(engine: Engine, count: number): Promise<PatchRow[]> {
  const target = tokens(engine, TARGET);
  const state = await captured(engine, tokens(engine, SOURCE), [1]);
  return mixedStates(count, state(1, 2), state(1, 5)).map((vector) => ({
    tokenIds: target,
    edits: [edit(1, target.length - 2, vector)],
  }));
}

const readingsOf = ({ steps, positions }: OkRow) => [...positions, ...steps];

const OWN: readonly (readonly number[] | undefined)[] = [[7], undefined, [3, 9, 7, 11], [], [9, 9]];

law("a row's own tracked tokens follow the reading's, and are scored as the logits say", async (engine) => {
  const plain = await someRows(engine, 5);
  const rows = plain.map((row, i) => ({ ...row, ...(OWN[i] && { trackedTokens: OWN[i] }) }));
  const reading = { maxTokens: 3, trackedTokens: [20, 9], tokenIndexes: [rows[0]!.tokenIds.length - 2] };
  const results = await patched(engine, rows, reading);
  for (const [i, result] of results.entries()) {
    assert.equal(readingsOf(result).length, 4);
    for (const { logits, tracked } of readingsOf(result)) {
      const values = [...logits!];
      const max = Math.max(...values);
      const total = max + Math.log(values.reduce((sum, value) => sum + Math.exp(value - max), 0));
      assert.deepEqual(
        tracked.map(({ tokenId, rank }) => [tokenId, rank]),
        [20, 9, ...(OWN[i] ?? [])].map((id) => [
          id,
          values.filter((value, other) => value > values[id]! || (value === values[id] && other < id)).length,
        ]),
        `row ${i}`,
      );
      for (const { tokenId, logprob } of tracked)
        assert.ok(Math.abs(logprob - (values[tokenId]! - total)) < 1e-4, `row ${i}, token ${tokenId}`);
    }
  }
});

law('what a row tracks changes no bit of any row', async (engine) => {
  const plain = await someRows(engine, 5);
  const expected = await patched(engine, plain, { maxTokens: 3 });
  const rows = plain.map((row, i) => ({ ...row, ...(OWN[i] && { trackedTokens: OWN[i] }) }));
  for (const [i, result] of (await patched(engine, rows, { maxTokens: 3 })).entries()) {
    assert.deepEqual(result.tokenIds, expected[i]!.tokenIds);
    for (const [k, { logits, top }] of result.steps.entries()) {
      assertSameBits(logits!, expected[i]!.steps[k]!.logits!, `row ${i}, token ${k}`);
      assert.deepEqual(top, expected[i]!.steps[k]!.top);
    }
  }
});

test("tracked tokens are each row's own where another row is not finite", () => {
  const results = {
    finite: Uint8Array.of(1, 0, 1),
    topIds: Int32Array.of(5, 6),
    topLogprobs: Float32Array.of(-5, -6),
    trackedRanks: Int32Array.of(1, 2, 3),
    trackedLogprobs: Float32Array.of(-1, -2, -3),
    chosenIds: Int32Array.of(5, 6),
    chosenRanks: Int32Array.of(0, 0),
    chosenLogprobs: Float32Array.of(-5, -6),
  };
  const read = splitReadings(results, [2, 4, 1]);
  assert.deepEqual(
    read.map(({ trackedRanks }) => [...trackedRanks]),
    [[1, 2], [], [3]],
  );
  assert.deepEqual(
    read.map(({ topIds, chosen }) => [[...topIds], chosen?.tokenId]),
    [
      [[5], 5],
      [[], undefined],
      [[6], 6],
    ],
  );
});

law(
  'a row ends with the token that completes one of its texts, and keeps its text whole',
  async (engine) => {
    const rows = await someRows(engine, 4);
    const reading = { maxTokens: 8, logits: false };
    const free = await patched(engine, rows, reading);
    const text = free[1]!.text;
    assert.ok(text.length > 3, 'there is something to find');
    for (const until of [[text.slice(1, 3)], ['never said', text.slice(2, 3)], [text.slice(0, 1)], [text]]) {
      const given = rows.map((row, i) => (i === 1 ? { ...row, until } : row));
      const results = await patched(engine, given, reading);
      for (const [i, { tokenIds }] of results.entries())
        if (i !== 1) assert.deepEqual(tokenIds, free[i]!.tokenIds, `row ${i} goes on`);
      const { tokenIds, text: kept } = results[1]!;
      assert.deepEqual(tokenIds, free[1]!.tokenIds.slice(0, tokenIds.length));
      const textOf = (ids: readonly number[]) =>
        Buffer.concat(ids.map((id) => engine.tokenizer.tokenBytes(id))).toString();
      assert.equal(kept, textOf(tokenIds));
      const found = (said: string) => until.some((piece) => said.includes(piece));
      assert.ok(found(kept), `${JSON.stringify(kept)} holds one of ${JSON.stringify(until)}`);
      assert.ok(!found(textOf(tokenIds.slice(0, -1))), 'no token was generated after it');
    }
  },
  { exact: true },
);

law(
  'a stop string cuts before a text that ends the row, and a given continuation goes on',
  async (engine) => {
    const [row] = await someRows(engine, 1);
    const reading = { maxTokens: 8, logits: false };
    const [free] = await patched(engine, [row!], reading);
    const until = [free!.text.slice(0, 1)];
    const [cut] = await patched(engine, [{ ...row!, until }], { ...reading, stop: until });
    assert.equal(cut!.text, '');
    const [given] = await patched(engine, [{ ...row!, until, continuation: free!.tokenIds }], reading);
    assert.deepEqual(given!.tokenIds, free!.tokenIds);
  },
);
