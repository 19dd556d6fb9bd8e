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
/** Between two plain lines. */
const LINE_MILLISECONDS = 10_000;

/**
 * Cells done, cells a second, time left.
 *
 * @param before cells of an earlier process, which don't count for the speed.
 */
export function cellProgress(
  total: number,
  before: number,
): { update: (done: number) => void; stop: () => void } {
  if (total <= QUIET_CELLS) return { update: () => undefined, stop: () => undefined };
  const begin = performance.now();
  const speed = (done: number) => (1000 * done) / (performance.now() - begin);
  if (!process.stderr.isTTY) {
    let told = begin;
    return {
      update: (done) => {
        const now = performance.now();
        if (now - told < LINE_MILLISECONDS && before + done < total) return;
        told = now;
        const left = duration((total - before - done) / speed(done));
        process.stderr.write(
          `${before + done} of ${total} cells, ${speed(done).toFixed(1)} a second, ${left} left\n`,
        );
      },
      stop: () => undefined,
    };
  }
  const bar = new SingleBar(
    {
      format: 'cells    {bar} {value}/{total}, {speed} a second, {left} left',
      hideCursor: true,
      stream: process.stderr,
    },
    Presets.shades_classic,
  );
  bar.start(total, before, { speed: '-', left: '-' });
  return {
    update: (done) => {
      const perSecond = speed(done);
      bar.update(before + done, {
        speed: perSecond.toFixed(1),
        left: duration((total - before - done) / perSecond),
      });
    },
    stop: () => bar.stop(),
  };
}

/** As 45 s, 3 min 20 s, 2 h 5 min. */
export function duration(seconds: number): string {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

function megabytes(bytes: number): number {
  return Math.round(bytes / 1e6);
}
