/** Our engine, whose process ends in the middle of a decode where a row's prompt holds the token 7. */
import { setTimeout as delay } from 'node:timers/promises';
import type { Engine } from '../src/engine.js';
import { type EngineOptions, openEngine as open } from '../src/llama/llama-engine.js';
import type { ResolvedModel } from '../src/models/resolve.js';

export const DEADLY_TOKEN = 7;

export async function openEngine(model: ResolvedModel, options: EngineOptions): Promise<Engine> {
  const engine = await open(model, options);
  const { patch } = engine;
  engine.patch = async (rows, ...rest) => {
    const results = patch.call(engine, rows, ...rest);
    if (!rows.some(({ tokenIds }) => tokenIds.includes(DEADLY_TOKEN))) return results;
    await delay(1);
    process.kill(process.pid, 'SIGABRT');
    return results;
  };
  return engine;
}
