/** How many threads a process may use well. More than that is not a little slower but many times slower. */
import fs from 'node:fs';
import os from 'node:os';

/** Where the figures come from; replaced in tests. */
export interface ThreadSources {
  /** Processors this process may run on (CPU affinity). */
  readonly affinity: () => number;
  /** Text of a file, or null where there is none. */
  readonly read: (file: string) => string | null;
  /** Names in a folder, empty where there is none. */
  readonly list: (folder: string) => readonly string[];
}

const system: ThreadSources = {
  affinity: () => os.availableParallelism(),
  read: (file) => {
    try {
      return fs.readFileSync(file, 'utf8');
    } catch {
      return null;
    }
  },
  list: (folder) => {
    try {
      return fs.readdirSync(folder);
    } catch {
      return [];
    }
  },
};

/** The least of physical cores, CPU affinity and container quota, at least 1. */
export function defaultThreads(sources: ThreadSources = system): number {
  return Math.max(1, Math.min(...Object.values(threadLimits(sources))));
}

/** Infinity where a figure is not known or there is no bound. */
export function threadLimits(sources: ThreadSources = system) {
  return {
    physicalCores: physicalCores(sources),
    affinity: sources.affinity(),
    containerQuota: containerQuota(sources),
  };
}

/** Hyper-threads of one core share its arithmetic units and count once. */
function physicalCores({ read, list }: ThreadSources): number {
  const root = '/sys/devices/system/cpu';
  const cores = new Set<string>();
  for (const name of list(root)) {
    if (!/^cpu\d+$/.test(name)) continue;
    const siblings = read(`${root}/${name}/topology/thread_siblings_list`);
    if (siblings !== null) cores.add(siblings.trim());
  }
  return cores.size || Number.POSITIVE_INFINITY;
}

function containerQuota({ read }: ThreadSources): number {
  const own = read('/proc/self/cgroup') ?? '';
  const quotas: number[] = [];
  for (const folder of foldersUpwards(own.match(/^0::(.*)$/m)?.[1] ?? '/')) {
    const [quota, period] = (read(`/sys/fs/cgroup${folder}/cpu.max`) ?? '').trim().split(/\s+/);
    quotas.push(coresOf(quota, period));
  }
  for (const folder of foldersUpwards(own.match(/^\d+:[^:]*\bcpu\b[^:]*:(.*)$/m)?.[1] ?? '/')) {
    const at = `/sys/fs/cgroup/cpu${folder}`;
    quotas.push(coresOf(read(`${at}/cpu.cfs_quota_us`)?.trim(), read(`${at}/cpu.cfs_period_us`)?.trim()));
  }
  return Math.min(...quotas);
}

function foldersUpwards(path: string): string[] {
  const parts = path.split('/').filter(Boolean);
  return parts.map((_, i) => `/${parts.slice(0, i + 1).join('/')}`).concat('');
}

/** Half a core is rounded up: less than one thread can't be had. */
function coresOf(quota: string | undefined, period: string | undefined): number {
  const cores = Number(quota) / Number(period);
  return cores > 0 && Number.isFinite(cores) ? Math.ceil(cores) : Number.POSITIVE_INFINITY;
}
