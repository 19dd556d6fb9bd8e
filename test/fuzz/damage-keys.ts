/** Keys with other values, of other types, missing, added, or of another architecture. */
import { list, scalar, type Value, type ValueType } from '../fixtures/gguf.js';
import { type Change, type Draft, drawNumber, edges } from './draft.js';
import type { Random } from './random.js';
import { architectures, ownKeys, tokenizerKeys } from './vocabulary.js';

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
        random.times(0, 5, () => random.pick(edges) % 2 ** 32),
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

const changeValue: Change = (draft, random) => {
  const key = random.pick([...draft.metadata.keys()]);
  set(draft, key, otherValue(draft.metadata.get(key)!, random));
};

export /** The whole model under another name, so that another loader reads it. */
function rename(draft: Draft, random: Random): void {
  const from = `${architectureOf(draft)}.`;
  const to = random.pick(architectures);
  for (const [key, value] of [...draft.metadata]) {
    if (!key.startsWith(from)) continue;
    draft.metadata.delete(key);
    draft.metadata.set(`${to}.${key.slice(from.length)}`, value);
  }
  set(draft, 'general.architecture', scalar('string', to));
}

/** What is a text, or makes a model that is refused before much of it is read. */
const notGuessed =
  /rope\.scaling\.type|expert_(count|used|group)|nextn|causal|pooling_type|activation$|data_layout|output_labels/;

/** Of the type that a key's name promises. */
function plausible(key: string, random: Random): Value {
  if (
    /epsilon|scale$|factor|base$|base_swa$|capping|beta|alpha|bias$|clamp|multiplier$|gain$|magnitude|bound$/.test(
      key,
    )
  ) {
    return scalar('f32', random.pick([0, 1e-6, 1, 10000]));
  }
  if (/causal|finetuned|use_|norm$|_rms$|safe_gate|before_|prefix_lm/.test(key))
    return scalar('bool', random.chance(0.5));
  return scalar('u32', random.pick([0, 1, 1, 2, 4, 8, 16, 32]));
}

export const keyChanges: readonly Change[] = [
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
            random.times(1, 4, () => random.pick(edges) % 2 ** 32),
          ),
    );
  },
  (draft, random) => {
    const key = random.pick(tokenizerKeys);
    set(draft, key, random.chance(0.5) ? asWhole('u32', random.pick(edges)) : anyValue(random));
  },
  rename,
  // and whatever that loader may ask for
  (draft, random) => {
    rename(draft, random);
    const prefix = `${architectureOf(draft)}.`;
    const wanted = ownKeys
      .filter((key) => !notGuessed.test(key))
      .map((key) => `${prefix}${key}`)
      .filter((key) => !draft.metadata.has(key));
    if (random.chance(0.3)) {
      draft.metadata.set(`${prefix}expert_count`, scalar('u32', 4));
      draft.metadata.set(`${prefix}expert_used_count`, scalar('u32', 2));
    }
    for (const key of wanted) draft.metadata.set(key, plausible(key, random));
    const zeros = random.times(1, 3, () =>
      random.pick([...draft.metadata.keys()].filter((key) => key.startsWith(prefix))),
    );
    for (const key of zeros)
      set(draft, key, isWhole(draft.metadata.get(key)!.type) ? scalar('u32', 0) : anyValue(random));
  },
];
