/** Patched runs: the prefix that rows share is computed once, then its rows go on together. */
import type { PatchRow, RowReading, RowResult, WorkOptions } from '../engine.js';
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

  async patch(
    rows: readonly PatchRow[],
    reading: RowReading,
    { signal, cacheLayout: layout = 'unified' }: WorkOptions = {},
  ): Promise<RowResult[]> {
    const work = { pool: this.#pool, reading, layout, limits: this.#limits, tokenizer: this.#tokenizer };
    const results = new Array<RowResult>(rows.length);
    const fail = (index: number, code: string, error: string) => {
      results[index] = { status: 'failed', code, error };
    };
    for (const group of groupRows(rows, reading)) {
      const atOnce = rowsAtOnce(group, this.#limits, layout);
      // where rows must not depend on their company, every batch has the same shape
      const slots = this.#limits.exact ? atOnce : Math.min(atOnce, group.rows.length);
      let flow: RowFlow | undefined;
      const attempt = async (part: readonly GroupRow[]): Promise<Attempt<GroupRow>> => {
        const waiting = [...part];
        try {
          flow ??= await RowFlow.begin(group, slots, work);
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
