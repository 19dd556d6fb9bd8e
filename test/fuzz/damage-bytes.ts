/** The container itself is changed, wherever that hits. */
import type { Damaged } from './damage.js';
import { type Draft, drawNumber } from './draft.js';
import type { Random } from './random.js';

export function headerLength({ tensors }: Draft, bytes: Uint8Array): number {
  return bytes.length - tensors.reduce((size, t) => size + Math.ceil(t.bytes.length / 32) * 32, 0);
}

export function damagedBytes(bytes: Uint8Array, header: number, random: Random): Damaged {
  const at = random.below(header);
  switch (random.below(5)) {
    case 0:
      return { bytes: bytes.subarray(0, at), what: `cut at byte ${at}` };
    case 1: {
      const more = Buffer.alloc(1 + random.below(16), random.below(256));
      const grown = Buffer.concat([bytes.subarray(0, at), more, bytes.subarray(at)]);
      return { bytes: grown, what: `${more.length} bytes more at ${at}` };
    }
    case 2: {
      const gone = 1 + random.below(16);
      const shrunk = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + gone)]);
      return { bytes: shrunk, what: `${gone} bytes less at ${at}` };
    }
    case 3: {
      const changed = Buffer.from(bytes);
      const places = random.times(1, 8, () => random.below(header));
      for (const place of places) changed[place] = random.pick([0, 1, 127, 128, 255, random.below(256)]);
      return { bytes: changed, what: `other bytes at ${places}` };
    }
    default: {
      const changed = Buffer.from(bytes);
      const place = Math.min(at, header - 8);
      const value = BigInt.asUintN(64, BigInt(drawNumber(random, 8)));
      changed.writeBigUInt64LE(value, place);
      return { bytes: changed, what: `${value} at ${place}` };
    }
  }
}
