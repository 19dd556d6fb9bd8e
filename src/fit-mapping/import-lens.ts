/** Published lens weights -> a mapping. Translator i of a tuned lens takes the input of block i to the last block's output. */
import fs from 'node:fs';
import path from 'node:path';
import type { Engine } from '../engine.js';
import { PatchscopeError } from '../errors.js';
import { fileHash } from '../file-hash.js';
import { MappingWriter } from '../mapping/mapping-file.js';
import { type FittedMap, parameterCount } from '../mapping/maps.js';
import { writeWhole } from '../output-file.js';
import type { Experiment, MappingRecord, MapRecord } from '../patchscope.js';
import type { Place } from '../places.js';
import { makePlan } from '../plan/plan.js';
import { readHeader, readTensor, type StoredTensor } from '../safetensors.js';
import { variantOf } from './fit-mapping.js';
import { placesOf } from './pairs.js';

export interface ImportOptions {
  /** A safetensors file: `0.weight` (outputs, inputs), `0.bias`, `1.weight` and so on, a prefix before each or none. */
  readonly from: string;
  /** Default: they are A and b of h + A h + b, as they are published; else W and b of W h + b. */
  readonly isResidual?: boolean;
  /** The variant whose cells the maps are for. Default: the only one. */
  readonly variant?: string;
}

/**
 * Writes a file of maps for the places that the cells of an experiment have.
 *
 * @throws PatchscopeError `bad_input` where the weights are no lens, or of another model, or the cells are not those of
 *   a lens.
 */
export async function importLens(
  experiment: Experiment,
  engine: Engine,
  output: string,
  { from, isResidual = true, variant: name }: ImportOptions,
): Promise<MappingRecord> {
  const { record, tokenizer } = engine;
  const { embeddingSize: width, layerCount, sha256 } = record;
  const plan = makePlan(experiment, tokenizer, record);
  const variant = variantOf(experiment, name);
  const maps = placesOf(plan, variant.name, layerCount, undefined).flatMap(({ source, targets }) =>
    targets.map((target) => ({
      ...mapOf(source, target),
      translator: translatorOf({ source, target }, layerCount),
    })),
  );
  const lens = new LensWeights(from, { width, layerCount });
  try {
    const model = { sha256, width };
    const kind = { kind: 'affine' as const, source: model, target: model };
    const none = { train: 0, heldOut: 0 };
    const imported: MappingRecord = {
      ...kind,
      options: {},
      parameters: parameterCount(kind),
      imported: { file: path.basename(from), sha256: lens.sha256() },
      data: {
        experiment: experiment.name,
        positions: 'all',
        prompts: none,
        pairs: none,
        seed: experiment.seed,
      },
      maps: maps.map(({ translator: _, ...map }) => map),
    };
    await writeWhole(output, (part) => {
      const writer = new MappingWriter(part, imported);
      try {
        for (const { translator, ...map } of maps) writer.write(map, lens.map(translator, isResidual));
        writer.finish(imported);
      } finally {
        writer.close();
      }
    });
    return imported;
  } finally {
    lens.close();
  }
}

function mapOf(source: Place, target: Place): MapRecord {
  const unknown = { train: null, heldOut: null };
  return { source, target, ridge: 0, condition: null, r2: unknown, cosine: unknown, relativeError: unknown };
}

/** Undefined for the last block's own output, which needs none. */
function translatorOf({ source, target }: Pick<MapRecord, 'source' | 'target'>, layerCount: number) {
  const last = layerCount - 1;
  const isLens = ['embed', 'resid_out'].includes(source.site) && target.site === 'resid_out';
  if (!isLens || target.layer !== last) {
    throw new PatchscopeError(
      'bad_input',
      "A lens takes what a block puts out, or embed, to the last block's output: let the experiment's source site be resid_out, and its target layer -1.",
    );
  }
  if (source.layer === 'embed') return 0;
  return source.layer === last ? undefined : source.layer + 1;
}

/** An open file of them. */
class LensWeights {
  readonly #path: string;
  readonly #descriptor: number;
  readonly #width: number;
  readonly #tensors = new Map<string, StoredTensor>();

  constructor(file: string, { width, layerCount }: { readonly width: number; readonly layerCount: number }) {
    this.#path = file;
    this.#width = width;
    this.#descriptor = this.#attempt(() => fs.openSync(file, 'r'));
    try {
      this.#read(layerCount);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #read(layerCount: number): void {
    const header = this.#attempt(() => readHeader(this.#descriptor));
    if (header === undefined)
      throw this.#bad(this.#isPickle() ? PICKLE : `are no safetensors file of F32 floats${FLOATS}`);
    for (const [name, tensor] of header.tensors) {
      const [, key] = /(?:^|\.)(\d+\.(?:weight|bias))$/.exec(name) ?? [];
      if (key !== undefined) this.#tensors.set(key, tensor);
    }
    const layers = [...this.#tensors.keys()].filter((key) => key.endsWith('.weight')).map(Number.parseFloat);
    if (layers.length === 0)
      throw this.#bad('hold no tensor named 0.weight: those of a tuned lens are named so');
    const missing = Array.from({ length: layerCount }, (_, i) => i).find((i) => !layers.includes(i));
    if (layers.length !== layerCount || missing !== undefined) {
      throw this.#bad(
        `are of ${layers.length} layers, and this model has ${layerCount}: take a lens of the same model`,
      );
    }
    for (const [key, { shape }] of this.#tensors) {
      const wanted = key.endsWith('.weight') ? [this.#width, this.#width] : [this.#width];
      if (`${shape}` === `${wanted}`) continue;
      throw this.#bad(
        `hold ${key} of shape ${shape.join(' x ')} where this model, whose states have ${this.#width} floats, needs ${wanted.join(' x ')}: take a lens of the same model`,
      );
    }
  }

  sha256(): string {
    return this.#attempt(() => fileHash(this.#descriptor));
  }

  map(translator: number | undefined, isResidual: boolean): FittedMap {
    const width = this.#width;
    const part = (name: string) => {
      const tensor = this.#tensors.get(`${translator}.${name}`);
      return tensor && this.#attempt(() => readTensor(this.#descriptor, tensor));
    };
    const weight = part('weight') ?? new Float32Array(width * width);
    if (isResidual || translator === undefined) for (let i = 0; i < width; i++) weight[i * (width + 1)]! += 1;
    return { weight, bias: part('bias') ?? new Float32Array(width) };
  }

  close(): void {
    fs.closeSync(this.#descriptor);
  }

  /** As torch.save writes it: a ZIP archive, or in older versions the pickle alone. */
  #isPickle(): boolean {
    const begin = Buffer.alloc(4);
    fs.readSync(this.#descriptor, begin, 0, 4, 0);
    return begin.toString('latin1').startsWith('PK') || begin[0] === 0x80;
  }

  #attempt<T>(work: () => T): T {
    try {
      return work();
    } catch (cause) {
      const { code, message } = cause as NodeJS.ErrnoException;
      throw this.#bad(code === 'ENOENT' ? "don't exist" : `can't be read (${code ?? message})`);
    }
  }

  #bad(fault: string): PatchscopeError {
    return new PatchscopeError('bad_input', `The lens weights are '${this.#path}', which ${fault}.`);
  }
}

const FLOATS =
  ": in Python, safetensors.torch.save_file({name: tensor.float() for name, tensor in weights.items()}, 'lens.safetensors') writes one";
const PICKLE = `are a pickle, which only Python reads${FLOATS}, where weights is torch.load(FILE, map_location='cpu', weights_only=True)`;
