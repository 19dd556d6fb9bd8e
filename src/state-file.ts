/**
 * The states that a run captures, in one safetensors file: a tensor for each place, (sources, width), with an
 * index of the sources in its metadata. A row of zeros was not captured. What a model itself says at each source
 * may lie there too, token by token: all logits, and the most probable token with its log-probability.
 */
import fs from 'node:fs';
import type { EngineRecord } from './engine.js';
import { PatchscopeError } from './errors.js';
import type { NextToken } from './own-readings.js';
import type { Place } from './places.js';
import { movesOfPair, type Pair } from './plan/pairs.js';
import { cellAt, movesAt, ownTokenCount, type Plan } from './plan/plan.js';
import { promptsOf } from './plan/sources.js';
import { positionTokens, type ResolvedPrompt } from './prompts.js';
import { layOut, readTensor, type SafetensorsLayout, writeTensor } from './safetensors.js';

const LOGITS = 'next_token.logits';
const TOP = 'next_token.top';

export class StateFile {
  readonly #path: string;
  readonly #descriptor: number;
  readonly #layout: SafetensorsLayout;
  readonly #rows: ReadonlyMap<ResolvedPrompt, number>;
  readonly #width: number;
  readonly #vocabularySize: number;
  readonly #ownTokens: number;

  /**
   * A file of the same plan and model is gone on with.
   *
   * @param withNext whether there is room for what the model says next.
   * @throws PatchscopeError `bad_input` where the file is another one, or can't be written.
   */
  constructor(
    path: string,
    plan: Plan,
    record: Pick<EngineRecord, 'embeddingSize' | 'sha256' | 'vocabularySize'>,
    withNext = false,
  ) {
    this.#path = path;
    this.#width = record.embeddingSize;
    this.#vocabularySize = record.vocabularySize;
    this.#ownTokens = ownTokenCount(plan.experiment);
    this.#rows = new Map([...new Set(plan.pairs.flatMap(promptsOfPair))].map((prompt, i) => [prompt, i]));
    const ofPlaces = placesOf(plan).map((place) => ({ name: tensorName(place), width: this.#width }));
    const ofNext = [
      { name: LOGITS, width: this.#ownTokens * this.#vocabularySize },
      { name: TOP, width: this.#ownTokens * 2 },
    ];
    this.#layout = layOut(
      [...ofPlaces, ...(withNext ? ofNext : [])].map(({ name, width }) => ({
        name,
        shape: [this.#rows.size, width],
      })),
      {
        format: 'patchscopes-states',
        plan_sha256: plan.sha256,
        model_sha256: record.sha256,
        index: JSON.stringify(indexOf(plan, this.#rows)),
      },
    );
    this.#descriptor = this.#attempt(() => openBeside(path, this.#layout));
  }

  write(source: ResolvedPrompt, place: Place, state: Float32Array): void {
    this.#write(tensorName(place), source, state);
  }

  /** Undefined where it was not captured. */
  read(source: ResolvedPrompt, place: Place): Float32Array | undefined {
    return this.#read(tensorName(place), source, this.#width);
  }

  /** Where there are fewer tokens than there is room for, zeros follow. */
  writeNext(source: ResolvedPrompt, tokens: readonly NextToken[]): void {
    const all = new Float32Array(this.#ownTokens * this.#vocabularySize);
    const top = new Float32Array(this.#ownTokens * 2);
    tokens.forEach(({ logits, top: { tokenId, logprob } }, i) => {
      all.set(logits, i * this.#vocabularySize);
      top.set([tokenId, logprob], i * 2);
    });
    this.#write(LOGITS, source, all);
    this.#write(TOP, source, top);
  }

  readNext(source: ResolvedPrompt): NextToken[] | undefined {
    const size = this.#vocabularySize;
    const all = this.#read(LOGITS, source, this.#ownTokens * size);
    const top = this.#read(TOP, source, this.#ownTokens * 2);
    if (all === undefined || top === undefined) return undefined;
    const tokens = Array.from({ length: this.#ownTokens }, (_, i) => ({
      logits: all.subarray(i * size, (i + 1) * size),
      top: { tokenId: top[2 * i]!, logprob: top[2 * i + 1]! },
    }));
    return tokens.filter(({ logits }) => logits.some((value) => value !== 0));
  }

  #write(tensor: string, source: ResolvedPrompt, values: Float32Array): void {
    const at = this.#offset(tensor, source, values.length);
    this.#attempt(() => writeTensor(this.#descriptor, at, values));
  }

  #read(tensor: string, source: ResolvedPrompt, length: number): Float32Array | undefined {
    const at = this.#offset(tensor, source, length);
    const values = readTensor(this.#descriptor, { shape: [length], offset: at });
    return values.some((value) => value !== 0) ? values : undefined;
  }

  #offset(tensor: string, source: ResolvedPrompt, length: number): number {
    return this.#layout.offsets.get(tensor)! + 4 * length * this.#rows.get(source)!;
  }

  close(): void {
    fs.closeSync(this.#descriptor);
  }

  #attempt<T>(work: () => T): T {
    try {
      return work();
    } catch (cause) {
      if (cause instanceof PatchscopeError) throw cause;
      throw new PatchscopeError(
        'bad_input',
        `The states can't be written to ${this.#path} (${(cause as NodeJS.ErrnoException).code}): name a file in a folder that exists, is yours and has room for ${Math.ceil(this.#layout.bytes / 1e6)} MB.`,
        { cause },
      );
    }
  }
}

/** A place alone is the name: `embed`, `resid_out.12`. */
function tensorName({ site, layer }: Place): string {
  return layer === 'embed' ? site : `${site}.${layer}`;
}

function promptsOfPair(pair: Pair): ResolvedPrompt[] {
  return movesOfPair(pair).flatMap(({ source }) => promptsOf(source));
}

function placesOf(plan: Plan): Place[] {
  const used = new Set<Place>();
  for (let i = 0; i < plan.cellCount; i++) {
    if (cellAt(plan, i).control === 'unpatched') continue;
    for (const { from, source } of movesAt(plan, i)) if (promptsOf(from).length > 0) used.add(source);
  }
  return plan.places.filter((place) => used.has(place));
}

/** Of each row the first sample and variant that it is the source of, or one of several. */
function indexOf({ pairs }: Plan, rows: ReadonlyMap<ResolvedPrompt, number>) {
  const index = new Array<object>(rows.size);
  for (const pair of pairs) {
    const { sample, variant } = pair;
    for (const prompt of promptsOfPair(pair)) {
      index[rows.get(prompt)!] ??= {
        sample,
        variant,
        ...(prompt.side && { side: prompt.side }),
        position: prompt.tokenIndex,
        token_id: positionTokens(prompt)[prompt.tokenIndex],
        token: prompt.token,
      };
    }
  }
  return index;
}

function openBeside(path: string, { header, bytes }: SafetensorsLayout): number {
  if (fs.existsSync(path)) {
    const descriptor = fs.openSync(path, 'r+');
    const found = Buffer.alloc(header.length);
    fs.readSync(descriptor, found, 0, header.length, 0);
    if (found.equals(header) && fs.fstatSync(descriptor).size === bytes) return descriptor;
    fs.closeSync(descriptor);
    throw new PatchscopeError(
      'bad_input',
      `The file ${path} exists, and does not hold the states of this plan and model: name another.`,
    );
  }
  const descriptor = fs.openSync(path, 'wx+');
  fs.writeSync(descriptor, header);
  fs.ftruncateSync(descriptor, bytes);
  return descriptor;
}
