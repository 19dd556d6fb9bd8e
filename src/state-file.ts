/**
 * The states that a run captures, in one safetensors file: a tensor for each place, (sources, width), with an
 * index of the sources in its metadata. A row of zeros was not captured. What a model says next at each source
 * may lie there too: all logits, and the most probable token with its log-probability.
 */
import fs from 'node:fs';
import type { EngineRecord } from './engine.js';
import { PatchscopeError } from './errors.js';
import type { NextToken } from './own-readings.js';
import type { Place } from './places.js';
import { movesOfPair } from './plan/pairs.js';
import { cellAt, movesAt, type Plan } from './plan/plan.js';
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
    this.#rows = new Map(
      [...new Set(plan.pairs.flatMap(movesOfPair).map(({ source }) => source))].map((source, i) => [
        source,
        i,
      ]),
    );
    const ofPlaces = placesOf(plan).map((place) => ({ name: tensorName(place), width: this.#width }));
    const ofNext = [
      { name: LOGITS, width: this.#vocabularySize },
      { name: TOP, width: 2 },
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

  writeNext(source: ResolvedPrompt, { logits, top }: NextToken): void {
    this.#write(LOGITS, source, logits);
    this.#write(TOP, source, Float32Array.of(top.tokenId, top.logprob));
  }

  readNext(source: ResolvedPrompt): NextToken | undefined {
    const logits = this.#read(LOGITS, source, this.#vocabularySize);
    const [tokenId, logprob] = this.#read(TOP, source, 2) ?? [];
    return logits === undefined || tokenId === undefined || logprob === undefined
      ? undefined
      : { logits, top: { tokenId, logprob } };
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

function placesOf(plan: Plan): Place[] {
  const used = new Set<Place>();
  for (let i = 0; i < plan.cellCount; i++) {
    if (cellAt(plan, i).control === 'unpatched') continue;
    for (const { source } of movesAt(plan, i)) used.add(source);
  }
  return plan.places.filter((place) => used.has(place));
}

/** Of each row the first sample and variant that it is the source of. */
function indexOf({ pairs }: Plan, rows: ReadonlyMap<ResolvedPrompt, number>) {
  const index = new Array<object>(rows.size);
  for (const pair of pairs) {
    const { sample, variant } = pair;
    for (const { source } of movesOfPair(pair)) {
      index[rows.get(source)!] ??= {
        sample,
        variant,
        ...(source.side && { side: source.side }),
        position: source.tokenIndex,
        token_id: positionTokens(source)[source.tokenIndex],
        token: source.token,
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
