import { setTimeout as sleep } from 'node:timers/promises';
import lockfile from 'proper-lockfile';
import { PatchscopeError } from '../errors.js';
import { reason, type Watch } from './watch.js';

const staleAfterMs = 10_000;
const renewEveryMs = 2_000;
const retryEveryMs = 300;

/**
 * Runs `work` while no other process (nor another call in this one) works on
 * `target`. The signal given to `work` also fires when the lock is lost, after
 * which another process may be writing.
 */
export async function withLock<T>(
  target: string,
  work: (signal: AbortSignal) => Promise<T>,
  { onNote, signal }: Watch = {},
): Promise<T> {
  const lost = new AbortController();
  const release = await acquire();
  try {
    return await work(AbortSignal.any(signal ? [signal, lost.signal] : [lost.signal]));
  } finally {
    if (!lost.signal.aborted) await release();
  }

  async function acquire(): Promise<() => Promise<void>> {
    for (let attempt = 0; ; attempt++) {
      signal?.throwIfAborted();
      try {
        return await lockfile.lock(target, {
          realpath: false,
          stale: staleAfterMs,
          update: renewEveryMs,
          onCompromised: (cause) =>
            lost.abort(
              new PatchscopeError(
                'download',
                `The lock on ${target} was taken by another process; run the command again to go on.`,
                { cause },
              ),
            ),
        });
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ELOCKED')
          throw new PatchscopeError(
            'download',
            `${target} cannot be locked (${reason(error)}); PATCHSCOPES_CACHE may name another folder.`,
            { cause: error },
          );
        if (attempt === 0) onNote?.(`Waiting for another process that is getting ${target}.`);
        await sleep(retryEveryMs);
      }
    }
  }
}
