/** What is there on this machine, what is missing, and where to get it. */
import { autoVariant } from '../devices.js';
import { type Check, ok, warning } from './check.js';
import { checkSurroundings } from './surroundings.js';
import { checkAbsent, checkVariants, type VariantCheck } from './variants.js';

export type { Check, VariantCheck };

export interface Diagnosis {
  readonly checks: readonly (Check | VariantCheck)[];
  /** Whether models run at least on the CPU. */
  readonly usable: boolean;
}

export async function diagnose(): Promise<Diagnosis> {
  const surroundings = checkSurroundings();
  try {
    const variants = await checkVariants();
    const { variant, reason } = autoVariant();
    const usable = variants.some(({ variant, status }) => variant === 'cpu' && status === 'ok');
    return {
      checks: [...surroundings, ...variants, ...checkAbsent(), checkAuto(variant, reason, variants)],
      usable,
    };
  } catch (error) {
    const { message } = error as Error;
    const addon: Check = {
      check: 'addon',
      status: 'missing',
      text: message.replace(/\.$/, ''),
      advice: null,
    };
    return { checks: [...surroundings, addon], usable: false };
  }
}

function checkAuto(variant: string, reason: string, variants: readonly VariantCheck[]): Check {
  const text = `${variant}, since ${reason}`;
  const isThere = variants.some((check) => check.variant === variant && check.status === 'ok');
  return isThere
    ? ok('--gpu auto', text)
    : warning('--gpu auto', text, 'the CPU is used until that works; name another with --gpu');
}
