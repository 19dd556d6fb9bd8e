/** `--set key=value`: parts of an experiment changed by hand. */
import { PatchscopeError } from '../errors.js';
import { type Located, type Place, parseDocument, quoted, shortened } from './document.js';

/** Changes the tree. A value is read as YAML; one that is null takes the key away. */
export function applySet(root: Located, setting: string): void {
  const [, typed, value] = /^([^=]+)=(.*)$/s.exec(setting) ?? [];
  if (typed === undefined) {
    throw new PatchscopeError(
      'bad_input',
      `--set is ${quoted(setting)} where key=value is needed, such as reading.tokens=20.`,
    );
  }
  const place = () => `--set ${shortened(setting)}`;
  const keys = typed.split('.');
  // what is typed counts from where it is typed
  const parsed = parseDocument(value!, { folder: '', placeOf: place });
  const parent = keys.slice(0, -1).reduce((node, key) => child(node, key, place), root);
  const last = keys.at(-1)!;
  if (parent.list !== undefined) {
    parent.list[indexIn(parent.list, last, place)] = parsed;
    return;
  }
  const map = mapOf(parent, last, place);
  if (parsed.scalar?.value === null) map.delete(last);
  else map.set(last, { keyPlace: place, node: parsed });
}

function child(node: Located, key: string, place: Place): Located {
  if (node.list !== undefined) return node.list[indexIn(node.list, key, place)]!;
  const map = mapOf(node, key, place);
  const entry = map.get(key) ?? { keyPlace: place, node: { place, folder: '', map: new Map() } };
  map.set(key, entry);
  return entry.node;
}

function mapOf({ map }: Located, key: string, place: Place) {
  if (map !== undefined && key !== '' && key !== '__proto__') return map;
  throw new PatchscopeError(
    'bad_input',
    map === undefined
      ? `${place()}: there is nothing that the key ${quoted(key)} could be set in, since a single value stands there.`
      : `${place()}: ${quoted(key)} is no key.`,
  );
}

function indexIn(list: readonly Located[], key: string, place: Place): number {
  if (/^\d+$/.test(key) && Number(key) < list.length) return Number(key);
  const there = list.length === 0 ? 'none' : `0 to ${list.length - 1}`;
  throw new PatchscopeError(
    'bad_input',
    `${place()}: ${quoted(key)} is no number of the list, which are ${there}.`,
  );
}
