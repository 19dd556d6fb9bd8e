import type { PatchRow, RowReading, Tokenizer } from '../engine.js';

/** What a row has generated so far. */
export interface Continuation {
  readonly tokenIds: number[];
  text: string;
}

/** Decides when a row is done: its limit, the end of the text, or a stop string, where the text is cut. */
export class TextStop {
  readonly #tokenizer: Tokenizer;
  readonly #maxTokens: number;
  readonly #stop: readonly string[];

  constructor(tokenizer: Tokenizer, { maxTokens, stop }: Pick<RowReading, 'maxTokens' | 'stop'>) {
    this.#tokenizer = tokenizer;
    this.#maxTokens = maxTokens;
    this.#stop = stop ?? [];
  }

  /**
   * @param given all tokens of a continuation that is given: it goes on to its end, whatever it says.
   * @param until texts that end this row and are kept.
   * @returns whether the row goes on.
   */
  push(
    continuation: Continuation,
    tokenId: number,
    {
      continuation: given,
      until = [],
      maxTokens = this.#maxTokens,
    }: Pick<PatchRow, 'continuation' | 'until' | 'maxTokens'>,
  ): boolean {
    continuation.tokenIds.push(tokenId);
    if (given === undefined && this.#tokenizer.isEndOfText(tokenId)) return false;
    // a character may be spread over tokens: decode all bytes at once
    const bytes = continuation.tokenIds.map((id) => this.#tokenizer.tokenBytes(id));
    continuation.text = Buffer.concat(bytes).toString('utf8');
    if (given !== undefined) return continuation.tokenIds.length < given.length;
    const end = Math.min(
      ...this.#stop.map((stop) => continuation.text.indexOf(stop)).filter((at) => at >= 0),
    );
    if (end !== Number.POSITIVE_INFINITY) {
      continuation.text = continuation.text.slice(0, end);
      return false;
    }
    if (until.some((text) => continuation.text.includes(text))) return false;
    return continuation.tokenIds.length < maxTokens;
  }
}
