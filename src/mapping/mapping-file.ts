/** A mapping as a safetensors file: the tensors of its maps, and in its metadata how they were fitted. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { PatchscopeError } from '../errors.js';
import { hashOf } from '../file-hash.js';
import { type FileMapping, type FittedMapping, type MappingRecord, mappingKinds } from '../patchscope.js';
import {
  layOut,
  readHeader,
  readTensor,
  type SafetensorsHeader,
  type SafetensorsLayout,
  writeTensor,
} from '../safetensors.js';
import { type FittedMap, type MapPlaces, tensorName, tensorShapes } from './maps.js';

const FORMAT = 'patchscopes-mapping';

/** An open file of maps. */
export class MappingFile {
  readonly record: MappingRecord;
  /** Another one where the file was written anew. */
  readonly stamp: string;
  readonly #descriptor: number;
  readonly #path: string;
  readonly #tensors: SafetensorsHeader['tensors'];

  /** @throws PatchscopeError `bad_input` where it can't be read or is no mapping. */
  constructor(file: string) {
    this.#path = file;
    this.#descriptor = this.#attempt(() => fs.openSync(file, 'r'));
    try {
      const header = this.#attempt(() => readHeader(this.#descriptor));
      const record = header && recordOf(header);
      if (record === undefined) throw this.#bad('is no mapping of patchscopes fit');
      this.#tensors = header!.tensors;
      this.record = record;
      const { dev, ino, size, mtimeMs } = fs.fstatSync(this.#descriptor);
      this.stamp = [dev, ino, size, mtimeMs].join();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  sha256(): string {
    return this.#attempt(() => hashOf(this.#descriptor));
  }

  map(places: MapPlaces): FittedMap {
    return Object.fromEntries(
      tensorShapes(this.record, places).map(({ name }) => [
        name.slice(name.lastIndexOf('.') + 1),
        this.#attempt(() => readTensor(this.#descriptor, this.#tensors.get(name)!)),
      ]),
    );
  }

  close(): void {
    fs.closeSync(this.#descriptor);
  }

  #attempt<T>(work: () => T): T {
    try {
      return work();
    } catch (cause) {
      const { code, message } = cause as NodeJS.ErrnoException;
      throw this.#bad(code === 'ENOENT' ? 'does not exist' : `can't be read (${code ?? message})`);
    }
  }

  #bad(fault: string): PatchscopeError {
    return new PatchscopeError(
      'bad_input',
      `The mapping is '${this.#path}', which ${fault}: patchscopes fit makes one.`,
    );
  }
}

/** @throws PatchscopeError `bad_input` where it can't be read or is no mapping. */
export function readMapping(file: string): FileMapping {
  const open = new MappingFile(file);
  try {
    const sha256 = open.sha256();
    const name = `${path.basename(file, '.safetensors')}@${sha256.slice(0, 12)}`;
    return { kind: 'file', name, path: path.resolve(file), sha256, record: open.record };
  } finally {
    open.close();
  }
}

/**
 * Of several files a chain, each taking what the one before gives.
 *
 * @throws PatchscopeError `bad_input` where one can't be read or is no mapping.
 */
export function readMappings(files: readonly string[]): FittedMapping {
  const links = files.map(readMapping);
  if (links.length === 1) return links[0]!;
  const sha256 = createHash('sha256')
    .update(links.map((link) => link.sha256).join())
    .digest('hex');
  return { kind: 'chain', name: links.map(({ name }) => name).join(' > '), sha256, links };
}

/** Writes maps one after the other, and at the end how good they are. */
export class MappingWriter {
  readonly #descriptor: number;
  readonly #record: MappingRecord;
  readonly #layout: SafetensorsLayout;

  /** @param record with numbers no shorter than those of the end. */
  constructor(file: string, record: MappingRecord) {
    this.#record = record;
    this.#layout = this.#layoutOf(record);
    this.#descriptor = fs.openSync(file, 'r+');
    fs.ftruncateSync(this.#descriptor, this.#layout.bytes);
  }

  write(places: MapPlaces, map: FittedMap): void {
    for (const [part, values] of Object.entries(map)) {
      writeTensor(this.#descriptor, this.#layout.offsets.get(tensorName(places, part))!, values);
    }
  }

  finish(record: MappingRecord): void {
    const { header } = this.#layoutOf(record, this.#layout.header.length);
    if (header.length !== this.#layout.header.length) throw new Error('The record has outgrown its place.');
    fs.writeSync(this.#descriptor, header, 0, header.length, 0);
  }

  close(): void {
    fs.closeSync(this.#descriptor);
  }

  #layoutOf(record: MappingRecord, least = 0): SafetensorsLayout {
    const tensors = this.#record.maps.flatMap((map) => tensorShapes(record, map));
    return layOut(tensors, { format: FORMAT, record: JSON.stringify(record) }, least);
  }
}

/** Undefined where the file holds something else, or not all that its record names. */
function recordOf({ metadata, tensors }: SafetensorsHeader): MappingRecord | undefined {
  if (metadata.format !== FORMAT || metadata.record === undefined) return undefined;
  try {
    const record = JSON.parse(metadata.record) as MappingRecord;
    if (!mappingKinds.includes(record.kind) || record.maps.length === 0) return undefined;
    const shapes = record.maps.flatMap((map) => tensorShapes(record, map));
    const isWhole = shapes.every(({ name, shape }) => `${tensors.get(name)?.shape}` === `${shape}`);
    const isKnown = [record.source, record.target].every(
      ({ sha256, width }) => typeof sha256 === 'string' && Number.isSafeInteger(width),
    );
    return isWhole && isKnown ? record : undefined;
  } catch {
    return undefined;
  }
}
