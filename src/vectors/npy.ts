/** Where the floats of a .npy file lie; the format is NumPy's, version 1 to 3. */
import fs from 'node:fs';
import type { FloatType, StoredTensor } from '../safetensors.js';

const types: Readonly<Record<string, FloatType>> = { '<f2': 'F16', '<f4': 'F32', '<f8': 'F64' };

/** @returns why it can't be read, where it can't. */
export function npyTensor(descriptor: number): StoredTensor | string {
  const start = read(descriptor, 0, 12);
  if (start.length < 12 || start.toString('latin1', 0, 6) !== '\x93NUMPY') return 'is no .npy file';
  const begin = start[6] === 1 ? 10 : 12;
  const length = begin === 10 ? start.readUInt16LE(8) : start.readUInt32LE(8);
  const header = read(descriptor, begin, Math.min(length, 2 ** 16)).toString('latin1');
  const type = types[/'descr': *'([^']*)'/.exec(header)?.[1] ?? ''];
  const dimensions = /'shape': *\(([\d, ]*)\)/.exec(header)?.[1];
  if (type === undefined) return 'holds no float16, float32 or float64 of a little-endian machine';
  if (dimensions === undefined) return 'is no .npy file';
  const shape = dimensions
    .split(',')
    .filter((part) => part.trim() !== '')
    .map(Number);
  if (/'fortran_order': *True/.test(header) && shape.length > 1) {
    return 'lies column by column: write it by numpy.ascontiguousarray';
  }
  return { type, shape, offset: begin + length };
}

function read(descriptor: number, position: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  return bytes.subarray(0, fs.readSync(descriptor, bytes, 0, length, position));
}
