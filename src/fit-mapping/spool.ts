/** Rows of floats that wait in a file of their own until they are wanted. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { readTensor, writeTensor } from '../safetensors.js';

/** Takes all of a stream first, and then gives it again, part by part. */
export async function* spooled(
  stream: AsyncIterable<readonly Float32Array[]>,
): AsyncGenerator<Float32Array[]> {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'patchscopes-'));
  const descriptor = fs.openSync(path.join(folder, 'states'), 'wx+');
  try {
    const parts: number[][] = [];
    let end = 0;
    for await (const rows of stream) {
      for (const values of rows) {
        writeTensor(descriptor, end, values);
        end += values.byteLength;
      }
      parts.push(rows.map(({ length }) => length));
    }
    let at = 0;
    for (const lengths of parts) {
      yield lengths.map((length) => {
        const values = readTensor(descriptor, { shape: [length], offset: at });
        at += values.byteLength;
        return values;
      });
    }
  } finally {
    fs.closeSync(descriptor);
    fs.rmSync(folder, { recursive: true });
  }
}
