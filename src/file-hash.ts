import { createHash } from 'node:crypto';
import fs from 'node:fs';

/** The sha256 of an open file. */
export function hashOf(descriptor: number): string {
  const hash = createHash('sha256');
  const piece = Buffer.alloc(2 ** 20);
  for (let at = 0; ; ) {
    const read = fs.readSync(descriptor, piece, 0, piece.length, at);
    if (read === 0) return hash.digest('hex');
    hash.update(piece.subarray(0, read));
    at += read;
  }
}
