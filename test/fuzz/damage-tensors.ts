/** Tensors of other shapes, types, names and numbers, missing and added. */
import { scalar, type Tensor, writeGguf } from '../fixtures/gguf.js';
import { type Change, type Draft, drawNumber, edges } from './draft.js';
import type { Random } from './random.js';
import { blockTensors } from './vocabulary.js';

const count = (shape: readonly number[]): number => shape.reduce((product, n) => product * n, 1);
const size = { f32: 4, f16: 2 } as const;

/** The same numbers, again and again, until the shape is full. */
function reshaped(tensor: Tensor, shape: readonly number[]): Tensor {
  const bytes = Buffer.alloc(Math.max(0, Math.min(2 ** 22, count(shape) * size[tensor.type])));
  if (tensor.bytes.length > 0 && bytes.length > 0) bytes.fill(tensor.bytes);
  return { ...tensor, shape, bytes };
}

/** @returns the changed tensor, or undefined for none; both are said. */
const changeOne =
  (change: (tensor: Tensor, random: Random, draft: Draft) => Tensor | undefined): Change =>
  (draft, random) => {
    if (draft.tensors.length === 0) return;
    const at = random.below(draft.tensors.length);
    const before = draft.tensors[at]!;
    const after = change(before, random, draft);
    if (after === undefined) draft.tensors.splice(at, 1);
    else draft.tensors[at] = after;
    draft.done.push(
      after === undefined
        ? `${before.name} gone`
        : `${before.name} [${before.shape}] -> ${after.name.slice(0, 70)} [${after.shape}] ${after.type}`,
    );
  };

const weights: readonly number[] = [Number.NaN, Infinity, -Infinity, 0, 1e30, -1e30, 1e-40, 3.4e38];

const drawName = (random: Random, draft: Draft): string =>
  random.chance(0.9) || draft.tensors.length === 0
    ? `${random.pick(blockTensors).replace('%d', String(random.pick([0, 1, 2, 3, 4, 99])))}${random.pick(['.weight', '.weight', '.bias', ''])}`
    : random.pick(draft.tensors).name;

export const tensorChanges: readonly Change[] = [
  changeOne(() => undefined),
  changeOne((tensor, random, draft) => ({ ...tensor, name: drawName(random, draft) })),
  changeOne((tensor) => reshaped(tensor, [...tensor.shape].reverse())),
  changeOne((tensor, random) => {
    const shape = [...tensor.shape];
    const at = random.below(shape.length);
    shape[at] = Math.max(0, Math.min(2 ** 16, drawNumber(random, shape[at]!)));
    return reshaped(tensor, shape);
  }),
  changeOne((tensor, random) => {
    const shape = [...tensor.shape];
    shape[random.below(shape.length)] = random.pick(edges);
    return { ...tensor, shape }; // and no more bytes than there were
  }),
  changeOne((tensor, random) =>
    reshaped(tensor, random.chance(0.5) ? [...tensor.shape, 1 + random.below(3)] : tensor.shape.slice(0, -1)),
  ),
  changeOne((tensor, random) => {
    const bytes = Buffer.from(tensor.bytes);
    const value = random.pick(weights);
    const all = random.chance(0.5);
    for (let at = 0; at + 4 <= bytes.length; at += 4)
      if (all || random.chance(0.01)) bytes.writeFloatLE(value, at);
    return { ...tensor, bytes };
  }),
  changeOne((tensor) => reshaped({ ...tensor, type: tensor.type === 'f32' ? 'f16' : 'f32' }, tensor.shape)),
  (draft, random) => {
    if (draft.tensors.length === 0) return;
    const extra = { ...random.pick(draft.tensors), name: drawName(random, draft) };
    draft.tensors.push(extra);
    draft.done.push(`${extra.name} [${extra.shape}] more`);
  },
  // a size that keys and tensors agree on, as far as they go
  (draft, random) => {
    const from = random.pick([16, 32, 64, 96, 128]);
    const to = random.pick([1, 2, 8, 15, 24, 48, 80, 256]);
    draft.tensors.forEach((tensor, i) => {
      draft.tensors[i] = reshaped(
        tensor,
        tensor.shape.map((n) => (n === from ? to : n)),
      );
    });
    for (const [key, value] of draft.metadata) {
      if (value.type === 'u32' && value.value === from) draft.metadata.set(key, scalar('u32', to));
    }
    draft.done.push(`${from} is ${to} everywhere`);
  },
];

/** ggml's types by number, with the elements and the bytes of a block: floats, quantized ones, whole numbers. */
const types: readonly (readonly [type: number, elements: number, bytes: number])[] = [
  [0, 1, 4],
  [1, 1, 2],
  [2, 32, 18],
  [3, 32, 20],
  [6, 32, 22],
  [7, 32, 24],
  [8, 32, 34],
  [9, 32, 36],
  [14, 256, 210],
  [15, 256, 292],
  [20, 32, 18],
  [24, 1, 1],
  [25, 1, 2],
  [26, 1, 4],
  [27, 1, 8],
  [28, 1, 8],
  [30, 1, 2],
  [39, 32, 17],
];

/** Writes the model with one tensor of another type, its numbers being whatever its bytes are then. */
export function writeWithOtherType(draft: Draft, random: Random): Uint8Array {
  const [type, elements, bytes] = random.pick(types);
  const at = random.below(draft.tensors.length);
  const tensor = draft.tensors[at]!;
  const resized = Buffer.alloc(Math.min(2 ** 22, Math.floor(count(tensor.shape) / elements) * bytes));
  if (tensor.bytes.length > 0 && resized.length > 0) resized.fill(tensor.bytes);
  draft.tensors[at] = { ...tensor, bytes: resized };
  draft.done.push(`${tensor.name} of type ${type}`);
  const written = writeGguf(draft);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(Buffer.byteLength(tensor.name)));
  const name = Buffer.concat([length, Buffer.from(tensor.name)]);
  written.writeUInt32LE(type, written.lastIndexOf(name) + name.length + 4 + 8 * tensor.shape.length);
  return written;
}
