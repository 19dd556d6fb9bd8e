/** The header of a safetensors file: its length in 8 bytes, and as JSON where each tensor of floats lies. */

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
/** Readers map a file into memory and want its floats where processors do. */
const ALIGNMENT = 8;

/** @param metadata is for people and programs that read the file; the format has texts alone. */
export function layOut(
  tensors: readonly TensorShape[],
  metadata: Readonly<Record<string, string>>,
): SafetensorsLayout {
  let at = 0;
  const begins = new Map<string, number>();
  const entries = tensors.map(({ name, shape }) => {
    const begin = at;
    begins.set(name, begin);
    at += FLOAT_BYTES * shape.reduce((product, size) => product * size, 1);
    return [name, { dtype: 'F32', shape, data_offsets: [begin, at] }] as const;
  });
  const json = Buffer.from(JSON.stringify({ __metadata__: metadata, ...Object.fromEntries(entries) }));
  const length = Math.ceil(json.length / ALIGNMENT) * ALIGNMENT;
  const header = Buffer.alloc(8 + length, ' ');
  header.writeBigUInt64LE(BigInt(length));
  json.copy(header, 8);
  return {
    header,
    offsets: new Map([...begins].map(([name, begin]) => [name, header.length + begin])),
    bytes: header.length + at,
  };
}
