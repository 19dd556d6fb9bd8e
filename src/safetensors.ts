/** The header of a safetensors file: its length in 8 bytes, and as JSON where each tensor of floats lies. */
import fs from 'node:fs';

export interface TensorShape {
  readonly name: string;
  readonly shape: readonly number[];
}

export interface SafetensorsLayout {
  /** Stands at the beginning of the file. */
  readonly header: Buffer;
  /** Where each tensor begins in the file, in bytes. */
  readonly offsets: ReadonlyMap<string, number>;
  /** Of the whole file. */
  readonly bytes: number;
}

const FLOAT_BYTES = 4;
/** What is read; what is written is F32. */
const floatTypes = { F16: 2, BF16: 2, F32: 4, F64: 8 } as const;
export type FloatType = keyof typeof floatTypes;
/** Readers map a file into memory and want its floats where processors do. */
const ALIGNMENT = 8;

/**
 * @param metadata is for people and programs that read the file; the format has texts alone.
 * @param least bytes of the header, which blanks fill up.
 */
export function layOut(
  tensors: readonly TensorShape[],
  metadata: Readonly<Record<string, string>>,
  least = 0,
): SafetensorsLayout {
  let at = 0;
  const begins = new Map<string, number>();
  const entries = tensors.map(({ name, shape }) => {
    const begin = at;
    begins.set(name, begin);
    at += FLOAT_BYTES * sizeOf(shape);
    return [name, { dtype: 'F32', shape, data_offsets: [begin, at] }] as const;
  });
  const json = Buffer.from(JSON.stringify({ __metadata__: metadata, ...Object.fromEntries(entries) }));
  const length = Math.max(Math.ceil(json.length / ALIGNMENT) * ALIGNMENT, least - 8);
  const header = Buffer.alloc(8 + length, ' ');
  header.writeBigUInt64LE(BigInt(length));
  json.copy(header, 8);
  return {
    header,
    offsets: new Map([...begins].map(([name, begin]) => [name, header.length + begin])),
    bytes: header.length + at,
  };
}

/** A tensor of floats as it lies in a file. */
export interface StoredTensor {
  /** Default: F32. */
  readonly type?: FloatType;
  readonly shape: readonly number[];
  /** From the beginning of the file, in bytes. */
  readonly offset: number;
}

export interface SafetensorsHeader {
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
}

/** Longer headers hold no metadata of ours. */
const MOST_HEADER_BYTES = 64 * 2 ** 20;

/** What the header of an open file says; undefined where it is none, or where the file ends before its tensors do. */
export function readHeader(descriptor: number): SafetensorsHeader | undefined {
  const { size } = fs.fstatSync(descriptor);
  if (size < 8) return undefined;
  const length = Number(readBytes(descriptor, 0, 8).readBigUInt64LE());
  if (length > MOST_HEADER_BYTES || 8 + length > size) return undefined;
  const json = jsonOf(readBytes(descriptor, 8, length).toString('utf8'));
  if (!isObject(json)) return undefined;
  const { __metadata__: metadata = {}, ...entries } = json;
  const tensors = new Map<string, StoredTensor>();
  for (const [name, entry] of Object.entries(entries)) {
    if (isObject(entry) && typeof entry.dtype === 'string' && !(entry.dtype in floatTypes)) continue;
    const tensor = storedTensor(entry, 8 + length, size);
    if (tensor === undefined) return undefined;
    tensors.set(name, tensor);
  }
  if (!isObject(metadata) || !Object.values(metadata).every((value) => typeof value === 'string')) {
    return undefined;
  }
  return { metadata: metadata as Record<string, string>, tensors };
}

export function readTensor(descriptor: number, { type = 'F32', shape, offset }: StoredTensor): Float32Array {
  const { buffer } = readBytes(descriptor, offset, floatTypes[type] * sizeOf(shape));
  switch (type) {
    case 'F32':
      return new Float32Array(buffer);
    case 'F64':
      return Float32Array.from(new Float64Array(buffer));
    case 'F16':
      return Float32Array.from(new Uint16Array(buffer), halfValue);
    case 'BF16':
      return new Float32Array(Uint32Array.from(new Uint16Array(buffer), (bits) => bits << 16).buffer);
  }
}

/** One row of a matrix. */
export function rowOf({ type = 'F32', shape, offset }: StoredTensor, row: number): StoredTensor {
  const width = shape[1]!;
  return { type, shape: [width], offset: offset + row * width * floatTypes[type] };
}

/** Of the bits of a half float. */
function halfValue(bits: number): number {
  const [sign, exponent, fraction] = [bits >> 15 === 0 ? 1 : -1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25);
}

export function writeTensor(descriptor: number, offset: number, values: Float32Array): void {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  for (let done = 0; done < bytes.length; ) {
    done += fs.writeSync(descriptor, bytes, done, bytes.length - done, offset + done);
  }
}

function storedTensor(entry: unknown, begin: number, fileBytes: number): StoredTensor | undefined {
  if (!isObject(entry)) return undefined;
  const { shape, data_offsets: offsets } = entry;
  const type = entry.dtype as FloatType;
  if (!isSizes(shape) || !isSizes(offsets) || offsets.length !== 2) return undefined;
  const [from, to] = offsets as [number, number];
  if (to - from !== floatTypes[type] * sizeOf(shape) || begin + to > fileBytes) return undefined;
  return { ...(type !== 'F32' && { type }), shape, offset: begin + from };
}

function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** In memory of their own, so that floats lie where they may. */
function readBytes(descriptor: number, position: number, length: number): Buffer {
  const bytes = Buffer.from(new ArrayBuffer(length));
  for (let done = 0; done < length; ) {
    const read = fs.readSync(descriptor, bytes, done, length - done, position + done);
    if (read === 0) throw new Error('The file has become shorter.');
    done += read;
  }
  return bytes;
}
