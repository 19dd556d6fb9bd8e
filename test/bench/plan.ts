/** Plans a million cells, in a process of its own: `bench:store` asks for seconds and peak memory as JSON. */
import type { Tokenizer } from '../../src/engine.js';
import { makePlan } from '../../src/plan/plan.js';

/** One token a letter. */
const letters: Tokenizer = {
  vocabularySize: 256,
  bosToken: undefined,
  tokenize: (text) => [...Buffer.from(text)],
  tokenBytes: (tokenId) => Buffer.from([tokenId]),
  isEndOfText: () => false,
  chat: (text) => text,
};

const at = (text: string) => ({
  prompt: { kind: 'text' as const, text },
  position: { kind: 'index' as const, index: -1 },
});
const [layers = 'same', samples = 33_334] = process.argv.slice(2);

const begin = performance.now();
const plan = makePlan(
  {
    name: 'million',
    samples: Array.from({ length: Number(samples) }, (_, i) => ({
      name: String(i),
      source: at(`the source prompt of sample ${i}`),
      target: at('cat -> cat; x'),
    })),
    sourceLayers: 'all',
    targetLayers: layers,
    mapping: { kind: 'identity' },
    reading: { topK: 5, maxTokens: 1, stop: [] },
    seed: 0,
  },
  letters,
  { sha256: '', layerCount: 30, embeddingSize: 576, promptTokens: 8192, batchRows: 128, noStreams: null },
);
process.stdout.write(
  JSON.stringify({
    cells: plan.cellCount,
    seconds: (performance.now() - begin) / 1000,
    megabytes: process.resourceUsage().maxRSS / 1000,
  }),
);
