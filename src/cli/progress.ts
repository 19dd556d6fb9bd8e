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

/** Work this short shows its results sooner than its progress. */
const QUIET_CELLS = 256;

export function cellProgress(total: number): { update: (done: number) => void; stop: () => void } {
  if (total <= QUIET_CELLS) return { update: () => undefined, stop: () => undefined };
  if (!process.stderr.isTTY) {
    return { update: (done) => process.stderr.write(`${done} of ${total} cells\n`), stop: () => undefined };
  }
  const bar = new SingleBar(
    {
      format: 'cells    {bar} {value}/{total}, {eta_formatted} left',
      hideCursor: true,
      stream: process.stderr,
    },
    Presets.shades_classic,
  );
  bar.start(total, 0);
  return { update: (done) => bar.update(done), stop: () => bar.stop() };
}

function megabytes(bytes: number): number {
  return Math.round(bytes / 1e6);
}
