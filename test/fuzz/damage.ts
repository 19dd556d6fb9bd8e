/** Damaged models: a tiny one with some of its keys, tensors or bytes changed, as a seed says. */
import {
  type Gguf,
  list,
  scalar,
  type Tensor,
  type Value,
  type ValueType,
  writeGguf,
} from '../fixtures/gguf.js';
import { badKinds, goodKinds, type ModelKind, tinyModel } from '../fixtures/models.js';
import type { Random } from './random.js';
import { architectures, blockTensors, ownKeys, tokenizerKeys } from './vocabulary.js';

/** A model on its way to being damaged, and what was done to it. */
interface Draft {
  readonly metadata: Map<string, Value>;
  readonly tensors: Tensor[];
  readonly done: string[];
}

export interface Damaged {
  readonly bytes: Uint8Array;
  readonly what: string;
}

const known = new Map<ModelKind, Gguf>();

function draftOf(kind: ModelKind): Draft {
  const model = known.get(kind) ?? tinyModel(kind);
  known.set(kind, model);
  return { metadata: new Map(model.metadata), tensors: [...model.tensors], done: [kind] };
}

/** Most of them of an architecture that is not refused anyway. */
const drawKind = (random: Random): ModelKind => random.pick(random.chance(0.85) ? goodKinds : badKinds);

export function headerDamage(random: Random): Damaged {
  const draft = draftOf(drawKind(random));
  if (random.chance(0.75))
    for (const change of random.times(1, 3, () => random.pick(keyChanges))) change(draft, random);
  const bytes = writeGguf(draft);
  if (draft.done.length > 1) return { bytes, what: draft.done.join(', ') };
  const changed = damagedBytes(bytes, headerLength(draft, bytes), random);
  return { bytes: changed.bytes, what: `${draft.done[0]}, ${changed.what}` };
}

export function tensorDamage(random: Random): Damaged {
  const draft = draftOf(drawKind(random));
  for (const change of random.times(1, 3, () => random.pick(tensorChanges))) change(draft, random);
  if (random.chance(0.25)) random.pick(keyChanges)(draft, random);
  const retyped = draft.tensors.length > 0 && random.chance(0.3);
  const bytes = retyped ? writeWithOtherType(draft, random) : writeGguf(draft);
  return { bytes, what: draft.done.join(', ') };
}

// --- bytes

function headerLength({ tensors }: Draft, bytes: Uint8Array): number {
  return bytes.length - tensors.reduce((size, t) => size + Math.ceil(t.bytes.length / 32) * 32, 0);
}

