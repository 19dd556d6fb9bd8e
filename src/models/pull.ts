import { rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { PatchscopeError } from '../errors.js';
import { cachedModelPath, hashRecordPath, makeCacheFolder } from './cache.js';
import {
  type Catalogue,
  type CatalogueModel,
  describeSource,
  type ModelSource,
  modelNamed,
} from './catalogue.js';
import { hashOnce } from './hash-record.js';
import { withLock } from './lock.js';
import { type Fetchers, fetchers, fetchFrom } from './source.js';
import { reason, type Watch } from './watch.js';

export interface PullOptions extends Watch {
  readonly catalogue?: Catalogue | undefined;
  readonly fetchers?: Fetchers | undefined;
}

/**
 * The path of the catalogue model `name`, downloaded first when the cache does
 * not have it. What an interrupted pull had got is used by the next one.
 */
export async function pull(name: string, options: PullOptions = {}): Promise<string> {
  const model = modelNamed(name, options.catalogue);
  const path = cachedModelPath(name);
  if (await isComplete(path, model, options)) return path;
  makeCacheFolder(dirname(path));
  await withLock(
    path,
    async (signal) => {
      const watch = { ...options, signal };
      if (!(await isComplete(path, model, watch))) await fetchInto(path, name, model, watch);
    },
    options,
  );
  return path;
}

async function isComplete(path: string, model: CatalogueModel, watch: Watch): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  if (!found?.isFile() || found.size !== model.bytes) return false;
  const { sha256 } = await hashOnce([path], hashRecordPath([path]), watch);
  return sha256 === model.sha256;
}

async function fetchInto(
  path: string,
  name: string,
  model: CatalogueModel,
  options: PullOptions,
): Promise<void> {
  const failures: string[] = [];
  for (const source of model.sources) {
    try {
      await rename(await fetchChecked(source, path, model, options), path);
      await rm(partsFolder(path), { recursive: true, force: true });
      return;
    } catch (error) {
      options.signal?.throwIfAborted();
      const failure = `${describeSource(source)} (${reason(error)})`;
      failures.push(failure);
      options.onNote?.(`${name} could not be had from ${failure}.`);
    }
  }
  throw new PatchscopeError('download', `${name} could not be downloaded; tried ${failures.join(', and ')}.`);
}

/** The fetched file, whose bytes are the model's; anything else is deleted with all it came from. */
async function fetchChecked(
  source: ModelSource,
  path: string,
  model: CatalogueModel,
  options: PullOptions,
): Promise<string> {
  const folder = join(partsFolder(path), source.kind);
  makeCacheFolder(folder);
  const fetched = await fetchFrom(
    source,
    { folder, bytes: model.bytes, watch: options },
    options.fetchers ?? fetchers,
  );
  const { sha256 } = await hashOnce([fetched], hashRecordPath([path]), options);
  if (sha256 === model.sha256) return fetched;
  await rm(folder, { recursive: true, force: true });
  throw new Error(`the sha256 of what arrived is ${sha256} instead of ${model.sha256}`);
}

/** Beside the model, so that the last step is a rename within one file system. */
function partsFolder(path: string): string {
  return `${path}.part`;
}
