import { PatchscopeError } from './errors.js';
import type { Position, Span } from './patchscope.js';

/**
 * Reads a position as it is typed: a whole number is an index, anything else a piece of the prompt's text,
 * with `#2` behind it for its second occurrence. A number that is meant as text is written `5#1`.
 */
export function parsePosition(typed: string): Position {
  if (/^-?\d+$/.test(typed)) return { kind: 'index', index: Number(typed) };
  const [, text, occurrence] = /^(.+)#(\d+)$/s.exec(typed) ?? [];
  return text === undefined
    ? { kind: 'text', text: typed }
    : { kind: 'text', text, occurrence: Number(occurrence) };
}

/** Reads tokens as they are typed: `all`, an index, a range such as `0..4`, else a piece of the prompt's text. */
export function parseSpan(typed: string): Span {
  if (typed === 'all') return { kind: 'all' };
  const [, first, last] = /^(-?\d+)(?:\.\.(-?\d+))?$/.exec(typed) ?? [];
  if (first !== undefined) return { kind: 'range', first: Number(first), last: Number(last ?? first) };
  return parsePosition(typed) as Extract<Position, { kind: 'text' }>;
}

/**
 * The tokens a span means, in their order.
 *
 * @param tokens and `which` as of `resolvePosition`.
 * @throws PatchscopeError `bad_input` where they are not there.
 */
export function resolveSpan(span: Span, tokens: readonly Uint8Array[], which: string): number[] {
  if (span.kind === 'all') return tokens.map((_, i) => i);
  if (span.kind === 'range') {
    const first = resolveIndex(span.first, tokens.length, which);
    const last = resolveIndex(span.last, tokens.length, which);
    if (last >= first) return tokens.flatMap((_, i) => (i >= first && i <= last ? [i] : []));
    throw new PatchscopeError(
      'bad_input',
      `The positions ${span.first}..${span.last} of the ${which} prompt are ${first} to ${last}: begin with the earlier one.`,
    );
  }
  const end = lastByte(span.text, span.occurrence, tokens, which);
  const begin = end + 1 - Buffer.byteLength(span.text, 'utf8');
  let passed = 0;
  return tokens.flatMap((bytes, i) => {
    const from = passed;
    passed += bytes.length;
    return passed > begin && from <= end && bytes.length > 0 ? [i] : [];
  });
}

/**
 * The token a position means.
 *
 * @param tokens bytes of each token of the prompt; positions are told by bytes, so a piece of text may
 *   begin or end inside a token.
 * @param which word for messages: 'source' or 'target'.
 * @param draw of the interval [0, 1), for a random position.
 * @returns index of the token that holds the last byte of the text, or the index itself.
 * @throws PatchscopeError `bad_input` where the index, the text or its occurrence is not there.
 */
export function resolvePosition(
  position: Position,
  tokens: readonly Uint8Array[],
  which: string,
  draw = 0,
): number {
  if (position.kind === 'random') return drawnIndex(tokens, draw);
  if (position.kind === 'same' || position.kind === 'each') {
    throw new PatchscopeError(
      'bad_input',
      position.kind === 'same'
        ? `The ${which} position is 'same', which only a target's can be: name a token.`
        : `The ${which} position is each of some tokens, which only the source's of a run's cells can be: name a token.`,
    );
  }
  return position.kind === 'index'
    ? resolveIndex(position.index, tokens.length, which)
    : resolveText(position.text, position.occurrence, tokens, which);
}

/** Any token that is written in the prompt: a BOS that was put before it has no bytes here. */
function drawnIndex(tokens: readonly Uint8Array[], draw: number): number {
  const first = tokens.length > 1 && tokens[0]!.length === 0 ? 1 : 0;
  return first + Math.floor(draw * (tokens.length - first));
}

function resolveIndex(index: number, count: number, which: string): number {
  const resolved = index < 0 ? index + count : index;
  if (resolved < 0 || resolved >= count) {
    throw new PatchscopeError(
      'bad_input',
      `Position ${index} is outside the ${which} prompt, whose ${count} tokens are 0 to ${count - 1} (-1 is the last).`,
    );
  }
  return resolved;
}

function resolveText(
  text: string,
  occurrence: number | undefined,
  tokens: readonly Uint8Array[],
  which: string,
): number {
  const end = lastByte(text, occurrence, tokens, which);
  let passed = 0;
  return tokens.findIndex((bytes) => {
    passed += bytes.length;
    return end < passed;
  });
}

/** Of a piece of the prompt's text, counted over all its tokens. */
function lastByte(
  text: string,
  occurrence: number | undefined,
  tokens: readonly Uint8Array[],
  which: string,
): number {
  const prompt = Buffer.concat(tokens);
  const wanted = Buffer.from(text, 'utf8');
  if (wanted.length === 0) throw new PatchscopeError('bad_input', `The ${which} position is an empty text.`);
  const ends: number[] = [];
  for (let at = prompt.indexOf(wanted); at >= 0; at = prompt.indexOf(wanted, at + 1)) {
    ends.push(at + wanted.length - 1);
  }
  if (ends.length === 0) {
    throw new PatchscopeError(
      'bad_input',
      `The text '${text}' does not occur in the ${which} prompt ${shortened(prompt.toString('utf8'))}.`,
    );
  }
  if (occurrence === undefined && ends.length > 1) {
    throw new PatchscopeError(
      'bad_input',
      `The text '${text}' occurs ${ends.length} times in the ${which} prompt: choose one by '${text}#1' to '${text}#${ends.length}'.`,
    );
  }
  const end = ends[(occurrence ?? 1) - 1];
  if (end === undefined) {
    throw new PatchscopeError(
      'bad_input',
      `The text '${text}' occurs ${ends.length} time${ends.length === 1 ? '' : 's'} in the ${which} prompt: there is no '${text}#${occurrence}'.`,
    );
  }
  return end;
}

/** Quoted, on one line. */
function shortened(text: string): string {
  return JSON.stringify(text.length > 60 ? `${text.slice(0, 59)}…` : text);
}
