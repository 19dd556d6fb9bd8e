/**
 * The layout that `chooseCacheLayout` takes against the other one, on one model in two quantizations: the
 * measures behind its thresholds.
 */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { chooseCacheLayout } from '../../src/cache-layout.js';
import {
  type CacheLayout,
  convertModel,
  type Engine,
  openEngine,
  type ResolvedModel,
} from '../../src/index.js';

/** Rows, and tokens read or generated for each. */
const shapes = [
  [128, 1],
  [256, 1],
  [16, 20],
  [60, 20],
  [128, 20],
  [256, 20],
] as const;

interface LayoutMeasure {
  readonly measure: string;
  /** Works in the chosen layout. */
  readonly ours: () => ReturnType<Engine['patch']>;
  readonly theirs: () => ReturnType<Engine['patch']>;
}

/** Measures are made one after the other; a model is opened where one of its measures is. */
export async function measureLayouts(
  file: ResolvedModel,
  prompt: readonly number[],
  measure: (one: LayoutMeasure) => Promise<void>,
): Promise<void> {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bench-'));
  for (const type of ['as it is', 'q4_0'] as const) {
    let opened: Promise<Engine> | undefined;
    const open = async () => {
      const converted = { ...file, path: path.join(folder, 'q4_0.gguf') };
      if (type === 'q4_0') await convertModel(file, converted.path, { to: type });
      const { path: taken } = type === 'q4_0' ? converted : file;
      return openEngine({ ...file, path: taken, parts: [taken] }, { gpu: 'off', batchRows: 256 });
    };
    for (const [count, length] of shapes) {
      const shape = { prefixTokens: prompt.length - 1, rowTokens: 1, rows: count, batchRows: 256 };
      const chosen = chooseCacheLayout({ ...shape, generatedTokens: length });
      const continuation = prompt.slice(0, 1).concat(Array.from({ length: length - 1 }, (_, i) => 2000 + i));
      const rows = Array.from({ length: count }, () => ({ tokenIds: prompt, edits: [], continuation }));
      const work = async (cacheLayout: CacheLayout) => {
        opened ??= open();
        return (await opened).patch(rows, { topK: 5, maxTokens: length }, { cacheLayout });
      };
      const other = chosen === 'unified' ? 'streams' : 'unified';
      await measure({
        measure: `cache layout ${chosen} : ${other}, ${count} rows of ${length} token${length > 1 ? 's' : ''}, model ${type}`,
        ours: () => work(chosen),
        theirs: () => work(other),
      });
    }
    await (await opened)?.close();
  }
  fs.rmSync(folder, { recursive: true });
}
