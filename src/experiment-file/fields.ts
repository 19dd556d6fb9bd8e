/** Values of a sample as the fields that templates take. */
import type { Located } from './document.js';
import type { Field } from './template.js';

export function fieldsOf(value: object): Map<string, Field> {
  return new Map(
    Object.entries(value)
      .filter(([, field]) => field !== null)
      .map(([name, field]) => [name, jsonField(field)]),
  );
}

export function jsonField(value: unknown): Field {
  if (Array.isArray(value)) {
    const texts = value.map(jsonField);
    return texts.every((text) => typeof text === 'string')
      ? texts
      : { unusable: 'a list of other things than texts' };
  }
  if (typeof value === 'number' && Math.abs(value) > Number.MAX_SAFE_INTEGER) {
    return { unusable: 'a number too large to be kept as it is' };
  }
  if (typeof value === 'object') return { unusable: 'a set of keys' };
  return wellFormed(String(value));
}

/** Numbers stay as they are written: 1.50 is not 1.5. */
export function writtenField({ scalar, list, map }: Located): Field {
  if (list !== undefined) {
    const texts = list.map(writtenField);
    return texts.every((text) => typeof text === 'string')
      ? texts
      : { unusable: 'a list of other things than texts' };
  }
  if (map !== undefined) return { unusable: 'a set of keys' };
  if (scalar!.value === null) return { unusable: 'empty' };
  return typeof scalar!.value === 'string' ? scalar!.value : scalar!.written;
}

/** A text, unless it is cut within a character. */
export function wellFormed(text: string): Field {
  return /\p{Surrogate}/u.test(text) ? { unusable: 'a text with half a character (a lone surrogate)' } : text;
}
