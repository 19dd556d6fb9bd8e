/**
 * What storing costs: a million cells of a fake engine through the store against plain prepared inserts of the
 * same rows, each in a process of its own, in turn; how fast the usual questions are answered; and what it takes
 * to plan as many. The machine must have nothing else to do. `npm run bench:store`.
 */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { formatTable } from '../../src/store/format.js';
import { query } from '../../src/store/query.js';
import { openStore } from '../../src/store/store.js';
import { CELLS } from './store-rows.js';

const ROUNDS = 3;
const writer = fileURLToPath(new URL('store-writer.ts', import.meta.url));
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bench-store-'));

interface Written {
  readonly seconds: number;
  readonly peakMegabytes: number;
}

const rows: (string | number)[][] = [];
try {
  const rounds = Array.from({ length: ROUNDS }, () => ({ plain: write('plain'), ours: write('store') }));
  const ours = median(rounds.map((round) => round.ours.seconds));
  const plain = median(rounds.map((round) => round.plain.seconds));
  report(
    'ours : plain inserts, speed',
    median(rounds.map((r) => r.plain.seconds / r.ours.seconds)),
    '>= 0.5',
  );
  report('ours, cells a second', CELLS / ours, '');
  report('plain inserts, cells a second', CELLS / plain, '');
  report('ours, peak MB', Math.max(...rounds.map((round) => round.ours.peakMegabytes)), '<= 400');
  report('plain inserts, peak MB', Math.max(...rounds.map((round) => round.plain.peakMegabytes)), '');
  const file = fileOf('store');
  report('file, MB', fs.statSync(file).size / 1e6, '');
  report(
    'aggregate, s',
    seconds(() => aggregate(file)),
    '',
  );
  const live = `FROM observation JOIN score ON observation_id = observation.id AND name = 'answer-found'
    WHERE run_id = 1 AND control = 'none'`;
  ask('metric_by_layer, s', '<= 1', 'SELECT * FROM metric_by_layer');
  ask('the same from the cells, s', '<= 1', `SELECT source_layer, avg(value) ${live} GROUP BY source_layer`);
  ask('layer_grid, s', '', 'SELECT * FROM layer_grid');
  ask(
    'the same from the cells, s',
    '',
    `SELECT source_layer, target_layer, avg(value) ${live} GROUP BY source_layer, target_layer`,
  );
  ask('success_by_group, s', '', 'SELECT * FROM success_by_group');
  ask('best_cell, s', '', 'SELECT * FROM best_cell');
  for (const [what, ...args] of [
    ['a million cells of 33,334 samples planned', 'same', '33334'],
    ['a million cells of 1,112 samples planned', 'all', '1112'],
  ] as const) {
    const planner = fileURLToPath(new URL('plan.ts', import.meta.url));
    const answer = execFileSync(process.execPath, ['--import', 'tsx', planner, ...args], {
      encoding: 'utf8',
    });
    const { seconds, megabytes } = JSON.parse(answer);
    report(`${what}, s`, seconds, '<= 5');
    report('its process, peak MB', megabytes, '<= 500');
  }
} finally {
  fs.rmSync(folder, { recursive: true });
}
console.log(formatTable({ columns: ['measure', 'value', 'wanted'], rows, truncated: false }));

function fileOf(way: string): string {
  return path.join(folder, `${way}.db`);
}

function write(way: 'store' | 'plain'): Written {
  const file = fileOf(way);
  fs.rmSync(file, { force: true });
  return JSON.parse(
    execFileSync(process.execPath, ['--import', 'tsx', writer, way, file], { encoding: 'utf8' }),
  );
}

function aggregate(file: string): void {
  const store = openStore(file);
  store.aggregate(1);
  store.close();
}

/** The fastest of some: the file is in the system's memory then. */
function ask(name: string, wanted: string, sql: string): void {
  const times = Array.from({ length: ROUNDS }, () => seconds(() => query(fileOf('store'), sql)));
  report(name, Math.min(...times), wanted);
}

function seconds(work: () => void): number {
  const start = performance.now();
  work();
  return (performance.now() - start) / 1000;
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;
}

function report(name: string, value: number, wanted: string): void {
  rows.push([name, Number(value.toPrecision(3)), wanted]);
}
