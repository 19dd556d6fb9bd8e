import fs from 'node:fs';
import { openDevices } from './devices.js';
import { asPatchscopeError, PatchscopeError } from './errors.js';
import { checkResolved, type ResolvedModel } from './models/resolve.js';
import { defaultThreads } from './threads.js';

export const conversionTypes = ['f32'] as const;
export type ConversionType = (typeof conversionTypes)[number];

/**
 * Writes a model with all its weights in another type, by llama.cpp's own quantizer. The file appears
 * under its name when it is complete.
 *
 * @throws PatchscopeError `bad_input` where the output exists or is the input, `bad_model`.
 */
export async function convertModel(
  file: ResolvedModel,
  output: string,
  options: { readonly to: ConversionType; readonly threads?: number },
): Promise<void> {
  checkResolved(file);
  if (!conversionTypes.includes(options.to)) {
    throw new PatchscopeError(
      'bad_input',
      `There is no type '${options.to}' to convert to: take ${conversionTypes.join(', ')}.`,
    );
  }
  if (output === '' || fs.existsSync(output)) {
    throw new PatchscopeError(
      'bad_input',
      output === ''
        ? 'The name of the file to write is empty.'
        : `The file ${output} exists: remove it, or name another.`,
    );
  }
  const { addon } = openDevices('off');
  const part = `${output}.${process.pid}.part`;
  checkWritable(part, output);
  const removePart = () => fs.rmSync(part, { force: true });
  process.once('exit', removePart);
  try {
    await addon.check(file.parts);
    await addon.convert(file.path, part, options.threads ?? defaultThreads());
    fs.renameSync(part, output);
  } catch (error) {
    throw asPatchscopeError(error);
  } finally {
    process.off('exit', removePart);
    removePart();
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
