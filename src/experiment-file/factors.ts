/** Factors -> variants: the first level of each, each further level alone, and each two of these together. */
import { badAt, type Entry, type Located, pathText, quoted } from './document.js';

/** Of a variant that is made of factors: the level of each. */
export type Levels = Readonly<Record<string, string>>;

/** The name of the variant that has the first level of each factor. */
const BASE = 'base';

interface Level {
  readonly factor: string;
  readonly name: string;
  readonly entry: Entry;
}

/** Keys that hold keys, of which each factor may set some. */
const sections: ReadonlySet<string> = new Set(['source', 'target', 'edit', 'reading']);

/**
 * Puts the variants in the place of the factors, before those that the tree has.
 *
 * @param root of a file that fits the schema.
 * @returns the levels of each, by its name.
 * @throws PatchscopeError `bad_input`
 */
export function expandFactors({ map }: Located): Map<string, Levels> {
  const entry = map?.get('factors');
  if (map === undefined || entry === undefined) return new Map();
  const factors = [...entry.node.map!].map(([factor, { keyPlace, node }]) =>
    levelsOf(factor, keyPlace, node),
  );
  if (factors.length === 0)
    throw badAt(entry.keyPlace, 'factors is empty where at least one factor is needed');
  checkApart(factors);
  const base = factors.map(([first]) => first!);
  const singles = factors.flatMap(([, ...others], i) => others.map((level) => new Map([[i, level]])));
  const pairs = singles.flatMap((one, k) =>
    singles
      .slice(k + 1)
      .filter((other) => [...other.keys()][0] !== [...one.keys()][0])
      .map((other) => new Map([...one, ...other])),
  );
  const made = [new Map<number, Level>(), ...singles, ...pairs].map((changed) => {
    const levels = base.map((level, i) => changed.get(i) ?? level);
    const name = [...changed.values()].map((level) => `${level.factor}=${level.name}`).join(', ') || BASE;
    return { name, levels, node: variantOf(name, levels, [...changed.values()].at(-1)?.entry ?? entry) };
  });
  const own = map.get('variants')?.node.list ?? [];
  map.delete('factors');
  const { keyPlace, node } = entry;
  const list = [...made.map(({ node }) => node), ...own];
  map.set('variants', { keyPlace, node: { place: node.place, folder: node.folder, list } });
  return new Map(
    made.map(({ name, levels }) => [
      name,
      Object.fromEntries(levels.map((level) => [level.factor, level.name])),
    ]),
  );
}

function levelsOf(factor: string, place: Entry['keyPlace'], { map }: Located): Level[] {
  const levels = [...map!].map(([name, entry]) => ({ factor, name, entry }));
  const unclear = [factor, ...levels.map(({ name }) => name)].find((name) => /[=,]|^\s*$/.test(name));
  if (unclear !== undefined) {
    throw badAt(
      place,
      `factors.${factor} is called or has a level ${quoted(unclear)} where a name without = and commas is needed, since variants are named factor=level`,
    );
  }
  if (levels.length < 2) {
    throw badAt(
      place,
      `factors.${factor} has ${levels.length === 1 ? 'one level' : 'no level'} where at least two are needed, the first of which the others are compared with`,
    );
  }
  return levels;
}

/** Each key belongs to one factor, since of two that set it one would be lost. */
function checkApart(factors: readonly (readonly Level[])[]): void {
  const owners = new Map<string, Level>();
  for (const levels of factors) {
    for (const level of levels) {
      for (const [key, { keyPlace }] of keysOf(level)) {
        const owner = owners.get(key) ?? level;
        owners.set(key, owner);
        if (owner.factor === level.factor) continue;
        const [one, other] = [level, owner].map(({ factor, name }) => pathText(['factors', factor, name]));
        throw badAt(
          keyPlace,
          `${one} sets ${key}, as ${other} does, and of both together one would be lost: leave each key to one factor`,
        );
      }
    }
  }
}

/** What a level sets, such as `target.layers`. */
function keysOf({ entry }: Level): [string, Entry][] {
  return [...entry.node.map!].flatMap(([key, inner]): [string, Entry][] =>
    sections.has(key)
      ? [...inner.node.map!].map(([name, entry]) => [`${key}.${name}`, entry])
      : [[key, inner]],
  );
}

/** @param from where it stands. */
function variantOf(name: string, levels: readonly Level[], { keyPlace, node: { folder } }: Entry): Located {
  const entry = (node: Omit<Located, 'place' | 'folder'>): Entry => ({
    keyPlace,
    node: { place: keyPlace, folder, ...node },
  });
  const keys = new Map([['name', entry({ scalar: { value: name, written: name } })]]);
  for (const [path, value] of levels.flatMap(keysOf)) {
    const [key, inner] = path.split('.') as [string, string?];
    if (inner === undefined) keys.set(key, value);
    else {
      const section = keys.get(key) ?? entry({ map: new Map() });
      section.node.map!.set(inner, value);
      keys.set(key, section);
    }
  }
  return entry({ map: keys }).node;
}
