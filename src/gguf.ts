/** What a GGUF file says of itself, read by llama.cpp's own reader; no weight is looked at. */
import { asPatchscopeError } from './errors.js';
import type { ResolvedModel } from './models/resolve.js';
import type { LoadedAddon, NativeHeader, NativeTensor, NativeValue } from './native.js';
import type { Side } from './patchscope.js';

export interface TypeShare {
  readonly type: string;
  readonly tensors: number;
  readonly bytes: number;
}

export class Header {
  readonly tensors: readonly NativeTensor[];
  readonly fileType: string | null;
  readonly #metadata: ReadonlyMap<string, NativeValue | readonly NativeValue[]>;

  constructor({ fileType, metadata, tensors }: NativeHeader) {
    this.fileType = fileType;
    this.tensors = tensors;
    this.#metadata = new Map(metadata);
  }

  get architecture(): string | null {
    return this.text('general.architecture');
  }

  text(key: string): string | null {
    const value = this.#metadata.get(key);
    return typeof value === 'string' ? value : null;
  }

  flag(key: string): boolean | null {
    const value = this.#metadata.get(key);
    return typeof value === 'boolean' ? value : null;
  }

  /** A number of the model's shape, whose key begins with the architecture. */
  size(key: string): number | null {
    const value = this.#metadata.get(`${this.architecture}.${key}`);
    return typeof value === 'number' ? value : null;
  }

  /** The same for each block, where it may differ from block to block; null where the file does not say it. */
  sizes(key: string): number[] | null {
    const value = this.#metadata.get(`${this.architecture}.${key}`);
    const blocks = this.#count('block_count');
    if (blocks === null) return null;
    if (typeof value === 'number') return Array.from({ length: blocks }, () => value);
    if (!Array.isArray(value) || value.length < blocks) return null;
    return value.slice(0, blocks).map(Number);
  }

  /** Null also where the file says more than llama.cpp takes; 0 for a side that is not there. */
  blockCount(side: Side): number | null {
    const holds = (wanted: Side) => this.tensors.some((tensor) => blockOf(tensor)?.side === wanted);
    const stated = this.#count('block_count'); // the encoder's, where there is one
    if (!holds('encoder')) return side === 'decoder' ? stated : 0;
    if (side === 'encoder') return stated;
    return holds('decoder') ? (this.#count('decoder_block_count') ?? stated) : 0;
  }

  #count(key: string): number | null {
    const count = this.size(key);
    return count !== null && Number.isInteger(count) && count > 0 && count <= MAX_BLOCKS ? count : null;
  }

  id(key: string): number | null {
    const value = this.#metadata.get(key);
    return typeof value === 'number' ? value : null;
  }

  list(key: string): readonly NativeValue[] {
    const value = this.#metadata.get(key);
    return Array.isArray(value) ? value : [];
  }

  get bytes(): number {
    return sum(this.tensors.map(({ bytes }) => bytes));
  }

  /** Types of the tensors, those that take most bytes first. */
  get types(): TypeShare[] {
    const shares = new Map<string, TypeShare>();
    for (const { type, bytes } of this.tensors) {
      const share = shares.get(type);
      shares.set(type, { type, tensors: (share?.tensors ?? 0) + 1, bytes: (share?.bytes ?? 0) + bytes });
    }
    return [...shares.values()].sort((a, b) => b.bytes - a.bytes);
  }
}

const MAX_BLOCKS = 512;

/** @throws PatchscopeError `bad_model` where a part is no readable GGUF file. */
export async function readHeader(file: Pick<ResolvedModel, 'parts'>, addon: LoadedAddon): Promise<Header> {
  try {
    return new Header(await addon.header(file.parts));
  } catch (error) {
    throw asPatchscopeError(error);
  }
}

/** The block that a tensor belongs to, null where it belongs to none. */
export function blockOf({
  name,
}: Pick<NativeTensor, 'name'>): { readonly side: Side; readonly block: number } | null {
  const [, prefix, block] = /^(enc\.|dec\.)?blk\.(\d+)\./.exec(name) ?? [];
  return block === undefined
    ? null
    : { side: prefix === 'enc.' ? 'encoder' : 'decoder', block: Number(block) };
}

export const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
