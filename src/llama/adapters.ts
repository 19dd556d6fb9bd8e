/** Adapters of a model, checked and loaded before its first context is made. */
import fs from 'node:fs';
import { readAdapter } from '../adapters.js';
import type { AdapterRecord } from '../engine.js';
import { PatchscopeError } from '../errors.js';
import type { ResolvedModel } from '../models/resolve.js';
import type { NativeContextOptions, NativeModel } from '../native.js';
import type { Adapter } from '../patchscope.js';

type Loaded = NonNullable<NativeContextOptions['adapter']>;

/** @throws PatchscopeError `bad_model` for a file that is no adapter of this model. */
export async function loadAdapters(
  model: NativeModel,
  { parts }: ResolvedModel,
  adapters: readonly Adapter[],
): Promise<{ readonly loaded: ReadonlyMap<string, Loaded>; readonly records: readonly AdapterRecord[] }> {
  const files = new Map<string, Awaited<ReturnType<NativeModel['addAdapter']>>>();
  const loaded = new Map<string, Loaded>();
  const records: AdapterRecord[] = [];
  for (const { name, path, sha256, scale } of adapters) {
    if (loaded.has(name)) continue;
    // it may have been named in another process, some time ago
    if (readAdapter(path, scale).sha256 !== sha256) {
      throw new PatchscopeError(
        'bad_input',
        `The LoRA '${path}' was changed after it was named: start again.`,
      );
    }
    const file = files.get(sha256) ?? (await model.addAdapter(path, parts));
    files.set(sha256, file);
    loaded.set(name, { index: file.index, scale });
    records.push({ name, path, sha256, scale, bytes: fs.statSync(path).size, alpha: file.alpha });
  }
  return { loaded, records };
}
