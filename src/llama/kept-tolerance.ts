/** Tolerances measured on this machine, in the cache folder. */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { cacheFolder, makeCacheFolder, shortKey } from '../models/cache.js';
import type { KeptTolerance } from './company.js';

export const keptTolerance: KeptTolerance = {
  read(key) {
    try {
      const { tolerance } = JSON.parse(fs.readFileSync(fileOf(key), 'utf8')) as { tolerance: unknown };
      return typeof tolerance === 'number' ? tolerance : undefined;
    } catch {
      return undefined; // measured again
    }
  },
  write(key, tolerance) {
    const file = fileOf(key);
    const part = `${file}.${process.pid}.part`;
    try {
      makeCacheFolder(path.dirname(file));
      fs.writeFileSync(part, JSON.stringify({ tolerance, of: key, measuredAt: new Date().toISOString() }));
      fs.renameSync(part, file);
    } catch {
      // a cache that can't be written costs time, nothing else
    }
  },
};

function fileOf(key: object): string {
  const cpu = os.cpus()[0]?.model ?? '';
  return path.join(cacheFolder(), 'tolerance', `${shortKey(JSON.stringify({ ...key, cpu }))}.json`);
}
