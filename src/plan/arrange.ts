/**
 * The order of a plan's cells. Sources stay whole in a block, whose captured states are in memory together;
 * in a block the cells of one target prompt are neighbours, and among them those that write at one layer;
 * so cut, a block gives chunks, each of which is run and stored whole.
 */
import { PatchscopeError } from '../errors.js';
import { controls, type Experiment } from '../patchscope.js';
import type { ResolvedPrompt } from '../prompts.js';
import { movesOfPair, type Pair } from './pairs.js';
import { isVector, promptsOf } from './sources.js';

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

/** By `windowKey`: what is patched beside the cell's own places. */
export type Windows = ReadonlyMap<number, Grid>;

export function windowKey(source: number, target: number): number {
  return source * 2 ** 16 + target;
}

export interface CellsToArrange {
  readonly experiment: Pick<Experiment, 'controls' | 'seed'>;
  /** Tokens that are read of each cell, at most. */
  readonly steps: number;
  readonly pairs: readonly Pair[];
  /** By the variant's name. */
  readonly grids: ReadonlyMap<string, Grid>;
  readonly windows: ReadonlyMap<string, Windows>;
  /** How often each cell is run, by the variant's name. */
  readonly draws: ReadonlyMap<string, number>;
  readonly stateBytes: number;
  /** What is kept of a source beside its states. */
  readonly sourceBytes: number;
}

export interface Arrangement {
  readonly cells: CellColumns;
  readonly chunkStarts: Uint32Array;
  readonly blockStarts: Uint32Array;
}

/** Pairs of one source, or of all tokens of one that a variant goes through. */
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
  const cellsOf = (pair: number) => {
    const { variant, swept = 0 } = task.pairs[pair]!;
    const alone = unpatched && swept === 0 ? 1 : 0;
    return task.draws.get(variant)! * (perCell * task.grids.get(variant)!.length + alone);
  };
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
  const units = new Map<object, number[]>();
  pairs.forEach(({ source, swept }, pair) => {
    const key = swept === undefined || isVector(source) ? source : source.tokenIds;
    const unit = units.get(key);
    if (unit === undefined) units.set(key, [pair]);
    else unit.push(pair);
  });
  return [...units.values()];
}

/** @param atLeastTwo units in each block, from which each other's states are taken. */
function blocksOf(
  units: readonly Unit[],
  cellsOf: (pair: number) => number,
  { pairs, grids, windows, stateBytes, sourceBytes }: CellsToArrange,
  atLeastTwo: boolean,
): Unit[][] {
  const blocks: Unit[][] = [];
  let block: Unit[] = [];
  let cells = 0;
  let bytes = 0;
  const least = atLeastTwo ? 2 : 1;
  const placesOf = new Map(
    [...grids].map(([name, grid]) => {
      const all = [grid, ...(windows.get(name)?.values() ?? [])].flat();
      return [name, new Set(all.map(([source]) => source))];
    }),
  );
  for (const unit of units) {
    const places = new Set(unit.flatMap((pair) => [...placesOf.get(pairs[pair]!.variant)!]));
    const ownCells = unit.reduce((sum, pair) => sum + cellsOf(pair), 0);
    const sources = new Set(
      unit.flatMap((pair) => movesOfPair(pairs[pair]!).flatMap(({ source }) => promptsOf(source))),
    );
    const ownBytes = sources.size * (places.size * stateBytes + sourceBytes);
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
  { pairs, grids, draws, experiment }: CellsToArrange,
  { random, shuffled, unpatched }: ControlCounts,
  writer: CellWriter,
): void {
  block.forEach((unit, place) => {
    const others = block.length - 1;
    const first = others > 0 ? (experiment.seed + unit[0]!) % others : 0;
    const partners = Array.from(
      { length: shuffled },
      (_, draw) => block[(place + 1 + ((first + draw) % others)) % block.length]!,
    );
    for (const pair of unit) {
      const { variant, swept = 0 } = pairs[pair]!;
      const grid = grids.get(variant)!;
      const times = draws.get(variant)!;
      for (let draw = 0; draw < times; draw++) {
        if (unpatched && swept === 0) writer.add(pair, pair, ...grid[0]!, UNPATCHED, draw);
        for (const [source, target] of grid) {
          const add = (from: number, control: number, repetition: number) =>
            writer.add(pair, from, source, target, control, drawNumber(repetition, draw, times));
          add(pair, NONE, 0);
          for (let i = 0; i < random; i++) add(pair, RANDOM, i);
          partners.forEach((partner, i) => {
            add(partner[swept % partner.length]!, SHUFFLED, i);
          });
        }
      }
    }
  });
}

/** What is stored of the repetition of a control and the draw of its cell; the remainder by `times` is the draw. */
function drawNumber(repetition: number, draw: number, times: number): number {
  return repetition * times + draw;
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
