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
import { type Check, gigabytes, ok } from './check.js';

const LOW_DISK_BYTES = 2e9;

export function checkSurroundings(): Check[] {
  return [checkVersions(), checkProcessors(), checkDatabase(), checkResults(), checkModels(), checkDisk()];
}

function checkVersions(): Check {
  const built = attempt(builtFrom);
  const engine =
    built instanceof Error ? '' : `, node-llama-cpp ${built.nodeLlamaCpp}, llama.cpp ${built.llamaCpp}`;
  return ok('versions', `patchscopes ${packageVersion}, Node ${process.versions.node}${engine}`);
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
  const version = attempt(() => {
    const database = openSqlite(':memory:');
    const { version } = database.prepare('SELECT sqlite_version() AS version').get() as { version: string };
    database.close();
    return version;
  });
  return version instanceof Error
    ? {
        check: 'database',
        status: 'missing',
        text: `better-sqlite3 can't be loaded (${oneLine(version)})`,
        advice: 'run `npm install` again, with optional dependencies',
      }
    : ok('database', `SQLite ${version}`);
}

function checkResults(): Check {
  const folder = path.resolve('results');
  const failed = attempt(() => probeFile(path.join(folder, '.probe')));
  return failed instanceof Error
    ? {
        check: 'results',
        status: 'warning',
        text: `${folder} can't be written (${oneLine(failed)})`,
        advice: 'use --db FILE in a folder that is yours, or --no-db',
      }
    : ok('results', `${folder} can be written`);
}

function checkModels(): Check {
  const folder = modelsFolder();
  const models = attempt(() => {
    probeFile(path.join(folder, '.probe'));
    if (!fs.existsSync(folder)) return [];
    return fs
      .readdirSync(folder)
      .filter((name) => name.endsWith('.gguf'))
      .map((name) => `${name} ${gigabytes(fs.statSync(path.join(folder, name)).size)}`);
  });
  return models instanceof Error
    ? {
        check: 'models',
        status: 'warning',
        text: `${folder} can't be used (${oneLine(models)})`,
        advice: 'name another folder in PATCHSCOPES_CACHE',
      }
    : ok('models', `${folder}: ${models.length > 0 ? models.join(', ') : 'none yet'}`);
}

function checkDisk(): Check {
  const folder = nearestFolder(modelsFolder());
  const { bavail, bsize } = fs.statfsSync(folder);
  const text = `${gigabytes(bavail * bsize)} free where models are kept`;
  return bavail * bsize >= LOW_DISK_BYTES
    ? ok('disk', text)
    : {
        check: 'disk',
        status: 'warning',
        text,
        advice: 'make room, or name another folder in PATCHSCOPES_CACHE',
      };
}

function nearestFolder(folder: string): string {
  return fs.existsSync(folder) ? folder : nearestFolder(path.dirname(folder));
}

function attempt<T>(work: () => T): T | Error {
  try {
    return work();
  } catch (error) {
    return error as Error;
  }
}

function oneLine({ message }: Error): string {
  return message.split('\n')[0]!.replace(/\.$/, '');
}
