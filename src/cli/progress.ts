/** A bar on a terminal, a line now and then elsewhere; on stderr, so that results stay clean. */
import { Presets, SingleBar } from 'cli-progress';
import type { Progress } from '../index.js';

const QUIET_STEP_BYTES = 50e6;

export function downloadProgress(): { update: (progress: Progress) => void; stop: () => void } {
  let bar: SingleBar | undefined;
  let step: Progress['step'] | undefined;
  let told = 0;
  const stop = () => {
    bar?.stop();
    bar = undefined;
  };
  const update = ({ step: now, doneBytes, totalBytes }: Progress) => {
    if (now === 'hash' && (totalBytes ?? 0) < QUIET_STEP_BYTES) return;
    if (!process.stderr.isTTY) {
      if (now !== step || doneBytes - told >= QUIET_STEP_BYTES) {
        process.stderr.write(
          `${now} ${megabytes(doneBytes)}${totalBytes ? ` of ${megabytes(totalBytes)}` : ''} MB\n`,
        );
        step = now;
        told = doneBytes;
      }
      return;
    }
    if (now !== step || bar === undefined) {
      stop();
      step = now;
      bar = new SingleBar(
        {
          format: `${now.padEnd(8)} {bar} {percentage} % {value}/{total} MB`,
          hideCursor: true,
          stream: process.stderr,
        },
        Presets.shades_classic,
      );
      bar.start(megabytes(totalBytes ?? doneBytes), megabytes(doneBytes));
      return;
    }
    if (totalBytes !== undefined) bar.setTotal(megabytes(totalBytes));
    bar.update(megabytes(doneBytes));
  };
  return { update, stop };
}

function megabytes(bytes: number): number {
  return Math.round(bytes / 1e6);
}
