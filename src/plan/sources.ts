/** What states come from: prompts, or vectors in their place. */
import path from 'node:path';
import { PatchscopeError } from '../errors.js';
import type { FileVector, VectorOf } from '../patchscope.js';
import type { ResolvedPrompt } from '../prompts.js';

export type ResolvedVector = VectorOf<ResolvedPrompt>;

export type ResolvedSource = ResolvedPrompt | ResolvedVector;

export function isVector(source: ResolvedSource): source is ResolvedVector {
  return 'kind' in source;
}

/** @throws PatchscopeError `bad_input` for a vector, with the reason for which a prompt is needed. */
export function needPrompt(source: ResolvedSource, why: string): ResolvedPrompt {
  if (!isVector(source)) return source;
  throw new PatchscopeError('bad_input', `The source is a vector (${vectorText(source)}), and ${why}.`);
}

/** The prompts that are captured for a source. */
export function promptsOf(source: ResolvedSource): readonly ResolvedPrompt[] {
  if (!isVector(source)) return [source];
  if (source.kind === 'mean') return source.prompts;
  return source.kind === 'difference' ? [...source.prompts, ...source.minus] : [];
}

/** Whether a source is another one at each layer; one that is not has no source layer. */
export function isLayered(source: ResolvedSource): boolean {
  return !isVector(source) || promptsOf(source).length > 0 || isControlVector(source);
}

export function isControlVector(vector: VectorOf<unknown>): boolean {
  return vector.kind === 'file' && vector.read !== undefined && !(vector.read.values instanceof Float32Array);
}

/** As JSON, of what tells one experiment from another: a file is told by its hash, wherever it lies. */
export function identityOf(value: unknown): string {
  return JSON.stringify(value, (key, inner: unknown) => {
    if (key === 'read' && isRead(inner)) return { sha256: inner.sha256 };
    return key === 'path' && typeof inner === 'string' ? path.basename(inner) : inner;
  });
}

/** A variant may have any name. */
function isRead(value: unknown): value is NonNullable<FileVector['read']> {
  return typeof value === 'object' && value !== null && 'sha256' in value && 'values' in value;
}

/** For a person. */
export function vectorText(vector: VectorOf<unknown>): string {
  switch (vector.kind) {
    case 'file': {
      const name = path.basename(vector.path);
      const tensor = vector.tensor === undefined ? name : `${vector.tensor} of ${name}`;
      if (vector.row !== undefined) return `row ${vector.row} of ${tensor}`;
      return isControlVector(vector) ? `control vector ${name}` : tensor;
    }
    case 'mean':
      return `mean of ${countText(vector.prompts)}`;
    case 'difference':
      return `mean of ${countText(vector.prompts)} minus mean of ${countText(vector.minus)}`;
    case 'zero':
      return 'zero';
    case 'noise': {
      const { sigma, of, deviation } = vector;
      return `noise of sigma ${sigma}${of === undefined ? '' : ` x ${deviation ?? '?'}, the standard deviation of ${of}`}`;
    }
    case 'random':
      return `random direction of norm ${vector.norm}`;
  }
}

function countText(prompts: readonly unknown[]): string {
  return prompts.length === 1 ? 'one prompt' : `${prompts.length} prompts`;
}
