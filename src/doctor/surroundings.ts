/** What is not the libraries: versions, processors, folders, the database. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { probeFile } from '../folders.js';
import { modelsFolder } from '../models/cache.js';
import { builtFrom } from '../native.js';
import { packageVersion } from '../package-version.js';
import { openSqlite } from '../store/sqlite.js';
import { defaultThreads, threadLimits } from '../threads.js';
import { type Check, gigabytes, ok, warning } from './check.js';

const LOW_DISK_BYTES = 2e9;

export function checkSurroundings(): Check[] {
  return [checkVersions(), checkProcessors(), checkDatabase(), checkResults(), checkModels(), checkDisk()];
}

function checkVersions(): Check {
  const own = `patchscopes ${packageVersion}, Node ${process.versions.node}`;
  return checkedBy(
    'versions',
    () => {
      const { nodeLlamaCpp, llamaCpp } = builtFrom();
      return `${own}, node-llama-cpp ${nodeLlamaCpp}, llama.cpp ${llamaCpp}`;
    },
    () => ok('versions', own), // what the addon lacks is a check of its own
  );
}

function checkProcessors(): Check {
  const limits = threadLimits();
  const reasons = [
    [limits.physicalCores, 'physical cores'],
    [limits.affinity, 'by CPU affinity'],
    [limits.containerQuota, 'by container quota'],
  ] as const;
  const known = reasons
    .filter(([count]) => Number.isFinite(count))
    .map(([count, what]) => `${count} ${what}`);
  return ok(
    'threads',
    `${process.platform} ${process.arch}, ${os.cpus()[0]?.model.trim() ?? 'unknown processor'}; -t is ${defaultThreads()}, the least of ${known.join(', ')}`,
  );
}

function checkDatabase(): Check {
  return checkedBy(
    'database',
    () => {
      const database = openSqlite(':memory:');
      const { version } = database.prepare('SELECT sqlite_version() AS version').get() as { version: string };
      database.close();
      return `SQLite ${version}`;
    },
    (reason) => ({
      check: 'database',
      status: 'missing',
      text: `better-sqlite3 can't be loaded (${reason})`,
      advice: 'run `npm install` again, with optional dependencies',
    }),
  );
}

function checkResults(): Check {
  const folder = path.resolve('results');
  return checkedBy(
    'results',
    () => {
      probeFile(path.join(folder, '.probe'));
      return `${folder} can be written`;
    },
    (reason) =>
      warning(
        'results',
        `${folder} can't be written (${reason})`,
        'use --db FILE in a folder that is yours, or --no-db',
      ),
  );
}

function checkModels(): Check {
  const folder = modelsFolder();
  return checkedBy(
    'models',
    () => {
      probeFile(path.join(folder, '.probe'));
      const models = fs.existsSync(folder) ? fs.readdirSync(folder) : [];
      const told = models
        .filter((name) => name.endsWith('.gguf'))
        .map((name) => `${name} ${gigabytes(fs.statSync(path.join(folder, name)).size)}`);
      return `${folder}: ${told.length > 0 ? told.join(', ') : 'none yet'}`;
    },
    (reason) =>
      warning('models', `${folder} can't be used (${reason})`, 'name another folder in PATCHSCOPES_CACHE'),
  );
}

function checkDisk(): Check {
  const folder = nearestFolder(modelsFolder());
  const { bavail, bsize } = fs.statfsSync(folder);
  const text = `${gigabytes(bavail * bsize)} free where models are kept`;
  return bavail * bsize >= LOW_DISK_BYTES
    ? ok('disk', text)
    : warning('disk', text, 'make room, or name another folder in PATCHSCOPES_CACHE');
}

function nearestFolder(folder: string): string {
  return fs.existsSync(folder) ? folder : nearestFolder(path.dirname(folder));
}

/** Well where `work` gives its words; else `failed` says it, with the reason as a clause. */
function checkedBy(check: string, work: () => string, failed: (reason: string) => Check): Check {
  try {
    return ok(check, work());
  } catch (error) {
    return failed((error as Error).message.split('\n')[0]!.replace(/\.$/, ''));
  }
}
