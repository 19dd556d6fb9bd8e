/** Applies the maps of mapping files to states, many at once. */
import { PatchscopeError } from '../errors.js';
import { concatenate } from '../floats.js';
import type { FileMapping, FittedMapping } from '../patchscope.js';
import type { Place } from '../places.js';
import { linksOf, type Step, waysOf } from './find-map.js';
import { MappingFile } from './mapping-file.js';
import { applyMap } from './maps.js';

/** A state on its way from one place to another. */
export interface MapTask {
  readonly mapping: FittedMapping;
  readonly source: Place;
  readonly target: Place;
  readonly state: Float32Array;
}

export class Mapper {
  readonly #threads: number;
  /** By path: stamps of files that are those that were planned with. */
  readonly #checked = new Map<string, string>();

  constructor(threads: number) {
    this.#threads = threads;
  }

  /**
   * What becomes of each state.
   *
   * @throws PatchscopeError `bad_input` where a file is not the one that was planned with.
   */
  async map(tasks: readonly MapTask[]): Promise<Float32Array[]> {
    const groups = new Map<string, MapTask[]>();
    for (const task of tasks) {
      const { mapping, source, target } = task;
      const key = [mapping.sha256, source.site, source.layer, target.site, target.layer].join();
      const group = groups.get(key);
      if (group === undefined) groups.set(key, [task]);
      else group.push(task);
    }
    const mapped = new Map<MapTask, Float32Array>();
    for (const group of groups.values()) {
      const rows = await this.#apply(group);
      group.forEach((task, i) => {
        mapped.set(task, rows[i]!);
      });
    }
    return tasks.map((task) => mapped.get(task)!);
  }

  /** Of one map; states that several cells share go through it once. */
  async #apply(group: readonly MapTask[]): Promise<Float32Array[]> {
    const { mapping, source, target } = group[0]!;
    const states = [...new Set(group.map(({ state }) => state))];
    const way = waysOf(linksOf(mapping), source, target)[0]!;
    let rows: Float32Array = concatenate(states);
    for (const step of way) rows = await this.#step(step, rows);
    const { width } = way.at(-1)!.mapping.record.target;
    const rowOf = new Map(states.map((state, i) => [state, rows.subarray(i * width, (i + 1) * width)]));
    return group.map(({ state }) => rowOf.get(state)!);
  }

  #step({ mapping, map }: Step, rows: Float32Array): Promise<Float32Array> {
    const { record } = mapping;
    const tensors = this.#read(mapping, (file) => file.map(map));
    return applyMap(record, tensors, rows, record.source.width, this.#threads);
  }

  #read<T>({ path, sha256 }: FileMapping, read: (file: MappingFile) => T): T {
    const file = new MappingFile(path);
    try {
      if (this.#checked.get(path) !== file.stamp) {
        if (file.sha256() !== sha256) {
          throw new PatchscopeError(
            'bad_input',
            `The mapping ${path} is not the file that the plan was made with: start anew.`,
          );
        }
        this.#checked.set(path, file.stamp);
      }
      return read(file);
    } finally {
      file.close();
    }
  }
}
