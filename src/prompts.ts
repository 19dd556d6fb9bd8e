/** Prompt and position -> token ids and the index of one of them. Token ids are never made from text twice. */
import type { TokenInput, Tokenizer } from './engine.js';
import { PatchscopeError } from './errors.js';
import type { Placeholder, Position, Prompt, Side } from './patchscope.js';
import { resolvePosition } from './positions.js';
import { uniforms } from './random.js';

export type TextReading = Required<
  Pick<Extract<Prompt, { readonly kind: 'text' }>, 'bos' | 'chat' | 'special'>
>;

export interface ResolvedPrompt {
  /** As it was given; null for raw token ids. */
  readonly text: string | null;
  /** How its text became token ids. */
  readonly reading?: TextReading;
  readonly tokenIds: readonly number[];
  /** What the decoder reads where an encoder reads the prompt. */
  readonly decoderTokenIds?: readonly number[];
  /** Where `tokenIndex` counts, in an encoder-decoder model. */
  readonly side?: Side;
  readonly tokenIndex: number;
  /** Text of the token at `tokenIndex`. */
  readonly token: string;
  /** Name of the adapter that it is read with. */
  readonly adapter?: string;
}

/**
 * @param which word for messages: 'source' or 'target'.
 * @param side where the position counts; only an encoder-decoder model has two.
 * @param draw of the interval [0, 1), for a random position.
 * @throws PatchscopeError `bad_input` for an empty prompt, ids outside the vocabulary, a side or a position
 *   that is not there.
 */
export function resolvePrompt(
  prompt: Prompt,
  position: Position,
  tokenizer: Tokenizer,
  which: string,
  side: Side = 'decoder',
  draw = 0,
): ResolvedPrompt {
  const tokenIds = tokenIdsOf(prompt, tokenizer, which);
  const text = prompt.kind === 'text' ? prompt.text : null;
  const reading = prompt.kind === 'text' ? { reading: readingOf(prompt) } : {};
  const start = tokenizer.decoderStartToken;
  if (start === undefined && side === 'encoder') {
    throw new PatchscopeError('bad_input', `This model has no encoder: the ${which} side is its decoder.`);
  }
  if (start !== undefined && side === 'decoder') {
    if (position.kind === 'text') {
      throw new PatchscopeError(
        'bad_input',
        `The text '${position.text}' of the ${which} prompt is read by the encoder: take the ${which} side encoder, or position 0 for the token that the decoder starts from.`,
      );
    }
    const bytes = [tokenizer.tokenBytes(start)];
    const tokenIndex = resolvePosition(position, bytes, `decoder's ${which}`, draw);
    return {
      text,
      ...reading,
      tokenIds,
      decoderTokenIds: [start],
      side,
      tokenIndex,
      token: decode(bytes[tokenIndex]!),
    };
  }
  const tokenIndex = resolvePosition(position, writtenBytes(tokenIds, text, tokenizer), which, draw);
  const decoder = start === undefined ? {} : { decoderTokenIds: [start], side };
  const token = tokenText(tokenIds[tokenIndex]!, tokenizer);
  return { text, ...reading, tokenIds, ...decoder, tokenIndex, token };
}

/** A BOS token that was put in front is not part of the text one may point at. */
export function writtenBytes(
  tokenIds: readonly number[],
  text: string | null,
  tokenizer: Tokenizer,
): Uint8Array[] {
  return tokenIds.map((tokenId, i) =>
    i === 0 && text !== null && tokenId === tokenizer.bosToken
      ? new Uint8Array()
      : tokenizer.tokenBytes(tokenId),
  );
}

function readingOf({ bos = true, special = false, chat = false }: Extract<Prompt, { kind: 'text' }>) {
  return { bos, chat, special };
}

/**
 * The source up to its position, as a target.
 *
 * @param position in what is left of the prompt.
 */
export function sourceAsTarget(
  { reading: _, decoderTokenIds, ...source }: ResolvedPrompt,
  position: Position,
  tokenizer: Tokenizer,
  draw?: number,
): ResolvedPrompt {
  if (source.side === 'encoder') {
    throw new PatchscopeError(
      'bad_input',
      'An encoder reads its prompt whole: a source on its side can not be a target up to its position.',
    );
  }
  const all = decoderTokenIds ?? source.tokenIds;
  const tokenIds = all.slice(0, source.tokenIndex + 1);
  const bytes = tokenIds.map((tokenId) => tokenizer.tokenBytes(tokenId));
  const tokenIndex = resolvePosition(position, bytes, 'target', draw);
  const cut = decoderTokenIds === undefined ? { text: null, tokenIds } : { decoderTokenIds: tokenIds };
  return { ...source, ...cut, tokenIndex, token: decode(bytes[tokenIndex]!) };
}

/**
 * A target with padding tokens before its text, at the position of the source.
 *
 * @throws PatchscopeError `bad_input` where there is no such token, or no room for one.
 */
