/** Many prompts in one decode, any layers and positions of each in one pass. */
import type { CacheLayout, CaptureRequest, CaptureResult, WorkOptions } from '../engine.js';
import { Batch, type BatchResults } from './batch.js';
import type { ContextPool } from './context-pool.js';
import { encode } from './encode.js';
import { type Attempt, isolateBroken } from './isolate.js';
import { type Limits, localFailure } from './limits.js';
import { nativeReadings } from './readings.js';
import { ofSide } from './state-rows.js';

/** A prompt up to its last token captured in the decoder: what comes after can't be seen from there. */
interface Prompt {
  readonly request: CaptureRequest;
  readonly index: number;
  readonly length: number;
}

export async function captureStates(
  requests: readonly CaptureRequest[],
  pool: ContextPool,
  limits: Limits,
  { signal, cacheLayout = 'unified' }: WorkOptions = {},
): Promise<CaptureResult[]> {
  const results: CaptureResult[] = requests.map(() => ({
    status: 'ok',
    states: [],
  }));
  const attempt = async (pack: readonly Prompt[]): Promise<Attempt<Prompt>> => {
    signal?.throwIfAborted();
    try {
      const states = await decodePack(pack, pool, limits, cacheLayout);
      let at = 0;
      const broken = pack.filter((prompt) => {
        const own = states.slice(at, at + prompt.request.points.length);
        at += own.length;
        if (!own.every((state) => state !== null)) return true;
        results[prompt.index] = { status: 'ok', states: own };
        return false;
      });
      return { broken, waiting: [] };
    } catch (error) {
      const failed = localFailure(error);
      for (const { index } of pack) results[index] = failed;
      return { broken: [], waiting: [] };
    }
  };
  await isolateBroken(packs(requests, limits), pool, attempt, ({ index }) => {
    results[index] = {
      status: 'failed',
      code: 'not_finite',
      error: 'A captured state holds NaN or infinity.',
    };
  });
  return results;
}

async function decodePack(
  pack: readonly Prompt[],
  pool: ContextPool,
  limits: Limits,
  layout: CacheLayout,
): Promise<BatchResults['states']> {
  const batch = new Batch();
  pack.forEach(({ request, length }, sequence) => {
    const rows = request.tokenIds.slice(0, length).map((tokenId, i) => batch.add(tokenId, i, sequence));
    for (const point of ofSide(request.points, 'decoder')) {
      batch.capture(rows[point.tokenIndex]!, point, limits.needsOutput(point));
    }
  });
  const { points, encoderTokenIds = [], adapter } = pack[0]!.request;
  const longest = Math.max(...pack.map(({ length }) => length));
  const size = {
    cells: layout === 'streams' ? limits.streamCells(longest) : Math.max(encoderTokenIds.length, batch.size),
    batchTokens: Math.max(encoderTokenIds.length, Math.min(limits.batchTokens, batch.size)),
    sequences: pack.length,
    outputs: Math.max(1, Math.min(limits.outputs, batch.size)),
  };
  const context = await pool.take(size, { layout, adapter });
  const decode = async () => {
    if (batch.size === 0) return [];
    const decoded = await batch.decode(context, NO_READINGS, {
      tokens: limits.batchTokens,
      outputs: limits.outputs,
      layout,
    });
    return decoded.states;
  };
  if (encoderTokenIds.length === 0) return decode();
  const ofEncoder = ofSide(points, 'encoder');
  const states = {
    encoder: (await encode(context, { tokenIds: encoderTokenIds, points: ofEncoder }, pack.length)).values(),
    decoder: (await decode()).values(),
  };
  return points.map(({ side = 'decoder' }) => states[side].next().value ?? null);
}

const NO_READINGS = nativeReadings({ topK: 1 });

function packs(requests: readonly CaptureRequest[], limits: Limits): Prompt[][] {
  const packed: Prompt[][] = [];
  let pack: Prompt[] = [];
  let tokens = 0;
  requests.forEach((request, index) => {
    if (request.points.length === 0) return;
    const length =
      1 + ofSide(request.points, 'decoder').reduce((last, { tokenIndex }) => Math.max(last, tokenIndex), -1);
    const isFull = tokens + length > limits.packTokens || pack.length === limits.promptsPerPack;
    if (pack.length > 0 && (isFull || pack[0]!.request.adapter !== request.adapter)) {
      packed.push(pack);
      pack = [];
      tokens = 0;
    }
    pack.push({ request, index, length });
    tokens += length;
  });
  if (pack.length > 0) packed.push(pack);
  return packed;
}
