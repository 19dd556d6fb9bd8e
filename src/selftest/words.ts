/** Token identity: words that a model can repeat are repeated from their states alone. */
import type { Engine, PatchRow } from '../engine.js';
import type { Layer } from '../patchscope.js';
import { gaussians } from '../random.js';
import { norm } from './difference.js';
import { placeOf } from './laws.js';
import { judged, needOk, type SelfCheck, unmeasured } from './self-check.js';

const words = [
  ...['market', 'garden', 'bridge', 'tower', 'station', 'church', 'forest', 'lake', 'hill', 'school'],
  ...['house', 'water', 'music', 'window', 'summer', 'paper', 'money', 'father', 'kitchen', 'horse'],
];
const MOST_WORDS = 10;
const LEAST_WORDS = 5;
/** Spread over the blocks, with the embedding beside them. */
const MOST_LAYERS = 7;
const SEEN = 'i saw';
const TO_REPEAT = 'cat -> cat ; river -> river ; bell -> bell ;';
const PLACEHOLDER = 'x';
const CHECK = 'words';

/** What is said of each word. */
type Reading = (rows: readonly PatchRow[]) => Promise<number>;

export async function tokenIdentity(engine: Engine): Promise<SelfCheck> {
  const skipped = (why: string) => unmeasured(CHECK, 'skipped', why);
  if (engine.record.encoderLayerCount > 0) return skipped('the decoder does not read the prompt itself');
  const tokens = (text: string) => engine.tokenizer.tokenize(text, { bos: true, special: false });
  const sources = words.map((word) => ({ word, tokenIds: oneMore(tokens, SEEN, word) }));
  const used = sources.flatMap(({ word, tokenIds }) => (tokenIds ? [{ word, tokenIds }] : []));
  const target = oneMore(tokens, TO_REPEAT, PLACEHOLDER);
  if (used.length < LEAST_WORDS || target === undefined) {
    return skipped(`of ${words.length} words only ${used.length} are one token of this model`);
  }
  const asked = used.slice(0, MOST_WORDS);
  const arrow = tokens(`${TO_REPEAT} ${PLACEHOLDER} ->`).slice(target.length);
  const longest = Math.max(target.length + arrow.length, ...asked.map(({ tokenIds }) => tokenIds.length));
  if (longest > engine.record.promptTokens) {
    return skipped(`a prompt of ${longest} tokens is longer than the context`);
  }
  const share: Reading = async (rows) => {
    const results = await engine.patch(rows, { topK: 1, maxTokens: 1 });
    const right = results.filter((result, i) => needOk(result).text.trim() === asked[i]!.word);
    return right.length / asked.length;
  };
  const written = await share(
    asked.map(({ word }) => ({ tokenIds: tokens(`${TO_REPEAT} ${word} ->`), edits: [] })),
  );
  const known = `${percent(written)} of ${asked.length} words are repeated where they are written`;
  if (written < 0.5) return skipped(`${known}, too few to tell anything by it`);
  const tokenIndex = target.length - 1;
  const best = { own: 0, block: 0, ofBlocks: 0, random: 0, shuffled: 0 };
  for (const layer of spread(engine.record.layerCount)) {
    const place = placeOf(layer);
    const captured = await engine.capture(
      asked.map(({ tokenIds }) => ({ tokenIds, points: [{ ...place, tokenIndex: tokenIds.length - 1 }] })),
    );
    const states = captured.map((result) => needOk(result).states[0]!);
    const rows = (vectors: readonly Float32Array[]) =>
      vectors.map((vector) => ({
        tokenIds: [...target, ...arrow],
        edits: [{ ...place, tokenIndex, vector }],
      }));
    const own = await share(rows(states));
    best.own = Math.max(best.own, own);
    // to patch the embedding is to write the word, nearly
    if (layer !== 'embed' && own > best.ofBlocks) Object.assign(best, { ofBlocks: own, block: layer });
    best.random = Math.max(best.random, await share(rows(states.map(randomLike))));
    const shuffled = states.map((_, i) => states[(i + 1) % states.length]!);
    best.shuffled = Math.max(best.shuffled, await share(rows(shuffled)));
  }
  return judged(
    CHECK,
    `share of words read back from their states at the best layer, less that of controls at theirs (random ${percent(best.random)}, shuffled ${percent(best.shuffled)}); ${best.ofBlocks > 0 ? `of the blocks ${best.block} is best with ${percent(best.ofBlocks)}` : 'none from those of blocks'}; ${known}`,
    ...([best.own - Math.max(best.random, best.shuffled), 'at least', written / 2] as const),
  );
}

/** The tokens of a text and a word behind it that is one token more; undefined where it is not. */
function oneMore(tokens: (text: string) => number[], text: string, word: string): number[] | undefined {
  const [before, all] = [tokens(text), tokens(`${text} ${word}`)];
  const isOneMore = all.length === before.length + 1 && before.every((id, i) => id === all[i]);
  return isOneMore ? all : undefined;
}

function spread(layerCount: number): Layer[] {
  const count = Math.min(MOST_LAYERS, layerCount);
  const step = count === 1 ? 0 : (layerCount - 1) / (count - 1);
  return ['embed', ...Array.from({ length: count }, (_, i) => Math.round(i * step))];
}

function randomLike(state: Float32Array, seed: number): Float32Array {
  const vector = gaussians(state.length, seed);
  const factor = norm(state) / norm(vector);
  return vector.map((value) => value * factor);
}

function percent(share: number): string {
  return `${Math.round(100 * share)} %`;
}
