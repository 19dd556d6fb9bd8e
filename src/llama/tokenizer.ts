import { Template } from '@huggingface/jinja';
import type { Tokenizer } from '../engine.js';
import { asPatchscopeError, PatchscopeError } from '../errors.js';
import type { NativeModel, NativeModelInfo } from '../native.js';

/** The model's own vocabulary and chat template. */
export class LlamaTokenizer implements Tokenizer {
  readonly vocabularySize: number;
  readonly #model: NativeModel;
  readonly #info: NativeModelInfo;
  /** By token: the same few thousands come again and again. */
  readonly #bytes = new Map<number, Uint8Array>();

  constructor(model: NativeModel, info = model.describe()) {
    this.#model = model;
    this.#info = info;
    this.vocabularySize = this.#info.vocabularySize;
  }

  tokenize(text: string, { bos, special }: { bos: boolean; special: boolean }): number[] {
    return [...coded(() => this.#model.tokenize(text, bos, special))];
  }

  tokenBytes(tokenId: number): Uint8Array {
    let bytes = this.#bytes.get(tokenId);
    if (bytes === undefined) {
      bytes = coded(() => this.#model.tokenBytes(tokenId));
      this.#bytes.set(tokenId, bytes);
    }
    return bytes;
  }

  isEndOfText(tokenId: number): boolean {
    return coded(() => this.#model.isEndOfText(tokenId));
  }

  get decoderStartToken(): number | undefined {
    return this.#info.hasEncoder ? this.#info.decoderStartToken : undefined;
  }

  get bosToken(): number | undefined {
    return this.#info.addsBos && this.#info.bosToken >= 0 ? this.#info.bosToken : undefined;
  }

  get padToken(): number | undefined {
    return [this.#info.padToken, this.#info.eosToken].find((token) => token >= 0);
  }

  get endToken(): number | undefined {
    return this.#info.eosToken >= 0 ? this.#info.eosToken : undefined;
  }

  chat(userText: string, { bos }: { readonly bos: boolean }): string {
    const { chatTemplate, bosToken, eosToken } = this.#info;
    if (chatTemplate === null) {
      throw new PatchscopeError('bad_input', 'This model has no chat template: leave --chat out.');
    }
    const written = (tokenId: number) =>
      tokenId < 0 ? '' : Buffer.from(this.#model.tokenBytes(tokenId)).toString('utf8');
    try {
      return new Template(chatTemplate).render({
        messages: [{ role: 'user', content: userText }],
        add_generation_prompt: true,
        bos_token: bos ? written(bosToken) : '',
        eos_token: written(eosToken),
      });
    } catch (cause) {
      throw new PatchscopeError(
        'bad_model',
        `The model's chat template could not be filled in (${(cause as Error).message}): leave --chat out.`,
        { cause },
      );
    }
  }
}

function coded<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw asPatchscopeError(error);
  }
}
