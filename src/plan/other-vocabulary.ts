/** The source up to its position as a target whose model has another vocabulary. */
import { textOfTokens } from '../alignment.js';
import type { Tokenizer } from '../engine.js';
import { PatchscopeError } from '../errors.js';
import type { Position, Side } from '../patchscope.js';
import { type ResolvedPrompt, resolvePrompt } from '../prompts.js';

/** Whose token ids those of a source are, and whose they are to become. */
export interface Tokenizers {
  readonly source: Tokenizer;
  readonly target: Tokenizer;
}

/**
 * Its text, read anew. Token ids of one vocabulary are never used in another.
 *
 * @param position in what the target's tokenizer makes of the text.
 * @throws PatchscopeError `bad_input` where the text ends inside a character, or is not the target's in every byte.
 */
export function sourceTextAsTarget(
  source: ResolvedPrompt,
  position: Position,
  tokenizers: Tokenizers,
  side: Side | undefined,
  draw?: number,
): ResolvedPrompt {
  const bad = (why: string) =>
    new PatchscopeError(
      'bad_input',
      `The target can't be the source up to its position, since the target's model has another vocabulary and ${why}: give the target a prompt of its own.`,
    );
  if (source.reading?.chat) throw bad('the source is a turn in the chat template of its own model');
  if (source.side === 'decoder') throw bad("the source's decoder starts from a token and not from a text");
  const { text: all, ends } = textOfTokens({ prompt: source, tokenizer: tokenizers.source });
  const bytes = all.subarray(0, ends[source.tokenIndex]!);
  const text = bytes.toString('utf8');
  if (bytes.length === 0) throw bad('there is no text up to there');
  if (!Buffer.from(text).equals(bytes)) throw bad(`${JSON.stringify(text)} ends inside a character`);
  const { bos = true, special = false } = source.reading ?? {};
  const prompt = { kind: 'text', text, bos, special } as const;
  const target = resolvePrompt(prompt, position, tokenizers.target, 'target', side, draw);
  const read = textOfTokens({
    // the text is read by the encoder where there is one
    prompt: {
      ...target,
      tokenIds: withoutEnd(target.tokenIds, tokenizers.target),
      ...(target.side && { side: 'encoder' }),
    },
    tokenizer: tokenizers.target,
  });
  if (!read.text.equals(bytes)) {
    throw bad(`its tokenizer reads ${JSON.stringify(text)} as ${JSON.stringify(read.text.toString('utf8'))}`);
  }
  return target;
}

/** What an encoder reads may end in a token that says so. */
function withoutEnd(tokenIds: readonly number[], tokenizer: Tokenizer): readonly number[] {
  return tokenizer.isEndOfText(tokenIds.at(-1)!) ? tokenIds.slice(0, -1) : tokenIds;
}
