/**
 * The order of a plan's cells. Sources stay whole in a block, whose captured states are in memory together;
 * in a block the cells of one target prompt are neighbours, and among them those that write at one layer;
 * so cut, a block gives chunks, each of which is run and stored whole.
 */
import { PatchscopeError } from '../errors.js';
import { controls, type Experiment } from '../patchscope.js';
import type { ResolvedPrompt } from '../prompts.js';
import type { Pair } from './pairs.js';
import { promptsOf, type ResolvedSource } from './sources.js';

/** One entry for each cell. */
export interface CellColumns {
  /** Index in the plan's pairs. */
  readonly pair: Uint32Array;
  /** The pair whose source is captured: another one in the control `shuffled`. */
  readonly sourcePair: Uint32Array;
  /** Index in the plan's places; where nothing is patched, of the first cell of the pair. */
  readonly source: Uint16Array;
  readonly target: Uint16Array;
  /** Index in the list of controls. */
  readonly control: Uint8Array;
  readonly draw: Uint16Array;
}

/** A block is closed once it has as many cells, or as many bytes of states. */
const BLOCK_CELLS = 4096;
const BLOCK_BYTES = 64 * 2 ** 20;
/** A chunk's cells, fewer where each generates many tokens, so that a killed run loses about as much work. */
const CHUNK_CELLS = 1024;
const LEAST_CHUNK_CELLS = 256;
const CHUNK_TOKENS = 4096;

/** Source and target place of each cell of a pair. */
export type Grid = readonly (readonly [source: number, target: number])[];

export interface CellsToArrange {
  readonly experiment: Pick<Experiment, 'controls' | 'seed'>;
  /** Tokens that are read of each cell, at most. */
  readonly steps: number;
  readonly pairs: readonly Pair[];
  /** By the variant's name. */
  readonly grids: ReadonlyMap<string, Grid>;
  readonly stateBytes: number;
  /** What is kept of a source beside its states. */
  readonly sourceBytes: number;
}

export interface Arrangement {
  readonly cells: CellColumns;
  readonly chunkStarts: Uint32Array;
  readonly blockStarts: Uint32Array;
}

/** Pairs of one source. */
type Unit = readonly number[];

/** @throws PatchscopeError `bad_input` where a control is asked for that can't be. */
export function arrangeCells(task: CellsToArrange): Arrangement {
  const { random = 0, shuffled = 0, unpatched = false } = task.experiment.controls ?? {};
  const units = unitsOf(task.pairs);
  if (shuffled > 0 && units.length < 2) {
    throw new PatchscopeError(
      'bad_input',
      'The control `shuffled` takes the state of another source, and all samples have the same one: leave it out, or add samples.',
    );
  }
  const perCell = 1 + random + shuffled;
  const cellsOf = (pair: number) =>
    perCell * task.grids.get(task.pairs[pair]!.variant)!.length + (unpatched ? 1 : 0);
  const total = task.pairs.reduce((sum, _, pair) => sum + cellsOf(pair), 0);
  const writer = new CellWriter(total);
  const chunkStarts = [0];
  const blockStarts = [0];
  const chunkCells = chunkSize(task.steps);
  for (const block of blocksOf(units, cellsOf, task, shuffled > 0)) {
    const begin = writer.count;
    writeBlock(block, task, { random, shuffled, unpatched }, writer);
    writer.sort(begin, task);
    const chunks = Math.ceil((writer.count - begin) / chunkCells);
    for (let k = 1; k <= chunks; k++) {
      chunkStarts.push(begin + Math.ceil((k * (writer.count - begin)) / chunks));
    }
    blockStarts.push(chunkStarts.length - 1);
  }
  return {
    cells: writer.columns,
    chunkStarts: Uint32Array.from(chunkStarts),
    blockStarts: Uint32Array.from(blockStarts),
  };
}

function chunkSize(steps: number): number {
  const cells = Math.floor(CHUNK_TOKENS / Math.max(1, steps));
  return Math.max(LEAST_CHUNK_CELLS, Math.min(CHUNK_CELLS, cells));
}

function unitsOf(pairs: readonly Pair[]): Unit[] {
  const units = new Map<ResolvedSource, number[]>();
  pairs.forEach(({ source }, pair) => {
    const unit = units.get(source);
    if (unit === undefined) units.set(source, [pair]);
    else unit.push(pair);
  });
  return [...units.values()];
}

