/** Vectors in files: safetensors, .npy, and the control vectors of llama.cpp. */
import fs from 'node:fs';
import path from 'node:path';
import { PatchscopeError } from '../errors.js';
import { fileHash } from '../file-hash.js';
import { readHeader as readGguf } from '../gguf.js';
import { loadAddon, loadedVariant } from '../native.js';
import { nearest } from '../nearest.js';
import type { FileVector } from '../patchscope.js';
import { readHeader, readTensor, rowOf, type StoredTensor } from '../safetensors.js';
import { npyTensor } from './npy.js';

type Read = NonNullable<FileVector['read']>;
type Wanted = Pick<FileVector, 'tensor' | 'row'>;

/** The tensor without a name that a .npy file holds. */
const ONLY = '';

/** One file, read as often as it is asked for. */
export class VectorFile {
  readonly #path: string;
  readonly #sha256: string;
  readonly #tensors: ReadonlyMap<string, StoredTensor>;
  readonly #known = new Map<string, Read>();

  private constructor(file: string, sha256: string, tensors: ReadonlyMap<string, StoredTensor>) {
    this.#path = file;
    this.#sha256 = sha256;
    this.#tensors = tensors;
  }

  /** @throws PatchscopeError `bad_input` where it can't be read, or is none that is known here. */
  static async open(file: string): Promise<VectorFile> {
    const kind = path.extname(file).toLowerCase();
    const open = readers[kind];
    if (open === undefined) throw bad(file, 'is no .safetensors, .npy or .gguf file');
    const tensors = await open(file);
    return new VectorFile(
      file,
      attempt(file, (descriptor) => fileHash(descriptor)),
      tensors,
    );
  }

  /** @throws PatchscopeError `bad_input` where it is not there. */
  read({ tensor, row }: Wanted): Read {
    const key = JSON.stringify([tensor, row]);
    const known = this.#known.get(key) ?? { sha256: this.#sha256, values: this.#values({ tensor, row }) };
    this.#known.set(key, known);
    return known;
  }

  #values({ tensor, row }: { readonly [key in keyof Wanted]: Wanted[key] | undefined }): Read['values'] {
    if (tensor === undefined && row === undefined && path.extname(this.#path).toLowerCase() === '.gguf') {
      return this.#directions();
    }
    const name = this.#nameOf(tensor);
    const stored = this.#tensors.get(name)!;
    const { shape } = stored;
    const called = name === ONLY ? 'holds' : `has a tensor ${name} of`;
    if (shape.length === 1 && row === undefined) return this.#attempt(stored);
    if (shape.length === 1) throw this.#bad(`${called} one dimension, which has no rows: leave row out`);
    if (shape.length !== 2)
      throw this.#bad(`${called} ${shape.length} dimensions where one or two are needed`);
    const rows = shape[0]!;
    if (row === undefined) throw this.#bad(`${called} ${rows} rows: say which by row`);
    if (row >= rows) throw this.#bad(`${called} ${rows} rows, 0 to ${rows - 1}, and no row ${row}`);
    return this.#attempt(rowOf(stored, row));
  }

  /** Of a control vector, whose tensor direction.N is added to the output of block N. */
  #directions(): Record<number, Float32Array> {
    const layers = [...this.#tensors].flatMap(([name, stored]) => {
      const [, layer] = /^direction\.(\d+)$/.exec(name) ?? [];
      return layer === undefined ? [] : [[Number(layer), this.#attempt(stored)] as const];
    });
    if (layers.length > 0) return Object.fromEntries(layers);
    throw this.#bad('is no control vector, whose tensors are direction.1, direction.2, ...: name a tensor');
  }

  #nameOf(tensor: string | undefined): string {
    const names = [...this.#tensors.keys()];
    if (names.length === 0) throw this.#bad('holds no floats');
    const [only] = names;
    if (only === ONLY) {
      if (tensor !== undefined) throw this.#bad('holds one tensor without a name: leave tensor out');
      return only;
    }
    const some = `${names.slice(0, 8).join(', ')}${names.length > 8 ? ', ...' : ''}`;
    if (tensor === undefined) {
      if (names.length === 1) return only!;
      throw this.#bad(`has ${names.length} tensors of floats (${some}): name one by tensor`);
    }
    if (names.includes(tensor)) return tensor;
    const meant = nearest(tensor, names);
    throw this.#bad(
      `has no tensor ${tensor} of floats${meant === undefined ? '' : `, perhaps ${meant} was meant`}: it has ${some}`,
    );
  }

  #attempt(stored: StoredTensor): Float32Array {
    return attempt(this.#path, (descriptor) => readTensor(descriptor, stored));
  }

  #bad(fault: string): PatchscopeError {
    return bad(this.#path, fault);
  }
}

type Tensors = ReadonlyMap<string, StoredTensor>;

const readers: Readonly<Record<string, (file: string) => Tensors | Promise<Tensors>>> = {
  '.safetensors': (file) => {
    const header = attempt(file, readHeader);
    if (header === undefined) throw bad(file, 'is no safetensors file, or not whole');
    return header.tensors;
  },
  '.npy': (file) => {
    const tensor = attempt(file, npyTensor);
    if (typeof tensor === 'string') throw bad(file, tensor);
    return new Map([[ONLY, tensor]]);
  },
  '.gguf': async (file) => {
    attempt(file, () => undefined);
    const addon = loadAddon(loadedVariant() ?? 'cpu');
    const { tensors } = await readGguf({ parts: [file] }, addon).catch((cause: Error) => {
      throw bad(file, `is no readable GGUF file (${cause.message.replace(/\.$/, '')})`);
    });
    return new Map(
      tensors
        .filter(({ type }) => type in ggufTypes)
        .map(({ name, type, shape, offset }) => [
          name,
          { type: ggufTypes[type]!, shape: [...shape].reverse(), offset },
        ]),
    );
  },
};

/** Of quantized tensors rows don't lie apart. */
const ggufTypes: Readonly<Record<string, NonNullable<StoredTensor['type']>>> = {
  f16: 'F16',
  bf16: 'BF16',
  f32: 'F32',
  f64: 'F64',
};

function attempt<T>(file: string, work: (descriptor: number) => T): T {
  let descriptor: number | undefined;
  try {
    descriptor = fs.openSync(file, 'r');
    return work(descriptor);
  } catch (cause) {
    if (cause instanceof PatchscopeError) throw cause;
    const { code, message } = cause as NodeJS.ErrnoException;
    throw bad(file, code === 'ENOENT' ? 'does not exist' : `can't be read (${code ?? message})`);
  } finally {
    if (descriptor !== undefined) fs.closeSync(descriptor);
  }
}

function bad(file: string, fault: string): PatchscopeError {
  return new PatchscopeError('bad_input', `The vector is in '${file}', which ${fault}.`);
}
