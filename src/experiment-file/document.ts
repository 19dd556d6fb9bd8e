/** YAML or JSON text as a tree in which every part knows where it stands. */
import path from 'node:path';
import { Composer, isAlias, isMap, isScalar, Lexer, LineCounter, type Node, Parser } from 'yaml';
import { PatchscopeError } from '../errors.js';

/** Of a part: FILE:LINE:COLUMN, or the option that it was typed behind. */
export type Place = () => string;

export interface Located {
  readonly place: Place;
  /** What paths in it are relative to. */
  readonly folder: string;
  /** Of a single value; `written` as it stands there. */
  readonly scalar?: { readonly value: unknown; readonly written: string };
  readonly list?: Located[];
  readonly map?: Map<string, Entry>;
}

export interface Entry {
  readonly keyPlace: Place;
  readonly node: Located;
}

export type Path = readonly PropertyKey[];

/** What YAML reads otherwise than a template is meant. */
export const quotesHelp = 'put quotes around a text that holds { or [';

/** The text's parser runs into the end of the stack, which V8 may not survive, long after this depth. */
const MOST_LEVELS = 100;
/** Aliases multiply. */
const MOST_VALUES = 1_000_000;

export interface Origin {
  readonly folder: string;
  /** Lines and columns count from 1. */
  placeOf(line: number, column: number): string;
}

/** @throws PatchscopeError `bad_input` */
export function parseDocument(text: string, origin: Origin): Located {
  const lines = new LineCounter();
  const at = (offset: number) => () => {
    const { line, col } = lines.linePos(offset);
    return origin.placeOf(line, col);
  };
  const [document, second] = compose(text, lines, at);
  if (second !== undefined) throw badAt(at(second.range[0]), 'a second document begins where one is needed');
  const fault = document!.errors[0] ?? document!.warnings[0];
  if (fault !== undefined) {
    const help = /flow-|Flow |keys must/.test(fault.message) ? ` (${quotesHelp})` : '';
    throw badAt(at(fault.pos[0]), `this is not YAML: ${shortened(fault.message)}${help}`);
  }
  return document!.contents === null
    ? { place: at(0), folder: origin.folder, scalar: { value: null, written: '' } }
    : new Conversion(at, origin.folder).of(document!.contents);
}

function compose(text: string, lines: LineCounter, at: (offset: number) => Place) {
  const parser = new Parser(lines.addNewLine);
  lines.addNewLine(0);
  const tokens = [];
  let offset = 0;
  for (const lexeme of new Lexer().lex(text)) {
    tokens.push(...parser.next(lexeme));
    if (parser.stack.length > MOST_LEVELS) throw badAt(at(offset), 'it is nested too deeply');
    offset += lexeme.length;
  }
  tokens.push(...parser.end());
  const composer = new Composer({ schema: 'core', stringKeys: true, uniqueKeys: false, prettyErrors: false });
  return [...composer.compose(tokens, true, text.length)];
}

class Conversion {
  readonly #at: (offset: number) => Place;
  readonly #folder: string;
  readonly #anchors = new Map<string, Node>();
  /** Anchored nodes that are being read: an alias to one of them has no end. */
  readonly #open = new Set<Node>();
  #values = 0;

  constructor(at: (offset: number) => Place, folder: string) {
    this.#at = at;
    this.#folder = folder;
  }

  of(node: Node): Located {
    const place = this.#at(node.range![0]);
    if (++this.#values > MOST_VALUES) throw badAt(place, `it holds more than ${MOST_VALUES} values`);
    if (isAlias(node)) {
      const anchored = this.#anchors.get(node.source);
      if (anchored === undefined) throw badAt(place, `the alias *${node.source} has no anchor before it`);
      if (this.#open.has(anchored)) throw badAt(place, `the alias *${node.source} lies inside what it names`);
      return this.of(anchored);
    }
    if ('anchor' in node && node.anchor !== undefined) this.#anchors.set(node.anchor, node);
    this.#open.add(node);
    const read = this.#read(node, place);
    this.#open.delete(node);
    return read;
  }

  #read(node: Node, place: Place): Located {
    const folder = this.#folder;
    if (isScalar(node)) {
      if (typeof node.value === 'string' && /\p{Surrogate}/u.test(node.value)) {
        throw badAt(place, 'the text holds half a character (a lone surrogate)');
      }
      return { place, folder, scalar: { value: node.value, written: node.source ?? String(node.value) } };
    }
    if (!isMap(node)) {
      return { place, folder, list: (node as { items: Node[] }).items.map((item) => this.of(item)) };
    }
    const map = new Map<string, Entry>();
    for (const { key, value } of node.items) {
      const [name, keyPlace] = this.#key(key, place);
      if (map.has(name)) throw badAt(keyPlace, `the key ${quoted(name)} is there twice`);
      if (name === '__proto__') throw badAt(keyPlace, 'no key may be called __proto__');
      const nothing = { place: keyPlace, folder, scalar: { value: null, written: '' } };
      map.set(name, { keyPlace, node: value === null ? nothing : this.of(value as Node) });
    }
    return { place, folder, map };
  }

  #key(key: unknown, around: Place): readonly [string, Place] {
    if (!isScalar(key)) throw badAt(around, 'a key is needed that is a plain word');
    const keyPlace = key.range ? this.#at(key.range[0]) : around;
    return [typeof key.value === 'string' ? key.value : String(key.source ?? key.value), keyPlace];
  }
}

export function badAt(place: Place, what: string): PatchscopeError {
  return new PatchscopeError('bad_input', `${place()}: ${what}.`);
}

/** As plain data. */
export function plain({ scalar, list, map }: Located): unknown {
  if (list !== undefined) return list.map(plain);
  if (map === undefined) return scalar!.value;
  return Object.fromEntries([...map].map(([key, { node }]) => [key, plain(node)]));
}

/** The part at a path, or the nearest thing around it that is there. */
export function around(root: Located, keys: Path): Located {
  let node = root;
  for (const key of keys) {
    const next = node.list?.[key as number] ?? node.map?.get(String(key))?.node;
    if (next === undefined) return node;
    node = next;
  }
  return node;
}

/** The path of a file that is named in a part. */
export function pathFrom({ folder }: Located, name: string): string {
  return path.isAbsolute(name) ? name : path.join(folder, name);
}

/** As in `variants[0].source.prompt`. */
export function pathText(keys: Path): string {
  return keys
    .map((key, i) => (typeof key === 'number' ? `[${key}]` : `${i === 0 ? '' : '.'}${String(key)}`))
    .join('');
}

export function quoted(text: string): string {
  return `'${shortened(text)}'`;
}

export function shortened(text: string): string {
  return text.length > 60 ? `${text.slice(0, 59)}…` : text;
}