function damagedBytes(bytes: Uint8Array, header: number, random: Random): Damaged {
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

// --- keys

const edges = [
  0,
  1,
  2,
  3,
  4,
  5,
  7,
  8,
  15,
  16,
  31,
  32,
  33,
  64,
  100,
  127,
  128,
  255,
  256,
  257,
  512,
  513,
  1000,
  4096,
  65535,
  65536,
  2 ** 20,
  2 ** 24,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32 - 1,
];

/** Near what is right, or an edge of some kind. */
function drawNumber(random: Random, right: number): number {
  const near = [right - 1, right + 1, right * 2, Math.floor(right / 2), right + 2, -right, right * 3];
  return random.chance(0.4) ? random.pick(near) : random.pick(edges);
}

const fractions = [
  0,
  -0,
  1,
  -1,
  0.5,
  1e-6,
  1e-30,
  1e30,
  -1e30,
  Number.NaN,
  Infinity,
  -Infinity,
  3.4e38,
  10000,
];
const texts = [
  '',
  'x',
  'none',
  'llama',
  'gpt2',
  'bert',
  't5',
  'rwkv',
  'linear',
  'yarn',
  'default',
  'qwen2',
  'llama-bpe',
  '%s%n',
  '\0',
  'ü'.repeat(1000),
  '{{ messages }}',
  '{% for %}',
];
const wholeTypes = ['u8', 'i8', 'u16', 'i16', 'u32', 'i32', 'u64', 'i64'] as const;

function asWhole(type: (typeof wholeTypes)[number], value: number): Value {
  const bits = Number(type.slice(1));
  const wrap = type.startsWith('u') ? BigInt.asUintN : BigInt.asIntN;
  const wrapped = wrap(bits, BigInt(value));
  return scalar(type, (bits === 64 ? wrapped : Number(wrapped)) as never);
}

const isWhole = (type: string): type is (typeof wholeTypes)[number] =>
  (wholeTypes as readonly string[]).includes(type);

/** A value of the same type, if it can be. */
function otherValue(value: Value, random: Random): Value {
  if (value.type === 'array') return otherList(value, random);
  if (isWhole(value.type)) return asWhole(value.type, drawNumber(random, Number(value.value)));
  if (value.type === 'f32' || value.type === 'f64') return scalar(value.type, random.pick(fractions));
  if (value.type === 'bool') return scalar('bool', !value.value);
  return scalar('string', random.pick(texts));
}

function otherList(value: Extract<Value, { type: 'array' }>, random: Random): Value {
  const values = [...(value.values as readonly never[])];
  const at = random.below(Math.max(1, values.length));
  switch (random.below(6)) {
    case 0:
      return list(value.of, values.slice(0, at));
    case 1:
      return list(value.of, [...values, ...values.slice(0, 1 + random.below(3))]);
    case 2:
      return list(value.of, []);
    case 3:
      return list(random.pick(wholeTypes.slice(0, 6)), values.map((_, i) => i % 100) as never[]);
    default: {
      const one = otherValue(scalar(value.of, (values[at] ?? zero(value.of)) as never), random);
      values[at] = (one as { readonly value?: unknown }).value as never;
      return list(value.of, values);
    }
  }
}

const zero = (type: ValueType): unknown =>
  type === 'string' ? '' : type === 'bool' ? false : type === 'u64' || type === 'i64' ? 0n : 0;

function anyValue(random: Random): Value {
  switch (random.below(7)) {
    case 0:
      return scalar('string', random.pick(texts));
    case 1:
      return scalar(random.pick(['f32', 'f64'] as const), random.pick(fractions));
    case 2:
      return scalar('bool', random.chance(0.5));
    case 3:
      return list(
        'u32',
        random.times(0, 5, () => random.pick(edges)),
      );
    case 4:
      return list(
        'f32',
        random.times(0, 5, () => random.pick(fractions)),
      );
    case 5:
      return list(
        'string',
        random.times(0, 3, () => random.pick(texts)),
      );
    default:
      return asWhole(random.pick(wholeTypes), random.pick(edges));
  }
}

const say = ({ metadata, done }: Draft, key: string): void => {
  const value = metadata.get(key);
  const shown =
    value === undefined
      ? 'gone'
      : value.type === 'array'
        ? `${value.of}[${value.values.length}] ${String(value.values.slice(0, 6))}`
        : `${value.type} ${value.value}`;
  done.push(`${key}: ${shown.slice(0, 60)}`);
};

const set = (draft: Draft, key: string, value: Value | undefined): void => {
  if (value === undefined) draft.metadata.delete(key);
  else draft.metadata.set(key, value);
  say(draft, key);
};

const architectureOf = ({ metadata }: Draft): string =>
  String((metadata.get('general.architecture') as { value?: unknown })?.value);

type Change = (draft: Draft, random: Random) => void;

const changeValue: Change = (draft, random) => {
  const key = random.pick([...draft.metadata.keys()]);
  set(draft, key, otherValue(draft.metadata.get(key)!, random));
};

const keyChanges: readonly Change[] = [
  changeValue,
  changeValue,
  changeValue,
  (draft, random) => set(draft, random.pick([...draft.metadata.keys()]), undefined),
  (draft, random) => set(draft, random.pick([...draft.metadata.keys()]), anyValue(random)),
  (draft, random) => {
    const key = `${architectureOf(draft)}.${random.pick(ownKeys)}`;
    set(
      draft,
      key,
      random.chance(0.7) ? asWhole('u32', drawNumber(random, random.pick([4, 16, 64]))) : anyValue(random),
    );
  },
  (draft, random) => {
    const key = `${architectureOf(draft)}.${random.pick(ownKeys)}`;
    set(
      draft,
      key,
      random.chance(0.5)
        ? scalar('f32', random.pick(fractions))
        : list(
            'u32',
            random.times(1, 4, () => random.pick(edges)),
          ),
    );
  },
  (draft, random) => {
    const key = random.pick(tokenizerKeys);
    set(draft, key, random.chance(0.5) ? asWhole('u32', random.pick(edges)) : anyValue(random));
  },
  // the whole model under another name, so that another loader reads it
  (draft, random) => {
    const from = `${architectureOf(draft)}.`;
    const to = random.pick(architectures);
    for (const [key, value] of [...draft.metadata]) {
      if (!key.startsWith(from)) continue;
      draft.metadata.delete(key);
      draft.metadata.set(`${to}.${key.slice(from.length)}`, value);
    }
    set(draft, 'general.architecture', scalar('string', to));
  },
];

// --- tensors

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

const tensorChanges: readonly Change[] = [
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
function writeWithOtherType(draft: Draft, random: Random): Uint8Array {
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
