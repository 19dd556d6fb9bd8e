// How far the curves of next-token on quantised files lie from PyTorch's on the same weights, as the README's table.
import { resolveModel } from '../src/index.js';
import { curvesOf, models, observe, referenceOf, worstDifferences } from './next-token-curves.js';

console.log(
  '| | in layers | precision@1 of token identity, PyTorch / file | of the logit lens | worst of all layers | surprisal | surprisal of own |',
);
console.log('|---|---|---|---|---|---|---|');
for (const { name, middle, late } of models) {
  const reference = referenceOf(name);
  const { path } = await resolveModel(name);
  const found = curvesOf(await observe(path, reference, 'all'), reference);
  const [precision, surprisal, ofOwn] = worstDifferences(found, reference).map((value) => value.toFixed(2));
  const pair = (variant: 'token-identity' | 'logit-lens') =>
    [middle, late]
      .map((layer) => [reference, found].map((of) => of[variant][layer]![0]!.toFixed(2)).join(' / '))
      .join(', ');
  console.log(
    `| ${name} | ${middle}, ${late} | ${pair('token-identity')} | ${pair('logit-lens')} | ${precision} | ${surprisal} nat | ${ofOwn} nat |`,
  );
}
