/** Patched runs: the prefix that rows share is computed once, then its rows go on together. */
import type { PatchRow, RowReading, RowResult } from '../engine.js';
import type { ContextPool } from './context-pool.js';
import { type Attempt, isolateBroken } from './isolate.js';
import { type Limits, localFailure } from './limits.js';
import { RowFlow } from './row-flow.js';
import { type GroupRow, groupRows, rowsAtOnce } from './row-group.js';
import type { LlamaTokenizer } from './tokenizer.js';

export class Patcher {
  readonly #pool: ContextPool;
  readonly #limits: Limits;
  readonly #tokenizer: LlamaTokenizer;

  constructor(pool: ContextPool, limits: Limits, tokenizer: LlamaTokenizer) {
    this.#pool = pool;
    this.#limits = limits;
    this.#tokenizer = tokenizer;
  }

  async patch(rows: readonly PatchRow[], reading: RowReading, signal?: AbortSignal): Promise<RowResult[]> {
    const results = new Array<RowResult>(rows.length);
    const fail = (index: number, code: string, error: string) => {
      results[index] = { status: 'failed', code, error };
    };
    for (const group of groupRows(rows, reading)) {
      const atOnce = rowsAtOnce(group, this.#limits);
      // where rows must not depend on their company, every batch has the same shape
      const slots = this.#limits.exact ? atOnce : Math.min(atOnce, group.rows.length);
      let flow: RowFlow | undefined;
      const attempt = async (part: readonly GroupRow[]): Promise<Attempt<GroupRow>> => {
        const waiting = [...part];
        try {
          flow ??= await RowFlow.begin(this.#pool, group, slots, reading, this.#limits, this.#tokenizer);
          const broken = await flow.run(
            waiting,
            ({ index }, result) => {
              results[index] = result;
            },
            signal,
          );
          if (broken.length > 0) flow = undefined;
          return { broken, waiting };
        } catch (error) {
          const { code, error: reason } = localFailure(error);
          const lost = flow?.inFlight ?? waiting.splice(0);
          flow = undefined; // what its context holds is unknown: begin anew
          for (const { index } of lost) fail(index, code, reason);
          return { broken: [], waiting };
        }
      };
      await isolateBroken([group.rows], this.#pool, attempt, ({ index }) =>
        fail(index, 'not_finite', 'The logits after the patch hold NaN or infinity.'),
      );
    }
    return results;
  }
}
