/** What the schema finds wrong, as one sentence. */
import type { z } from 'zod';
import type { PatchscopeError } from '../errors.js';
import { nearest } from '../nearest.js';
import { around, badAt, type Located, type Path, pathText, quoted, quotesHelp } from './document.js';

type Issue = z.core.$ZodIssue;

/** @param whole what the tree is as a whole. */
export function problem(issues: readonly Issue[], root: Located, whole = 'the experiment'): PatchscopeError {
  const issue = innermost(first(issues));
  const { path, message } = issue;
  const node = around(root, path);
  if (issue.code === 'unrecognized_keys') return unknownKey(issue.keys[0]!, message, path, node);
  if (path.length > 0 && !isThere(root, path)) {
    return badAt(node.place, `${pathText(path)} is missing: it must be ${message}`);
  }
  const what = path.length === 0 ? whole : pathText(path);
  return badAt(node.place, `${what} is ${shown(node)} where ${message} is needed`);
}

/** Of a choice of kinds, the one that was probably meant: the only one of the given kind. */
function innermost(issue: Issue): Issue {
  if (issue.code !== 'invalid_union') return issue;
  const near = issue.errors.filter((issues) =>
    issues.every(({ code, path }) => path.length > 0 || code === 'unrecognized_keys' || code === 'too_small'),
  );
  if (near.length !== 1) return issue;
  const inner = first(near[0]!);
  return innermost({ ...inner, path: [...issue.path, ...inner.path] });
}

/** A key that is missing may be there in another spelling. */
function first(issues: readonly Issue[]): Issue {
  return issues.find(({ code }) => code === 'unrecognized_keys') ?? issues[0]!;
}

function unknownKey(key: string, known: string, path: Path, node: Located): PatchscopeError {
  const meant = nearest(key, known.split(', '));
  const perhaps = meant === undefined ? '' : `, perhaps ${meant} was meant`;
  const inside = path.length === 0 ? 'an experiment' : pathText(path);
  const place = node.map?.get(key)?.keyPlace ?? node.place;
  if (path.at(-1) === 'prompt' && isField(node))
    return badAt(place, `${inside} is {${key}} without quotes: ${quotesHelp}`);
  return badAt(place, `there is no key ${quoted(key)} in ${inside}${perhaps}: its keys are ${known}`);
}

function isThere(root: Located, path: Path): boolean {
  const last = path.at(-1)!;
  const parent = around(root, path.slice(0, -1));
  return parent.list !== undefined ? Number(last) in parent.list : parent.map?.has(String(last)) === true;
}

/** `{who}` is a set of keys to YAML, the one key empty. */
function isField({ map }: Located): boolean {
  const [only, more] = map?.values() ?? [];
  return more === undefined && only?.node.scalar?.written === '';
}

/** What was given, in words. */
function shown(node: Located): string {
  const { scalar, list, map } = node;
  if (list !== undefined) return list.length === 0 ? 'an empty list' : 'a list';
  if (isField(node)) return 'a {field} without quotes';
  if (map !== undefined) return map.size === 0 ? 'an empty set of keys' : 'a set of keys';
  if (scalar!.value === null) return 'empty';
  return typeof scalar!.value === 'string' ? quoted(scalar!.value) : scalar!.written.slice(0, 60);
}