export function paddedTarget(
  { reading: _, ...target }: ResolvedPrompt,
  { tokenIndex }: Pick<ResolvedPrompt, 'tokenIndex'>,
  { padToken, bosToken }: Tokenizer,
): ResolvedPrompt {
  const missing = tokenIndex - target.tokenIndex;
  const bad = (why: string) => new PatchscopeError('bad_input', `The target prompt can't be padded: ${why}`);
  if (target.side === 'decoder') throw bad('the decoder begins with one token of its own.');
  if (padToken === undefined) throw bad('this model has neither a padding token nor one that ends a text.');
  if (missing < 0) {
    throw bad(
      `its position is ${target.tokenIndex} without padding, and that of the source is ${tokenIndex}: shorten it.`,
    );
  }
  const first = target.tokenIds[0] === bosToken ? 1 : 0;
  const tokenIds = [
    ...target.tokenIds.slice(0, first),
    ...new Array<number>(missing).fill(padToken),
    ...target.tokenIds.slice(first),
  ];
  return { ...target, text: null, tokenIds, tokenIndex };
}

/**
 * The token behind a target's text that is no text.
 *
 * @param source undefined where its model has another vocabulary.
 * @param seed of the one that is drawn.
 * @throws PatchscopeError `bad_input` where there is none.
 */
export function placeholderToken(
  placeholder: Placeholder,
  source: ResolvedPrompt | undefined,
  { padToken, endToken, vocabularySize }: Tokenizer,
  seed: number,
): number {
  const drawn = uniforms(seed);
  drawn(); // a random position takes the first
  const tokenId = {
    padding: padToken,
    end: endToken,
    random: Math.floor(drawn() * vocabularySize),
    source: source && positionTokens(source)[source.tokenIndex],
  }[placeholder];
  if (tokenId !== undefined) return tokenId;
  const why =
    placeholder === 'source' ? "the source's model has another vocabulary" : 'the model has no such token';
  throw new PatchscopeError(
    'bad_input',
    `The placeholder of the target prompt can't be ${placeholder}: ${why}.`,
  );
}

/** What a model reads of a prompt. */
export function inputOf({ tokenIds, decoderTokenIds, adapter }: ResolvedPrompt): TokenInput {
  const read =
    decoderTokenIds === undefined ? { tokenIds } : { tokenIds: decoderTokenIds, encoderTokenIds: tokenIds };
  return adapter === undefined ? read : { ...read, adapter };
}

/** The same, read with an adapter, or with none. */
export function readWith(
  { adapter: _, ...prompt }: ResolvedPrompt,
  adapter: string | undefined,
): ResolvedPrompt {
  return adapter === undefined ? prompt : { ...prompt, adapter };
}

/** The tokens among which its position counts. */
export function positionTokens({ tokenIds, decoderTokenIds = [], side }: ResolvedPrompt): readonly number[] {
  return side === 'decoder' ? decoderTokenIds : tokenIds;
}

/** A token's text; a token that holds part of a character shows the replacement character. */
export function tokenText(tokenId: number, tokenizer: Tokenizer): string {
  return decode(tokenizer.tokenBytes(tokenId));
}

function decode(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('utf8');
}

function tokenIdsOf(prompt: Prompt, tokenizer: Tokenizer, which: string): readonly number[] {
  if (prompt.kind === 'tokens') {
    if (prompt.tokenIds.length === 0) {
      throw new PatchscopeError('bad_input', `The ${which} prompt is empty: it needs at least one token id.`);
    }
    const last = tokenizer.vocabularySize - 1;
    for (const tokenId of prompt.tokenIds) {
      if (!Number.isInteger(tokenId) || tokenId < 0 || tokenId > last) {
        throw new PatchscopeError(
          'bad_input',
          `Token id ${tokenId} of the ${which} prompt is outside the vocabulary, whose ids are 0 to ${last}.`,
        );
      }
    }
    return prompt.tokenIds;
  }
  if (prompt.kind === 'source') {
    throw new PatchscopeError(
      'bad_input',
      `The ${which} prompt can't be the source itself: only a target can.`,
    );
  }
  const { text } = prompt;
  const { bos, special, chat } = readingOf(prompt);
  if (text === '') throw new PatchscopeError('bad_input', `The ${which} prompt is empty: give it some text.`);
  if (!chat) return tokenizer.tokenize(text, { bos, special });
  if (!special && hasSpecialTokens(text, tokenizer)) {
    throw new PatchscopeError(
      'bad_input',
      `The ${which} prompt holds special tokens, which can't be kept as plain text inside a chat template: leave them out, or mean them with --special.`,
    );
  }
  const turn = tokenizer.chat(text, { bos });
  const withoutBos = tokenizer.tokenize(turn, { bos: false, special: true });
  return bos && withoutBos[0] !== tokenizer.bosToken
    ? tokenizer.tokenize(turn, { bos: true, special: true })
    : withoutBos;
}

function hasSpecialTokens(text: string, tokenizer: Tokenizer): boolean {
  const plain = tokenizer.tokenize(text, { bos: false, special: false });
  const parsed = tokenizer.tokenize(text, { bos: false, special: true });
  return plain.join() !== parsed.join();
}
