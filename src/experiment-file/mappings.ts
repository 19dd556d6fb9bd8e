/** The mappings that a file names or has fitted. */
import type { Mapping } from '../patchscope.js';
import { around, badAt, type Located, type Path, pathFrom, pathText } from './document.js';
import { given, promptAt } from './prompts.js';
import { readSamples } from './samples.js';
import type { ExperimentFile, MappingKeys } from './schema.js';
import type { Row } from './template.js';

/** What files of mappings hold, each of which takes what the one before gives. */
export type OpenMapping = (paths: readonly string[]) => Mapping;

export class Mappings {
  readonly #file: ExperimentFile;
  readonly #root: Located;
  readonly #rows: readonly Row[];
  readonly #open: OpenMapping | undefined;

  /**
   * @param rows the samples of the experiment, which nothing may be fitted to.
   * @param open default: every mapping is the identity.
   */
  constructor(file: ExperimentFile, root: Located, rows: readonly Row[], open: OpenMapping | undefined) {
    this.#file = file;
    this.#root = root;
    this.#rows = rows;
    this.#open = open;
  }

  own(): Mapping {
    return this.#at(this.#file.mapping ?? 'identity', ['mapping'], undefined);
  }

  /** Undefined where it is the experiment's. One that is fitted follows the variant's own source prompt. */
  ofVariant(index: number): Mapping | undefined {
    const { mapping, source } = this.#file.variants![index]!;
    if (mapping !== undefined) return this.#at(mapping, ['variants', index, 'mapping'], index);
    const inherited = this.#file.mapping;
    const hasOwnSource = source?.prompt !== undefined || source?.position !== undefined;
    return typeof inherited === 'object' && !isList(inherited) && hasOwnSource
      ? this.#at(inherited, ['mapping'], index)
      : undefined;
  }

  #at(mapping: NonNullable<ExperimentFile['mapping']>, path: Path, variant: number | undefined): Mapping {
    if (mapping === 'identity' || this.#open === undefined) return { kind: 'identity' };
    if (typeof mapping === 'string' || isList(mapping)) {
      const node = around(this.#root, path);
      return this.#open([mapping].flat().map((name) => pathFrom(node, name)));
    }
    const {
      samples,
      kind = 'affine',
      ridge,
      positions,
      'target-site': targetSite,
      'held-out': heldOut,
      ...options
    } = mapping;
    const ofKind = given(options);
    return {
      kind: 'unfitted',
      fit: {
        ...{ kind, ...given({ ridge, positions, targetSite, heldOut }) },
        ...(Object.keys(ofKind).length > 0 && { options: ofKind }),
      },
      prompts: this.#prompts(samples, [...path, 'samples'], variant),
    };
  }

  #prompts(samples: MappingKeys['samples'], path: Path, variant: number | undefined) {
    const key = pathText(path);
    const node = around(this.#root, path);
    const source = promptAt(this.#file, this.#root, 'source', variant);
    const textOf = (row: Row) => JSON.stringify(source(row).prompt);
    const measured = new Map(this.#rows.map((row) => [textOf(row), row]));
    const rows = readSamples(samples, node, key);
    for (const row of rows) {
      const same = measured.get(textOf(row));
      if (same === undefined) continue;
      throw badAt(
        node.place,
        `${key} has in ${row.where} the source prompt of the experiment's ${same.where}, and what a map was fitted to says nothing of how good it is: take others, such as those behind them (from: ${this.#rows.length + 1})`,
      );
    }
    return rows.map(source);
  }
}

function isList<T>(value: T | readonly string[]): value is readonly string[] {
  return Array.isArray(value);
}
