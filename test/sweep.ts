/** An experiment file of many cells that leaves nothing out: variants, controls, metrics, drawn tokens, groups. */
export const sweep = (samples: number) => ({
  name: 'sweep',
  samples: Array.from({ length: samples }, (_, i) => ({
    ids: [1, 30 + (i % 100), 60, 80],
    who: `number ${i}`,
    word: 'abcdefgh'[i % 8],
    kind: i % 2 === 0 ? 'even' : 'odd',
  })),
  group: '{kind}',
  answer: '{word}',
  source: { prompt: { tokens: '{ids}' }, layers: 'embed,all' },
  target: { prompt: 'the cat is on a mat', position: 'cat', layers: 'all' },
  variants: [
    { name: 'replaced' },
    { name: 'added', edit: { op: 'add', alpha: 0.5 }, target: { layers: 'same' } },
  ],
  reading: { top: 3, tokens: 2, 'track-answer': true, temperature: 0.7 },
  metrics: ['answer-found', 'answer-rank'],
  controls: { random: 1, shuffled: 1, unpatched: true },
  seed: 7,
});
