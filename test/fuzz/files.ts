/** A damaged file opens or is refused, and if it opens, everything that can be asked of it is asked. */
import { rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { convertModel } from '../../src/convert.js';
import type { Engine } from '../../src/engine.js';
import { openEngine } from '../../src/llama/llama-engine.js';
import { judged, type Outcome, type Part } from './cases.js';
import { type Damaged, headerDamage, tensorDamage } from './damage.js';
import type { Random } from './random.js';

export const damagedHeaders = part(headerDamage);
export const damagedTensors = part(tensorDamage);

/** Of the damaged files. */
const CONVERTED = 0.1;

const modelAt = (file: string) => ({ path: file, parts: [file], sha256: 'fuzz', bytes: 1 });

function part(damage: (random: Random) => Damaged): Part {
  return {
    async run(random, folder, tell) {
      const { bytes, what } = damage(random);
      tell(what);
      const file = path.join(folder, 'damaged.gguf');
      writeFileSync(file, bytes);
      return random.chance(CONVERTED) ? convert(file, path.join(folder, 'converted.gguf')) : use(file);
    },
  };
}

async function convert(file: string, output: string): Promise<Outcome> {
  rmSync(output, { force: true });
  try {
    await convertModel(modelAt(file), output, { to: 'f32', threads: 1 });
    return { kind: 'accepted', detail: 'converted' };
  } catch (error) {
    return judged(error);
  }
}

async function use(file: string): Promise<Outcome> {
  let engine: Engine | undefined;
  try {
    engine = await openEngine(modelAt(file), { threads: 1 });
    const said = await ask(engine);
    return { kind: 'accepted', detail: said };
  } catch (error) {
    return judged(error);
  } finally {
    await engine?.close();
  }
}

async function ask(engine: Engine): Promise<string> {
  const { record, tokenizer } = engine;
  const last = record.vocabularySize - 1;
  const tokenIds = [1, 70, 71, last].map((id) => Math.min(id, last));
  const layer = record.layerCount - 1;
  const point = { site: 'resid_out', layer, tokenIndex: 3 } as const;
  const [state] = await engine.capture([
    { tokenIds, points: [point, { site: 'embed', layer: 'embed', tokenIndex: 0 }] },
  ]);
  const vector = new Float32Array(record.embeddingSize).fill(0.5);
  const [row] = await engine.patch([{ tokenIds, edits: [{ ...point, layer: 0, vector }] }], {
    topK: 3,
    maxTokens: 2,
  });
  await engine.lens(vector, { topK: 3, trackedTokens: [last] });
  for (const special of [true, false])
    tokenizer.tokenize('the cat is on\n\u{1f408} <s>', { bos: true, special });
  for (const id of [0, last]) tokenizer.tokenBytes(id);
  return `${state!.status} ${row!.status}`;
}
