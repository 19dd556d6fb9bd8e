/**
 * Kills runs at random moments - the command, the process of its engine, or both - and resumes them, until there
 * were so many kills: `npm run test:kills [-- COUNT [SEED]]`. Whatever was killed when, the results file must in
 * the end hold what an undisturbed run's holds, to the bit.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { uniforms } from '../src/random.js';
import { query } from '../src/store/query.js';
import { tinyPath } from './fixtures/disk.js';
import { dumpResults } from './results-dump.js';
import { sweep } from './sweep.js';

const [wanted = 50, seed = Date.now() % 1e6] = process.argv.slice(2).map(Number);
const random = uniforms(seed);
const cli = fileURLToPath(new URL('../dist/cli.js', import.meta.url));
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'kills-'));
const experiment = path.join(folder, 'sweep.json');

const probe = { class: '{word}', subject: '{who}' };
fs.writeFileSync(experiment, JSON.stringify({ ...sweep(90), probe }));

function start(db: string): ChildProcess {
  const resume = hasRun(db, 'true') ? ['--resume'] : [];
  const model = ['-m', tinyPath('llama'), '-t', '1'];
  const args = [cli, 'run', experiment, '--db', db, '--quiet', ...model, ...resume];
  return spawn(process.execPath, args, { cwd: folder, stdio: ['ignore', 'ignore', 'pipe'] });
}

/** A file may have been left before its tables were made. */
function hasRun(db: string, condition: string): boolean {
  return (
    fs.existsSync(db) &&
    query(db, "SELECT 1 FROM sqlite_schema WHERE name = 'chunk'").rows.length > 0 &&
    query(db, `SELECT 1 FROM run WHERE ${condition}`).rows.length > 0
  );
}

function childrenOf(pid: number): number[] {
  try {
    return execFileSync('pgrep', ['-P', String(pid)], { encoding: 'utf8' })
      .split('\n')
      .filter(Boolean)
      .map(Number);
  } catch {
    return []; // there are none
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // it has ended
  }
}

/** What a run says whose engine dies before it can be started again; such a run stored nothing yet. */
const diedOpening = 'died while it opened the model';

/** @returns its exit code; null where it was killed. */
async function ended(run: ChildProcess, engineKilled = () => false): Promise<number | null> {
  let complaint = '';
  run.stderr!.on('data', (text) => {
    complaint += text;
  });
  const [code] = await once(run, 'close');
  const wellEnded = code === 0 || code === null || (engineKilled() && complaint.includes(diedOpening));
  assert.ok(wellEnded, `exit code ${code}: ${complaint}`);
  return code;
}

const undisturbed = path.join(folder, 'undisturbed.db');
const begin = performance.now();
await ended(start(undisturbed));
const milliseconds = performance.now() - begin;
const expected = dumpResults(undisturbed);
const [[cells, chunks] = []] = query(undisturbed, 'SELECT cells_planned, chunks_planned FROM run').rows;
console.log(
  `seed ${seed}: ${cells} cells in ${chunks} chunks, ${(milliseconds / 1000).toFixed(1)} s undisturbed`,
);

const targets = ['command', 'engine', 'both'] as const;
let kills = 0;
let sweeps = 0;
while (kills < wanted) {
  const db = path.join(folder, `${sweeps}.db`);
  for (let done = false; !done; ) {
    const run = start(db);
    let engineKilled = false;
    const end = ended(run, () => engineKilled);
    const what = targets[Math.floor(random() * targets.length)]!;
    const finished = await Promise.race([end.then(() => true), sleep(random() * 0.6 * milliseconds, false)]);
    if (!finished && kills < wanted) {
      const engines = childrenOf(run.pid!);
      if (what !== 'engine') kill(run.pid!);
      if (what !== 'command') {
        engines.forEach(kill);
        engineKilled = engines.length > 0;
      }
      kills++;
    }
    // one that is killed once all is stored has nothing left to resume
    done = (await end) === 0 || hasRun(db, "status = 'done'");
  }
  assert.deepEqual(dumpResults(db), expected, `sweep ${sweeps}`);
  assert.deepEqual(query(db, 'PRAGMA integrity_check').rows, [['ok']]);
  fs.rmSync(db);
  sweeps++;
  console.log(`${kills} kills, ${sweeps} sweeps as if undisturbed`);
}
fs.rmSync(folder, { recursive: true });
