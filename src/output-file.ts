import fs from 'node:fs';
import { PatchscopeError } from './errors.js';

/**
 * Writes a file that appears under its name when it is complete. Where `work` throws or the process exits, nothing
 * is left.
 *
 * @param work writes the file it is given, which is there and empty.
 * @throws PatchscopeError `bad_input` where the file exists or can't be written.
 */
export async function writeWhole<Result>(
  output: string,
  work: (part: string) => Result | Promise<Result>,
): Promise<Result> {
  if (output === '' || fs.existsSync(output)) {
    throw new PatchscopeError(
      'bad_input',
      output === ''
        ? 'The name of the file to write is empty.'
        : `The file ${output} exists: remove it, or name another.`,
    );
  }
  const part = `${output}.${process.pid}.part`;
  checkWritable(part, output);
  const removePart = () => {
    for (const file of [part, `${part}-journal`, `${part}-wal`, `${part}-shm`])
      fs.rmSync(file, { force: true });
  };
  process.once('exit', removePart);
  try {
    const result = await work(part);
    flush(part);
    fs.renameSync(part, output);
    return result;
  } finally {
    process.off('exit', removePart);
    removePart();
  }
}

/** Its bytes reach the disk before its name does. */
function flush(file: string): void {
  const descriptor = fs.openSync(file, 'r+');
  try {
    fs.fsyncSync(descriptor);
  } finally {
    fs.closeSync(descriptor);
  }
}

function checkWritable(part: string, output: string): void {
  try {
    fs.closeSync(fs.openSync(part, 'wx'));
  } catch (cause) {
    throw new PatchscopeError(
      'bad_input',
      `The file ${output} can't be written (${(cause as NodeJS.ErrnoException).code}): name one in a folder that exists and is yours.`,
      { cause },
    );
  }
}
