/** How many blocks GPU devices can take; pure. */

/** Memory on GPU devices, in bytes, with 0, 1, 2, ... blocks there; the last counts the output as one more. */
export type LayerNeeds = readonly number[];

/** Estimates are rough, and other programs want memory too. */
const USABLE = 0.9;

/**
 * The most blocks whose need fits. Over several devices llama.cpp shares blocks out by free memory, in
 * whole blocks: each device must have room for its share and for one block more.
 */
export function layersThatFit(needs: LayerNeeds, freeBytes: readonly number[]): number {
  const total = freeBytes.reduce((sum, free) => sum + free, 0);
  const fits = (layers: number) => {
    const oneMore = freeBytes.length > 1 ? largestStep(needs) : 0;
    return freeBytes.every((free) => (needs[layers]! * free) / total + oneMore <= USABLE * free);
  };
  for (let layers = needs.length - 1; layers > 0; layers--) if (fits(layers)) return layers;
  return 0;
}

function largestStep(needs: LayerNeeds): number {
  return Math.max(0, ...needs.slice(1).map((need, i) => need - needs[i]!));
}
