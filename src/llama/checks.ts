/** What is wrong with what an engine is given, said in one sentence before any of it reaches the addon. */
import { earliestCut } from '../edges.js';
import type {
  AttentionCut,
  CacheLayout,
  CapturePoint,
  Contrast,
  Edit,
  EngineRecord,
  PatchRow,
  RowReading,
  TokenInput,
} from '../engine.js';
import { PatchscopeError } from '../errors.js';
import { allFinite } from '../floats.js';
import type { NativeSites } from '../native.js';
import { editOps, noDecay, type Sampling, type Side, sides, sites } from '../patchscope.js';
import { turnsOf } from './state-rows.js';

const cacheLayouts: readonly CacheLayout[] = ['unified', 'streams'];

/** Where states lie in a model's graph, and where its attention can be cut. */
export interface GraphFacts {
  readonly sites: Readonly<Partial<Record<Side, NativeSites>>>;
  /** For each block why no edge of its attention can be cut, or null. */
  readonly uncuttable: readonly (string | null)[];
}

export class Checks {
  readonly #record: EngineRecord;
  readonly #graphOf: (adapter: string | undefined) => GraphFacts;

  /** @param graphOf what is known of the model's graph with an adapter of the record, or with none. */
  constructor(record: EngineRecord, graphOf: (adapter: string | undefined) => GraphFacts) {
    this.#record = record;
    this.#graphOf = graphOf;
  }

  cacheLayout(layout: CacheLayout = 'unified'): void {
    if (!cacheLayouts.includes(layout)) {
      throw bad(`There is no cache layout '${layout}': take ${cacheLayouts.join(' or ')}.`);
    }
    const { noStreams } = this.#record;
    if (layout === 'streams' && noStreams !== null) {
      throw bad(`The cache layout can't be streams (${noStreams}): take unified.`);
    }
  }

  adapter(name: string | undefined): void {
    if (name === undefined) return;
    const names = (this.#record.adapters ?? []).map((adapter) => adapter.name);
    if (names.includes(name)) return;
    throw bad(
      `There is no adapter '${name}': ${names.length === 0 ? 'the engine was opened without any' : `take ${names.join(' or ')}`}.`,
    );
  }

  input({ tokenIds, encoderTokenIds, adapter }: TokenInput, following: number): void {
    this.adapter(adapter);
    this.#prompt('prompt', 'tokenIds', tokenIds, following);
    if (this.#graphOf(adapter).sites.encoder === undefined) {
      if (encoderTokenIds !== undefined) throw bad('This model has no encoder: leave encoderTokenIds out.');
      return;
    }
    if (encoderTokenIds === undefined) {
      throw bad('This model has an encoder: say in encoderTokenIds what it reads.');
    }
    this.#prompt("encoder's prompt", 'encoderTokenIds', encoderTokenIds, 0);
  }

  #prompt(what: string, key: string, tokenIds: readonly number[], following: number): void {
    if (!Array.isArray(tokenIds)) throw new TypeError(`Expected ${key} to be an array of numbers.`);
    if (tokenIds.length === 0) throw bad(`The ${what} is empty: it needs at least one token.`);
    this.tokens(tokenIds);
    const { promptTokens, trainedContext } = this.#record;
    if (tokenIds.length + Math.max(0, following - 1) > promptTokens) {
      throw bad(
        `The ${what} of ${tokenIds.length} tokens${following > 1 ? ` with ${following} more` : ''} is longer than the context of ${promptTokens}: shorten it${promptTokens < trainedContext ? ', or use a larger -c' : ''}.`,
      );
    }
  }

  tokens(tokenIds: readonly number[]): void {
    const last = this.#record.vocabularySize - 1;
    for (const tokenId of tokenIds) {
      if (!Number.isInteger(tokenId) || tokenId < 0 || tokenId > last) {
        throw bad(`Token id ${tokenId} is outside the vocabulary, whose ids are 0 to ${last}.`);
      }
    }
  }

  row(row: PatchRow, reading: RowReading): void {
    const { tokenIds, continuation, seed, trackedTokens = [], until = [] } = row;
    if (continuation !== undefined) {
      if (!Array.isArray(continuation))
        throw new TypeError('Expected continuation to be an array of numbers.');
      this.tokens(continuation);
    }
    const { maxTokens = reading.maxTokens } = row;
    checkReading({ ...reading, maxTokens });
    this.input(row, continuation?.length ?? maxTokens);
    if (seed !== undefined && !Number.isSafeInteger(seed)) throw bad(`The seed ${seed} is no whole number.`);
    if (!Array.isArray(trackedTokens))
      throw new TypeError('Expected trackedTokens to be an array of numbers.');
    this.tokens(trackedTokens);
    if (!Array.isArray(until) || !until.every((text) => typeof text === 'string'))
      throw new TypeError('Expected until to be an array of strings.');
    if (until.includes('')) throw bad('An empty text in until is in every text: leave it out.');
    for (const one of row.cuts ?? []) this.cut(one, row);
    for (const edits of turnsOf(row)) this.edits(edits, row);
    if (row.contrast !== undefined) this.contrast(row.contrast, row);
    for (const tokenIndex of reading.tokenIndexes ?? []) checkTokenIndex(tokenIndex, tokenIds.length);
  }

