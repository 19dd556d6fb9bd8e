/** Files of vectors, as other tools write them. */

/** Version 1 of the format. */
export function npyFile(
  shape: readonly number[],
  values: Float32Array | Float64Array,
  type?: string,
): Buffer {
  const descr = type ?? (values instanceof Float64Array ? '<f8' : '<f4');
  const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${shape.map((size) => `${size},`).join(' ')}), }`;
  const header = text.padEnd(64 * Math.ceil((text.length + 11) / 64) - 11);
  const start = Buffer.from('\x93NUMPY\x01\x00..', 'latin1');
  start.writeUInt16LE(header.length + 1, 8);
  return Buffer.concat([start, Buffer.from(`${header}\n`), bytesOf(values)]);
}

type Tensor = readonly [
  shape: readonly number[],
  values: Float32Array | Uint16Array | Float64Array,
  dtype?: string,
];

export function safetensorsFile(tensors: Readonly<Record<string, Tensor>>): Buffer {
  let at = 0;
  const entries = Object.entries(tensors).map(([name, [shape, values, dtype = 'F32']]) => {
    const begin = at;
    at += values.byteLength;
    return [name, { dtype, shape, data_offsets: [begin, at] }] as const;
  });
  const header = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, header, ...Object.values(tensors).map(([, values]) => bytesOf(values))]);
}

function bytesOf({ buffer, byteOffset, byteLength }: NodeJS.TypedArray): Buffer {
  return Buffer.from(buffer, byteOffset, byteLength);
}