/** @param atLeastTwo units in each block, from which each other's states are taken. */
function blocksOf(
  units: readonly Unit[],
  cellsOf: (pair: number) => number,
  { pairs, grids, stateBytes, sourceBytes }: CellsToArrange,
  atLeastTwo: boolean,
): Unit[][] {
  const blocks: Unit[][] = [];
  let block: Unit[] = [];
  let cells = 0;
  let bytes = 0;
  const least = atLeastTwo ? 2 : 1;
  const placesOf = new Map([...grids].map(([name, grid]) => [name, new Set(grid.map(([source]) => source))]));
  for (const unit of units) {
    const places = new Set(unit.flatMap((pair) => [...placesOf.get(pairs[pair]!.variant)!]));
    const ownCells = unit.reduce((sum, pair) => sum + cellsOf(pair), 0);
    const prompts = promptsOf(pairs[unit[0]!]!.source).length;
    const ownBytes = prompts * places.size * stateBytes + sourceBytes;
    if (block.length >= least && (cells + ownCells > BLOCK_CELLS || bytes + ownBytes > BLOCK_BYTES)) {
      blocks.push(block);
      [block, cells, bytes] = [[], 0, 0];
    }
    block.push(unit);
    cells += ownCells;
    bytes += ownBytes;
  }
  if (block.length < least) blocks.at(-1)!.push(...block);
  else blocks.push(block);
  return blocks;
}

interface ControlCounts {
  readonly random: number;
  readonly shuffled: number;
  readonly unpatched: boolean;
}

const NONE = controls.indexOf('none');
const RANDOM = controls.indexOf('random');
const SHUFFLED = controls.indexOf('shuffled');
const UNPATCHED = controls.indexOf('unpatched');

function writeBlock(
  block: readonly Unit[],
  { pairs, grids, experiment }: CellsToArrange,
  { random, shuffled, unpatched }: ControlCounts,
  writer: CellWriter,
): void {
  block.forEach((unit, place) => {
    const others = block.length - 1;
    const first = others > 0 ? (experiment.seed + unit[0]!) % others : 0;
    const partners = Array.from(
      { length: shuffled },
      (_, draw) => block[(place + 1 + ((first + draw) % others)) % block.length]![0]!,
    );
    for (const pair of unit) {
      const grid = grids.get(pairs[pair]!.variant)!;
      if (unpatched) writer.add(pair, pair, ...grid[0]!, UNPATCHED, 0);
      for (const [source, target] of grid) {
        writer.add(pair, pair, source, target, NONE, 0);
        for (let draw = 0; draw < random; draw++) writer.add(pair, pair, source, target, RANDOM, draw);
        partners.forEach((partner, draw) => {
          writer.add(pair, partner, source, target, SHUFFLED, draw);
        });
      }
    }
  });
}

class CellWriter {
  readonly columns: CellColumns;
  count = 0;

  constructor(total: number) {
    this.columns = {
      pair: new Uint32Array(total),
      sourcePair: new Uint32Array(total),
      source: new Uint16Array(total),
      target: new Uint16Array(total),
      control: new Uint8Array(total),
      draw: new Uint16Array(total),
    };
  }

  add(pair: number, sourcePair: number, source: number, target: number, control: number, draw: number): void {
    const { columns, count } = this;
    columns.pair[count] = pair;
    columns.sourcePair[count] = sourcePair;
    columns.source[count] = source;
    columns.target[count] = target;
    columns.control[count] = control;
    columns.draw[count] = draw;
    this.count++;
  }

  /** Brings the cells from `begin` on into order: by target prompt, then by target place, in the order of their first cells. */
  sort(begin: number, { pairs }: Pick<CellsToArrange, 'pairs'>): void {
    const { columns, count } = this;
    const prompts = new Map<ResolvedPrompt, number>();
    const targets = new Map<number, number>();
    const promptRanks = new Uint32Array(count - begin);
    const targetRanks = new Uint32Array(count - begin);
    for (let i = 0; i < promptRanks.length; i++) {
      promptRanks[i] = rankOf(prompts, pairs[columns.pair[begin + i]!]!.target);
      targetRanks[i] = rankOf(targets, columns.target[begin + i]!);
    }
    const order = Uint32Array.from(promptRanks, (_, i) => i).sort(
      (a, b) => promptRanks[a]! - promptRanks[b]! || targetRanks[a]! - targetRanks[b]! || a - b,
    );
    for (const column of Object.values(columns)) {
      const before = column.slice(begin, count);
      order.forEach((from, i) => {
        column[begin + i] = before[from]!;
      });
    }
  }
}

function rankOf<T>(ranks: Map<T, number>, value: T): number {
  const known = ranks.get(value);
  if (known !== undefined) return known;
  ranks.set(value, ranks.size);
  return ranks.size - 1;
}
