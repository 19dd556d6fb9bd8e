/** What the schema finds wrong, as one sentence. */
import type { z } from 'zod';
import type { PatchscopeError } from '../errors.js';
import { nearest } from '../nearest.js';
import { around, badAt, type Located, type Path, pathText, quoted } from './document.js';

type Issue = z.core.$ZodIssue;

export function problem(issue: Issue, root: Located): PatchscopeError {
  const { code, path, message } = innermost(issue);
  const node = around(root, path);
  if (code === 'unrecognized_keys') return unknownKey(issueKey(innermost(issue)), message, path, node);
  if (path.length > 0 && !isThere(root, path)) {
    return badAt(node.place, `${pathText(path)} is missing: it must be ${message}`);
  }
  const what = path.length === 0 ? 'the experiment' : pathText(path);
  return badAt(node.place, `${what} is ${shown(node)} where ${message} is needed`);
}

/** Of a choice of kinds, the one that was probably meant: the only one of the given kind. */
function innermost(issue: Issue): Issue {
  if (issue.code !== 'invalid_union') return issue;
  const near = issue.errors.filter((issues) =>
    issues.every(({ code, path }) => path.length > 0 || code === 'unrecognized_keys' || code === 'too_small'),
  );
  const [inner] = near.length === 1 ? near[0]! : [];
  return inner === undefined ? issue : innermost({ ...inner, path: [...issue.path, ...inner.path] });
}

function issueKey(issue: Issue): string {
  return (issue as z.core.$ZodIssueUnrecognizedKeys).keys[0]!;
}

function unknownKey(key: string, known: string, path: Path, node: Located): PatchscopeError {
  const meant = nearest(key, known.split(', '));
  const perhaps = meant === undefined ? '' : `, perhaps ${meant} was meant`;
  const inside = path.length === 0 ? 'an experiment' : pathText(path);
  const place = node.map?.get(key)?.keyPlace ?? node.place;
  return badAt(place, `there is no key ${quoted(key)} in ${inside}${perhaps}: its keys are ${known}`);
}

function isThere(root: Located, path: Path): boolean {
  const last = path.at(-1)!;
  const parent = around(root, path.slice(0, -1));
  return parent.list !== undefined ? Number(last) in parent.list : parent.map?.has(String(last)) === true;
}

/** What was given, in words. */
export function shown({ scalar, list, map }: Located): string {
  if (list !== undefined) return list.length === 0 ? 'an empty list' : 'a list';
  if (map !== undefined) return map.size === 0 ? 'an empty set of keys' : 'a set of keys';
  if (scalar!.value === null) return 'empty';
  return typeof scalar!.value === 'string' ? quoted(scalar!.value) : scalar!.written.slice(0, 60);
}
