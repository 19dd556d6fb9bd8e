/**
 * How far what comes out of a row depends on the rows beside it in a batch: kernels round differently from
 * place to place and from shape to shape, so this is measured on the model, backend and settings at hand.
 */
import type { CacheLayout, Engine, PatchRow, RowResult } from '../engine.js';
import { PatchscopeError } from '../errors.js';
import type { Layer, Site } from '../patchscope.js';

type Patching = Pick<Engine, 'capture' | 'patch' | 'record' | 'tokenizer'>;

/** Enough for two batches of exact mode, the second one not full. */
const EXACT_ROWS = 40;

/**
 * Refuses exact mode where rows in another order, or with half of them gone, do not give the same bits.
 *
 * @throws PatchscopeError `bad_input`.
 */
export async function provePermutable(engine: Patching): Promise<void> {
  const rows = await differentRows(engine, EXACT_ROWS);
  if (rows === null) {
    throw new PatchscopeError(
      'bad_input',
      "Exact mode can't be shown to hold for this model, whose own states hold NaN or infinity: leave --exact out.",
    );
  }
  const reading = { topK: 1, maxTokens: 2, logits: true };
  const expected = await engine.patch(rows, reading);
  const { flashAttention, gpuLayers } = engine.record;
  const advice = gpuLayers > 0 || !flashAttention ? ', or use the CPU (--gpu off) with -fa on' : '';
  const orders = [rows.map((_, i) => (i * 7 + 3) % rows.length), [...rows.keys()].filter((i) => i % 2 === 1)];
  for (const order of orders) {
    const results = await engine.patch(
      order.map((i) => rows[i]!),
      reading,
    );
    const changed = order.filter((i, at) => !sameBits(results[at]!, expected[i]!)).length;
    if (changed > 0) {
      throw new PatchscopeError(
        'bad_input',
        `Exact mode does not hold for this model with these settings: of ${order.length} different rows ${changed} changed with the rows beside them; leave --exact out${advice}.`,
      );
    }
  }
}

/**
 * Largest difference of the ten highest log-probabilities of each row between two orders of `count` different
 * rows; null where the model's own states are not finite.
 */
export async function measureCompany(
  engine: Patching,
  count: number,
  cacheLayout: CacheLayout,
): Promise<number | null> {
  const rows = await differentRows(engine, count);
  if (rows === null) return null;
  const reading = { topK: 20, maxTokens: 1 };
  const inOrder = await engine.patch(rows, reading, { cacheLayout });
  const turned = await engine.patch([...rows].reverse(), reading, { cacheLayout });
  return Math.max(0, ...inOrder.map((result, i) => difference(result, turned[rows.length - 1 - i]!)));
}

/** Rows of one prompt that differ in layer and state, as large as the model's own states, if those are finite. */
async function differentRows(engine: Patching, count: number): Promise<PatchRow[] | null> {
  const { layerCount, encoderLayerCount } = engine.record;
  const tokenIds = engine.tokenizer
    .tokenize('Which of these rows is it?', { bos: true, special: false })
    .slice(0, 8);
  const middle = layerCount >> 1;
  const last = tokenIds.length - 1;
  const point = (tokenIndex: number) => ({ site: 'resid_out' as const, layer: middle, tokenIndex });
  const input = { tokenIds, ...(encoderLayerCount > 0 && { encoderTokenIds: tokenIds }) };
  const [captured] = await engine.capture([{ ...input, points: [point(last >> 1), point(last)] }]);
  if (captured!.status === 'failed') return null;
  const [one, other] = captured!.states as readonly [Float32Array, Float32Array];
  const places: readonly { readonly site: Site; readonly layer: Layer }[] = [
    { site: 'embed', layer: 'embed' },
    { site: 'resid_out', layer: 0 },
    { site: 'resid_out', layer: middle },
  ];
  return Array.from({ length: count }, (_, k) => ({
    ...input,
    edits: [
      {
        ...places[k % places.length]!,
        tokenIndex: last,
        vector: one.map((value, i) => value * Math.cos(k * (i + 1)) + other[i]! * Math.sin(k * (i + 2))),
      },
    ],
  }));
}

function sameBits(a: RowResult, b: RowResult): boolean {
  if (a.status === 'failed' || b.status === 'failed') return a.status === b.status;
  return a.steps.every(({ logits }, step) =>
    Buffer.from(logits!.buffer).equals(bytesOf(b.steps[step]?.logits)),
  );
}

function bytesOf(logits: Float32Array | undefined): Buffer {
  return Buffer.from(logits?.buffer ?? new ArrayBuffer(0));
}

function difference(a: RowResult, b: RowResult): number {
  if (a.status === 'failed' || b.status === 'failed') return 0;
  const others = b.steps[0]!.top;
  const found = new Map(others.map(({ tokenId, logprob }) => [tokenId, logprob]));
  const least = others.at(-1)!.logprob;
  const differences = a.steps[0]!.top.slice(0, 10).map(({ tokenId, logprob }) =>
    Math.abs(logprob - (found.get(tokenId) ?? least)),
  );
  return Math.max(...differences);
}

/** Kept where it was measured once: `read` and `write` are of the place it is kept in. */
export interface KeptTolerance {
  readonly read: (key: object) => number | undefined;
  readonly write: (key: object, tolerance: number) => void;
}

/** `measureCompany`, once for each model, backend and settings. */
export async function tolerance(
  engine: Patching,
  count: number,
  cacheLayout: CacheLayout,
  kept: KeptTolerance,
): Promise<number | null> {
  if (engine.record.exact || count < 2) return 0;
  const { path, name, ...settings } = engine.record;
  const key = { ...settings, cacheLayout, count };
  const known = kept.read(key);
  if (known !== undefined) return known;
  const measured = await measureCompany(engine, count, cacheLayout);
  if (measured !== null) kept.write(key, measured);
  return measured;
}
