/** Right arguments made wrong in one place, by a value of another kind, too much of it or none. */
import type { Random } from './random.js';

/** Values of every kind, at the edges of what a type holds. Nothing here may start many threads or fetch a file. */
const oddities: readonly (() => unknown)[] = [
  () => undefined,
  () => null,
  () => true,
  () => Number.NaN,
  () => Number.POSITIVE_INFINITY,
  () => Number.NEGATIVE_INFINITY,
  () => -1,
  () => -0,
  () => 0,
  () => 0.5,
  () => 1,
  () => 2 ** 31 - 1,
  () => 2 ** 31,
  () => 2 ** 32 + 1,
  () => Number.MAX_SAFE_INTEGER,
  () => 1e308,
  () => 10n,
  () => '',
  () => '0',
  () => '\0',
  () => '\ud800',
  () => 'embed',
  () => 'x'.repeat(5000),
  () => Symbol('odd'),
  () => () => 1,
  () => [],
  () => ({}),
  () => [[[]]],
  () => new Float32Array(0),
  () => new Float32Array(64).fill(Number.NaN),
  () => new Float32Array(64).fill(3e38),
  () => new Float32Array(63),
  () => new Float64Array(64),
  () => new Uint8Array(8),
  () => Array(600).fill(1),
  () => Array(3),
  () => Object.create(null),
  () => new Date(0),
  () => Promise.resolve(1),
  () => new Map([[1, 2]]),
];

type Holder = Record<PropertyKey, unknown>;

/** Every place in a value that can be spoilt: a holder and a key of it. */
function places(value: unknown, found: [Holder, PropertyKey][] = []): [Holder, PropertyKey][] {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return found;
  for (const key of Object.keys(value)) {
    found.push([value as Holder, key]);
    places((value as Holder)[key], found);
  }
  return found;
}

/** Changes one thing in the arguments, and says what. */
export function spoil(args: unknown[], random: Random): string {
  const found = places(args);
  if (found.length === 0) return 'nothing left';
  const [holder, key] = random.pick(found);
  if (random.chance(0.1)) {
    delete holder[key];
    return `${String(key)} gone`;
  }
  if (Array.isArray(holder) && random.chance(0.1)) {
    holder.push(...holder);
    return `all of it twice beside ${String(key)}`;
  }
  const value = random.pick(oddities)();
  holder[key] = value;
  return `${String(key)}: ${shown(value)}`;
}

function shown(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.slice(0, 30));
  if (ArrayBuffer.isView(value) || Array.isArray(value)) {
    return `${value.constructor.name}(${(value as unknown as number[]).length})`;
  }
  return typeof value === 'object' && value !== null
    ? (value.constructor?.name ?? 'null prototype')
    : String(value);
}
