/** The states of some prompts at some places, a bounded part of them at a time. */
import type { Engine } from '../engine.js';
import { PatchscopeError } from '../errors.js';
import { concatenate } from '../floats.js';
import type { Place } from '../places.js';
import { captureLayers } from '../source-states.js';
import { captureOf, type TokensOfPrompt } from './pairs.js';

/** Of captured states in memory at once, and as much again where they are brought together. */
const PART_BYTES = 32 * 2 ** 20;

/**
 * Rows (tokens, width) of each place, in the order of the places, some tokens at a time.
 *
 * @param rows how many at a time.
 * @throws PatchscopeError `not_finite` where a state holds NaN or infinity, or what kept it from being captured.
 */
export async function* statesOf(
  engine: Engine,
  prompts: readonly TokensOfPrompt[],
  places: readonly Place[],
  rows: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<Float32Array[]> {
  for (const part of partsOf(prompts, rows)) {
    const captured = await captureLayers(
      engine,
      part.map((prompt) => captureOf(prompt, places)),
      { signal },
    );
    yield places.map((_, place) =>
      concatenate(
        part.flatMap(({ tokenIndexes }, i) => {
          const begin = place * tokenIndexes.length;
          return captured[i]!.slice(begin, begin + tokenIndexes.length).map((state) => {
            if (state instanceof Float32Array) return state;
            throw new PatchscopeError(
              state.code as PatchscopeError['code'],
              `A mapping can't be fitted: ${state.error}`,
            );
          });
        }),
      ),
    );
  }
}

/** How many tokens' states are in memory together, of so many floats each. */
export function rowsAtOnce(floats: number): number {
  return Math.max(1, Math.floor(PART_BYTES / (4 * floats)));
}

/** Prompts of about so many tokens together; a longer one is cut. */
function* partsOf(prompts: readonly TokensOfPrompt[], rows: number): Generator<TokensOfPrompt[]> {
  let part: TokensOfPrompt[] = [];
  let count = 0;
  for (const prompt of prompts) {
    for (let begin = 0; begin < prompt.tokenIndexes.length; begin += rows) {
      const tokenIndexes = prompt.tokenIndexes.slice(begin, begin + rows);
      if (part.length > 0 && count + tokenIndexes.length > rows) {
        yield part;
        [part, count] = [[], 0];
      }
      part.push({ ...prompt, tokenIndexes });
      count += tokenIndexes.length;
    }
  }
  if (part.length > 0) yield part;
}
