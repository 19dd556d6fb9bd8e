import { openDevices } from './devices.js';
import { asPatchscopeError, PatchscopeError } from './errors.js';
import { readHeader, type TypeShare } from './gguf.js';
import { checkResolved, type ResolvedModel } from './models/resolve.js';
import { writeWhole } from './output-file.js';
import { defaultThreads } from './threads.js';

/** File types that llama.cpp makes without measuring first which weights matter, largest first. */
export const conversionTypes = [
  'f32',
  'f16',
  'bf16',
  'q8_0',
  'q6_k',
  'q5_1',
  'q5_0',
  'q5_k_m',
  'q5_k_s',
  'q4_1',
  'q4_0',
  'q4_k_m',
  'q4_k_s',
  'iq4_nl',
  'iq4_xs',
  'q3_k_l',
  'q3_k_m',
  'q3_k_s',
  'q2_k',
] as const;
export type ConversionType = (typeof conversionTypes)[number];

export interface Conversion {
  /** Types of the tensors that were written. */
  readonly types: readonly TypeShare[];
  /** Matrices that got another type than was meant for them, because its blocks do not divide their width. */
  readonly fallbacks: number;
  /** Quantization of the input where weights were rounded a second time, else null. */
  readonly requantized: string | null;
}

/**
 * Writes a model with its weights in another type, by llama.cpp's own quantizer. The file appears
 * under its name when it is complete.
 *
 * @throws PatchscopeError `bad_input` where the output exists or is the input, `bad_model`.
 */
export async function convertModel(
  file: ResolvedModel,
  output: string,
  options: { readonly to: ConversionType; readonly threads?: number },
): Promise<Conversion> {
  checkResolved(file);
  if (!conversionTypes.includes(options.to)) {
    throw new PatchscopeError(
      'bad_input',
      `There is no type '${options.to}' to convert to: take ${conversionTypes.join(', ')}.`,
    );
  }
  const { addon } = openDevices('off');
  try {
    return await writeWhole(output, async (part) => {
      await addon.check(file.parts);
      const before = await readHeader(file, addon);
      const fallbacks = await addon.convert(file.path, part, options.to, options.threads ?? defaultThreads());
      const { types } = await readHeader({ parts: [part] }, addon);
      const wasQuantized = before.tensors.some(({ isQuantized }) => isQuantized);
      const requantized = wasQuantized && options.to !== 'f32' ? (before.fileType ?? 'quantized') : null;
      return { types, fallbacks, requantized };
    });
  } catch (error) {
    throw asPatchscopeError(error);
  }
}
