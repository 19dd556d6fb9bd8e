import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { PatchscopeError } from '../errors.js';
import { hashRecordPath, makeCacheFolder, modelsFolder, shortKey } from './cache.js';
import { catalogue } from './catalogue.js';
import { hashOnce } from './hash-record.js';
import { downloadFromHub } from './hub-source.js';
import { localParts, realPaths } from './local-model.js';
import { withLock } from './lock.js';
import { type PullOptions, pull } from './pull.js';
import { reason, sheltered } from './watch.js';

/** A model on this machine. */
export interface ResolvedModel {
  /** What an engine is to open: the first of `parts`. */
  readonly path: string;
  /** Over all parts in order. */
  readonly sha256: string;
  readonly bytes: number;
  readonly parts: readonly string[];
}

/** @throws TypeError for a model that was put together otherwise than here. */
export function checkResolved({ path, parts }: ResolvedModel): void {
  if (!Array.isArray(parts) || !parts.every((part) => typeof part === 'string') || path !== parts[0]) {
    throw new TypeError(
      'Expected a model as resolveModel gives it: parts is a list of paths, path the first.',
    );
  }
}

export interface ResolveOptions extends PullOptions {
  readonly downloadFromHub?: typeof downloadFromHub | undefined;
}

/**
 * Finds the model that `spec` names: a name of the catalogue, the path of a
 * GGUF file (of its first part where it is split) or an `hf:` URI.
 */
export async function resolveModel(spec: string, options: ResolveOptions = {}): Promise<ResolvedModel> {
  const shelter = sheltered(options);
  const model = await find(spec, shelter);
  shelter.signal.throwIfAborted();
  return model;
}

async function find(spec: string, options: ResolveOptions): Promise<ResolvedModel> {
  if (spec.startsWith('hf:')) return resolveHubUri(spec, options);
  const isName = Object.hasOwn(options.catalogue ?? catalogue, spec);
  if (!isName && (await isPath(spec))) {
    const parts = await localParts(spec);
    return hashed(parts, await realPaths(parts), options);
  }
  const path = await pull(spec, options);
  return hashed([path], [path], options);
}

async function resolveHubUri(uri: string, options: ResolveOptions): Promise<ResolvedModel> {
  if (!/^hf:[^/]+\/[^/]+/.test(uri))
    throw new PatchscopeError(
      'bad_input',
      `"${uri}" is not a model URI; write hf:user/model:quantization or hf:user/model/file.gguf.`,
    );
  const folder = modelsFolder();
  makeCacheFolder(folder);
  const download = options.downloadFromHub ?? downloadFromHub;
  return withLock(
    join(folder, `hf-${shortKey(uri)}`),
    async (signal) => {
      const watch = { ...options, signal };
      const path = await download({ uri, folder }, watch).catch((cause) => {
        signal.throwIfAborted();
        throw new PatchscopeError('download', `${uri} could not be downloaded (${reason(cause)}).`, {
          cause,
        });
      });
      const parts = await localParts(path);
      return hashed(parts, parts, watch, { pinned: true });
    },
    options,
  );
}

async function hashed(
  parts: readonly string[],
  recordedAs: readonly string[],
  options: ResolveOptions,
  how: { readonly pinned?: boolean } = {},
): Promise<ResolvedModel> {
  const { sha256, bytes } = await hashOnce(parts, hashRecordPath(recordedAs), options, how);
  return { path: parts[0]!, sha256, bytes, parts };
}

async function isPath(spec: string): Promise<boolean> {
  if (/[/\\]|\.gguf$/i.test(spec)) return true;
  return stat(spec).then(
    () => spec !== '',
    () => false,
  );
}
