/**
 * Writes src/data/directions.npy: directions of a few words in the default model, each the mean of what stands at the
 * word's end in some sentences less the mean over all words, of length one.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openEngine } from '../src/llama/llama-engine.js';
import { resolveModel } from '../src/models/resolve.js';
import { npyFile } from './vector-files.js';

const words = ['dog', 'piano', 'bread', 'rain', 'doctor', 'gold'];
const sentences = [
  'They talked about the',
  'It was a picture of a',
  'She was thinking of',
  'My book is about a',
];
const layer = 8;

const engine = await openEngine(await resolveModel('smollm2-135m-instruct'), { threads: 1 });
const width = engine.record.embeddingSize;
const requests = words.flatMap((word) =>
  sentences.map((sentence) => {
    const tokenIds = engine.tokenizer.tokenize(`${sentence} ${word}`, { bos: true, special: false });
    return { tokenIds, points: [{ site: 'resid_out' as const, layer, tokenIndex: tokenIds.length - 1 }] };
  }),
);
const results = await engine.capture(requests);
await engine.close();
const states = results.map((result) => {
  if (result.status !== 'ok') throw new Error(result.error);
  return result.states[0]!;
});
const meanOf = (rows: readonly Float32Array[]) =>
  Float64Array.from({ length: width }, (_, i) => rows.reduce((sum, row) => sum + row[i]!, 0) / rows.length);
const common = meanOf(states);
const directions = words.flatMap((_, w) => {
  const own = meanOf(states.slice(w * sentences.length, (w + 1) * sentences.length)).map(
    (x, i) => x - common[i]!,
  );
  const length = Math.hypot(...own);
  return [...own].map((value) => value / length);
});
writeFileSync(
  join(import.meta.dirname, '../src/data/directions.npy'),
  npyFile([words.length, width], Float32Array.from(directions)),
);