  /** Of one turn, in which no state is written twice. */
  edits(edits: readonly Edit[], input: TokenInput): void {
    const places = new Set<string>();
    const generated = new Set<string>();
    for (const edit of edits) {
      this.edit(edit, input);
      const place = `${edit.side === 'encoder' ? 'encoder ' : ''}${edit.site} ${edit.layer}`;
      const written = `${place} ${edit.tokenIndex}`;
      if (places.has(written)) throw bad(`Two edits of one row write the same state (${written}).`);
      places.add(written);
      if (!edit.atGenerated) continue;
      if (generated.has(place)) {
        throw bad(`Two edits of one row write the same state of each generated token (${place}).`);
      }
      generated.add(place);
    }
  }

  contrast(contrast: Contrast, row: PatchRow): void {
    const { cutoff } = contrast;
    if (!(cutoff >= 0 && cutoff <= 1)) {
      throw bad(`The cutoff of a contrast is ${cutoff} where a number from 0 to 1 is needed.`);
    }
    if ('edits' in contrast) {
      const { alpha, edits } = contrast;
      if (!Number.isFinite(Math.fround(alpha))) throw bad(`The alpha ${alpha} of a contrast is no number.`);
      this.edits(edits, row);
      if ([...turnsOf(row).flat(), ...edits].some(({ side }) => side === 'encoder')) {
        throw bad(
          'What an encoder gives is the same in both runs of a contrast: leave the edits of its side out, or the contrast.',
        );
      }
      if (Math.min(this.#record.batchTokens, this.#record.batchOutputs) < 2) {
        throw bad('A contrast needs batches of at least two tokens: use a larger batch.');
      }
      return;
    }
    const { layers } = contrast;
    if (!Array.isArray(layers))
      throw new TypeError('Expected layers of a contrast to be an array of layers.');
    if (layers.length === 0)
      throw bad('A contrast names no layers: say which ones the last is compared with.');
    for (const layer of layers) {
      const site = layer === 'embed' ? 'embed' : 'resid_out';
      this.point({ site, layer, tokenIndex: 0 }, row);
      if (layer === this.#record.layerCount - 1) {
        throw bad(`Layer ${layer} is the last, which others are compared with: take layers before it.`);
      }
    }
  }

  point({ side = 'decoder', site, layer, tokenIndex }: CapturePoint, input: TokenInput): void {
    if (!sides.includes(side)) throw bad(`There is no side '${side}': take ${sides.join(' or ')}.`);
    const { sites: sitesOf } = this.#graphOf(input.adapter);
    const modelSites = sitesOf[side];
    if (modelSites === undefined) throw bad('This model has no encoder: leave the side out.');
    const { encoderTokenIds = [], tokenIds } = input;
    if (!sites.includes(site)) throw bad(`There is no site '${site}': take ${sites.join(', ')}.`);
    if ((site === 'embed') !== (layer === 'embed')) throw bad(`The site ${site} has no layer '${layer}'.`);
    const { layerCount, encoderLayerCount } = this.#record;
    const last = (side === 'encoder' ? encoderLayerCount : layerCount) - 1;
    if (layer !== 'embed' && (!Number.isInteger(layer) || layer < 0 || layer > last)) {
      const where = sitesOf.encoder === undefined ? 'model' : side;
      throw bad(`Layer ${layer} is not in the ${where}, whose layers are 0 to ${last}.`);
    }
    if (site === 'final_norm' && layer !== last) {
      throw bad(`The site final_norm comes after the last layer, which is ${last}, not ${layer}.`);
    }
    const { nodes, reason } = modelSites[site];
    const node = site === 'embed' || site === 'final_norm' ? nodes[0] : nodes[layer as number];
    if (typeof node !== 'string') {
      throw new PatchscopeError('no_site', `This model has no ${site} at layer ${layer}: ${reason}.`);
    }
    checkTokenIndex(tokenIndex, (side === 'encoder' ? encoderTokenIds : tokenIds).length);
  }

  cut({ from, to, layers, atGenerated = false }: AttentionCut, { tokenIds, adapter }: TokenInput): void {
    const tokens = tokenIds.length;
    const { uncuttable } = this.#graphOf(adapter);
    for (const [name, list] of Object.entries({ from, to, layers })) {
      if (!Array.isArray(list)) throw new TypeError(`Expected ${name} of a cut to be an array of numbers.`);
    }
    for (const tokenIndex of [...from, ...to]) checkTokenIndex(tokenIndex, tokens);
    if (layers.length === 0) throw bad('A cut names no layers: say in which layers attention is cut.');
    const last = this.#record.layerCount - 1;
    for (const layer of layers) {
      if (!Number.isInteger(layer) || layer < 0 || layer > last) {
        throw bad(`Layer ${layer} of a cut is not in the model, whose layers are 0 to ${last}.`);
      }
      const reason = uncuttable[layer];
      if (reason) {
        throw new PatchscopeError(
          'no_site',
          `No edge of attention can be cut at layer ${layer} of this model: ${reason}.`,
        );
      }
    }
    if (to.length === 0 || !(atGenerated || earliestCut([{ from, to }]) < tokens)) {
      throw bad('A cut has no edge: none of its tokens from comes after one of its tokens to.');
    }
  }

  edit(edit: Edit, input: TokenInput): void {
    const { side = 'decoder', site, layer, op = 'replace', alpha = 1, vector } = edit;
    this.point(edit, input);
    if (site === 'final_norm' && side === 'decoder') {
      throw bad('The site final_norm is read, not written: write resid_out of the last layer.');
    }
    if (side === 'encoder' && edit.atGenerated) {
      throw bad('The encoder reads no generated tokens: leave atGenerated out of its edits.');
    }
    if (!editOps.includes(op)) throw bad(`There is no edit '${op}': take ${editOps.join(', ')}.`);
    if (!Number.isFinite(Math.fround(alpha))) throw bad(`The alpha ${alpha} of an edit is no number.`);
    checkDecay(edit);
    const place = site === 'embed' ? 'embed' : `layer ${layer}`;
    if (op === 'scale') {
      if (vector !== undefined) throw bad(`The edit scale at ${place} takes no vector.`);
      return;
    }
    if (!(vector instanceof Float32Array)) throw new TypeError('Expected vector to be a Float32Array.');
    const width = this.#record.embeddingSize;
    if (vector.length !== width) {
      throw bad(
        `The vector for ${place} has ${vector.length} numbers where the model's states have ${width}.`,
      );
    }
    if (!allFinite(vector)) throw bad(`The vector for ${place} holds NaN or infinity.`);
    if (op === 'norm-matched-add' && vector.every((value) => value === 0)) {
      throw bad(`The vector for ${place} is zero and has no direction: norm-matched-add needs one.`);
    }
  }
}

function checkDecay({ decay, op = 'replace', atGenerated = false }: Edit): void {
  if (decay === undefined) return;
  if (!(decay >= 0 && decay <= 1)) {
    throw bad(`The decay of an edit is ${decay} where a number from 0 to 1 is needed.`);
  }
  if (!atGenerated) throw bad('The decay of an edit is of generated tokens: give it atGenerated too.');
  const reason = noDecay(op, decay);
  if (reason !== null) throw bad(`The edit ${reason}.`);
}

export function checkReading(reading: Pick<RowReading, 'topK' | 'maxTokens' | 'sampling'>): void {
  for (const name of ['topK', 'maxTokens'] as const) {
    const value = reading[name];
    if (!Number.isInteger(value) || value < 0) {
      throw bad(`${name} is ${value} where a whole number of at least 0 is needed.`);
    }
  }
  if (reading.sampling !== undefined) checkSampling(reading.sampling);
}

function checkSampling({ temperature, topK = 0, topP = 1 }: Sampling): void {
  if (!(temperature >= 0 && temperature <= 1e4)) {
    throw bad(`The temperature is ${temperature} where a number from 0 to 10000 is needed.`);
  }
  if (!Number.isInteger(topK) || topK < 0) {
    throw bad(`The sampling's topK is ${topK} where a whole number of at least 0 is needed.`);
  }
  if (!(topP > 0 && topP <= 1)) {
    throw bad(`The sampling's topP is ${topP} where a number above 0 and up to 1 is needed.`);
  }
}

function checkTokenIndex(tokenIndex: number, tokens: number): void {
  if (!Number.isInteger(tokenIndex) || tokenIndex < 0 || tokenIndex >= tokens) {
    throw bad(
      `Token index ${tokenIndex} is outside the prompt, whose ${tokens} tokens are 0 to ${tokens - 1}.`,
    );
  }
}

function bad(message: string): PatchscopeError {
  return new PatchscopeError('bad_input', message);
}
