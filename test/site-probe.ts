/** What lies at the sites of a model, asked of the addon itself: it reads and writes in one decode. */
import assert from 'node:assert/strict';
import type { NativeContext, NativeModelInfo, NativeSite } from '../src/native.js';
import type { Site } from '../src/patchscope.js';
import { loadNative } from './device.js';
import { everyIndex, nativeRead, nativeReplace } from './native-step.js';

export interface Place {
  readonly site: Site;
  readonly layer: number;
}

/** Tokens of one decode: prompts side by side, and which tokens' logits are computed. */
export interface Shape {
  readonly name: string;
  readonly prompts: readonly (readonly number[])[];
  readonly outputs: 'all' | 'last of each';
}

export interface ProbeEdit extends Place {
  readonly rows: readonly number[];
  /** (rows, width) row-major. */
  readonly vectors: Float32Array;
}

export interface Probed {
  /** Tokens whose states were read there: all, or those whose output was computed. */
  readonly rows: (place: Place) => readonly number[];
  /** One row after the other. */
  readonly states: (place: Place) => Float32Array;
  readonly state: (place: Place, row: number) => Float32Array;
  /** Of the tokens whose output was computed, one after the other. */
  readonly logits: Float32Array;
}

export const nameOf = ({ site, layer }: Place): string => `${site} of layer ${layer}`;

export class SiteProbe {
  readonly #context: NativeContext;
  readonly #close: () => void;
  readonly info: NativeModelInfo;
  readonly sites: Readonly<Record<Site, NativeSite>>;

  private constructor(context: NativeContext, info: NativeModelInfo, close: () => void) {
    this.#context = context;
    this.info = info;
    this.sites = context.describe().sites;
    this.#close = close;
  }

  static async open(path: string, flashAttention = true): Promise<SiteProbe> {
    const model = await loadNative(path);
    try {
      const context = await model.createContext({
        cells: 256,
        batchTokens: 64,
        sequences: 4,
        outputs: 64,
        threads: 1,
        flashAttention,
        typeK: 'f32',
        typeV: 'f32',
      });
      return new SiteProbe(context, model.describe(), () => {
        context.close();
        model.close();
      });
    } catch (error) {
      model.close();
      throw error;
    }
  }

  close(): void {
    this.#close();
  }

  has({ site, layer }: Place): boolean {
    return this.sites[site].nodes[layer] != null;
  }

  /** Every site that was found, in the order of the blocks. */
  places(): Place[] {
    return (Object.entries(this.sites) as [Site, NativeSite][])
      .flatMap(([site, { nodes }]) => nodes.map((_, layer) => ({ site, layer })))
      .filter((place) => this.has(place));
  }

  /** The state that a block starts from. */
  inputOf(layer: number): Place {
    return layer === 0 ? { site: 'embed', layer: 0 } : { site: 'resid_out', layer: layer - 1 };
  }

  /** One decode from an empty memory, which reads every site. */
  async run({ prompts, outputs }: Shape, edits: readonly ProbeEdit[] = []): Promise<Probed> {
    this.#context.clear();
    const tokens = prompts.flat();
    const ends = new Set(prompts.map((_, k) => prompts.slice(0, k + 1).flat().length - 1));
    const all = everyIndex(tokens);
    const computed = outputs === 'all' ? all : all.filter((i) => ends.has(i));
    const places = this.places();
    const rowsOf = (place: Place): number[] => (this.#isOfTheEnd(place) ? computed : all);
    const { captures, readings } = await this.#context.decode({
      tokens: Int32Array.from(tokens),
      positions: Int32Array.from(prompts.flatMap(everyIndex)),
      sequences: Int32Array.from(prompts.flatMap((prompt, k) => prompt.map(() => k))),
      outputs: Uint8Array.from(all, (i) => (computed.includes(i) ? 1 : 0)),
      captures: places.map((place) => ({ ...place, rows: Int32Array.from(rowsOf(place)) })),
      edits: edits.map(({ rows, vectors, ...place }) => ({
        ...place,
        rows: Int32Array.from(rows),
        ...nativeReplace(vectors, rows.length),
      })),
      readings: nativeRead(computed, { logits: true }),
    });
    const width = this.info.embeddingSize;
    const states = (place: Place): Float32Array => {
      const at = places.findIndex(({ site, layer }) => site === place.site && layer === place.layer);
      assert.ok(at >= 0, `there is no ${nameOf(place)}`);
      return captures[at]!.states;
    };
    return {
      rows: rowsOf,
      states,
      state: (place, row) => {
        const at = rowsOf(place).indexOf(row);
        return states(place).slice(at * width, (at + 1) * width);
      },
      logits: readings.logits!,
    };
  }

  /** The last block may keep only the rows whose output is computed. */
  #isOfTheEnd({ site, layer }: Place): boolean {
    return site === 'final_norm' || (site !== 'embed' && layer === this.info.layerCount - 1);
  }
}
