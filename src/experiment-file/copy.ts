/** An experiment of the package as a file to be changed, which means in its folder what it means in the package. */
import path from 'node:path';
import { PatchscopeError } from '../errors.js';
import { type Located, parseDocument, quoted } from './document.js';
import { builtInNames, builtIns, readFile } from './read-experiment.js';

/**
 * The text of a built-in experiment, with its comments.
 *
 * @param folder where it is to lie: paths in it are made relative to it.
 * @throws PatchscopeError `bad_input` where there is none of that name.
 */
export function copyExperiment(name: string, folder: string): string {
  if (!builtInNames().includes(name) && /[./\\]/.test(name)) {
    throw new PatchscopeError(
      'bad_input',
      `${quoted(name)} is no name of a built-in experiment: there are ${builtInNames().join(', ')}.`,
    );
  }
  const { text } = readFile(name);
  const moved = (written: string) => {
    const relative = path.relative(folder, path.join(builtIns, written)).split(path.sep).join('/');
    return /^\.\.?\/|^(\/|[a-z]:)/i.test(relative) ? relative : `./${relative}`;
  };
  const starts = lineStarts(text);
  const offsets = new Map<number, string>();
  const root = parseDocument(text, {
    folder: builtIns,
    placeOf: (line, column) => `${starts[line - 1]! + column - 1}`,
  });
  for (const { place, written } of paths(root)) offsets.set(Number(place()), written);
  let at = 0;
  const pieces: string[] = [];
  for (const [offset, written] of [...offsets].sort(([a], [b]) => a - b)) {
    const quote = /["']/.exec(text[offset]!)?.[0] ?? '';
    pieces.push(text.slice(at, offset), scalar(moved(written)));
    at = offset + written.length + 2 * quote.length;
  }
  pieces.push(text.slice(at));
  return pieces
    .join('')
    .replace(/^(# yaml-language-server: \$schema=)(\S+)/, (_, key, to) => `${key}${moved(to)}`);
}

/** What begins with ./ or ../ is a path, which the files of the package write so. */
function* paths({
  scalar: one,
  list,
  map,
  place,
}: Located): Generator<{ place: () => string; written: string }> {
  if (one !== undefined && typeof one.value === 'string' && /^\.\.?\//.test(one.value)) {
    yield { place, written: one.written };
  }
  for (const node of list ?? []) yield* paths(node);
  for (const { node } of map?.values() ?? []) yield* paths(node);
}

function lineStarts(text: string): number[] {
  return [0, ...[...text.matchAll(/\n/g)].map(({ index }) => index + 1)];
}

/** Quoted where YAML would read it otherwise. */
function scalar(value: string): string {
  return /^[\w./-]+$/.test(value) ? value : JSON.stringify(value);
}
