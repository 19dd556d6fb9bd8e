/** What each kind of mapping can be told, and what holds where nothing is said. */
import { PatchscopeError } from '../errors.js';
import { type KindOptions, type MappingKind, mappingKinds } from '../patchscope.js';
import type { Widths } from './maps.js';

type OfKinds<T> = Readonly<Partial<Record<MappingKind, T>>>;

const names: OfKinds<readonly (keyof KindOptions)[]> = {
  'low-rank': ['rank'],
  kernel: ['features', 'bandwidth'],
  mlp: ['hidden', 'activation', 'epochs', 'rate'],
};
const defaults: OfKinds<KindOptions> = {
  kernel: { features: 1024 },
  mlp: { hidden: 1024, activation: 'silu', epochs: 100, rate: 3e-3 },
};

const withRidge: readonly MappingKind[] = ['linear', 'affine', 'low-rank', 'kernel'];
/** As many waves as there are pairs fit anything: without a ridge they fit the noise. */
const KERNEL_RIDGE = 1e-3;

/** @throws PatchscopeError `bad_input` where the kind has no ridge, or it is none. */
export function ridgeOf(kind: MappingKind, ridge: number | undefined): number {
  if (ridge === undefined) return kind === 'kernel' ? KERNEL_RIDGE : 0;
  if (!Number.isFinite(ridge) || ridge < 0) {
    throw bad(`The ridge is ${ridge} where a number of at least 0 is needed.`);
  }
  if (ridge > 0 && !withRidge.includes(kind)) throw bad(`The kind ${kind} has no ridge: leave it out.`);
  return ridge;
}

/** @throws PatchscopeError `bad_input` where an option is not the kind's, or out of its bounds. */
export function optionsOf(kind: MappingKind, given: KindOptions, { source, target }: Widths): KindOptions {
  const known = Object.entries(given).filter(([, value]) => value !== undefined);
  const has = (of: MappingKind, name: string) => (names[of] as readonly string[] | undefined)?.includes(name);
  const stray = known.find(([name]) => !has(kind, name))?.[0];
  if (stray !== undefined) {
    const owner = mappingKinds.find((other) => has(other, stray));
    throw bad(`The kind ${kind} has no ${stray}: leave it out, or take the kind ${owner}.`);
  }
  const options: KindOptions = { ...defaults[kind], ...Object.fromEntries(known) };
  const most = Math.min(source.width, target.width);
  const { rank, features, bandwidth, hidden, epochs, rate } = options;
  if (kind === 'low-rank' && !isWhole(rank, most)) {
    throw bad(
      rank === undefined
        ? `The kind low-rank needs a rank: give one from 1 to ${most} (--rank 16).`
        : `The rank is ${rank} where a whole number from 1 to ${most} is needed, the least of both widths.`,
    );
  }
  for (const [name, value] of Object.entries({ features, hidden, epochs })) {
    if (has(kind, name) && !isWhole(value, MOST_COUNT)) {
      throw bad(`The number of ${name} is ${value} where a whole number from 1 to ${MOST_COUNT} is needed.`);
    }
  }
  for (const [name, value] of Object.entries({ bandwidth, rate })) {
    if (value !== undefined && !(Number.isFinite(value) && value > 0)) {
      throw bad(`The ${name} is ${value} where a number above 0 is needed.`);
    }
  }
  return options;
}

/** More would be no slip of a finger only where memory is without end. */
const MOST_COUNT = 100_000;

function isWhole(value: number | undefined, most: number): boolean {
  return value !== undefined && Number.isSafeInteger(value) && value >= 1 && value <= most;
}

function bad(message: string): PatchscopeError {
  return new PatchscopeError('bad_input', message);
}
