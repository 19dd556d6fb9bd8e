/** Texts with {fields}, filled from one sample at a time. */
import { nearest } from '../nearest.js';
import { badAt, type Place, quoted } from './document.js';

/** What a sample holds: a text, a list of texts, or what can be neither, in words. */
export type Field = string | readonly string[] | { readonly unusable: string };

export interface Row {
  readonly fields: ReadonlyMap<string, Field>;
  /** For messages: which sample, and where it stands. */
  readonly where: string;
}

type Piece = { readonly text: string } | { readonly field: string };

export class Template {
  readonly #pieces: readonly Piece[];
  readonly #key: string;
  readonly #place: Place;

  /** @param key the part of the experiment file that it stands in. */
  constructor(text: string, key: string, place: Place) {
    this.#key = key;
    this.#place = place;
    this.#pieces = [...text.matchAll(/\{\{|\}\}|\{([^{}]+)\}|[{}]|[^{}]+/g)].map(([piece, field]) => {
      if (field !== undefined) return { field };
      if (piece === '{' || piece === '}') {
        throw this.bad(
          `holds a single ${piece} in ${quoted(text)}: write {field} for a field, or ${piece}${piece} for the brace itself`,
        );
      }
      return { text: piece === '{{' || piece === '}}' ? piece[0]! : piece };
    });
  }

  bad(what: string) {
    return badAt(this.#place, `${this.#key} ${what}`);
  }

  /** @throws PatchscopeError `bad_input` where nothing but an empty text comes of it. */
  fill(row: Row): string {
    const text = this.#pieces
      .map((piece) => ('text' in piece ? piece.text : this.#text(piece.field, row)))
      .join('');
    if (text === '') throw this.bad(`is empty for ${row.where}`);
    return text;
  }

  /** As `fill`; a template that is one field alone may be a list. */
  fillList(row: Row): readonly string[] {
    const [piece, more] = this.#pieces;
    if (piece === undefined || more !== undefined || 'text' in piece) return [this.fill(row)];
    const field = this.#field(piece.field, row);
    if (!Array.isArray(field)) return [this.fill(row)];
    if (field.length === 0 || field.includes('')) {
      throw this.bad(`takes {${piece.field}}, which is empty or holds an empty text for ${row.where}`);
    }
    return field;
  }

  #text(name: string, row: Row): string {
    const field = this.#field(name, row);
    if (typeof field === 'string') return field;
    throw this.bad(
      `takes {${name}}, which is ${'unusable' in field ? field.unusable : 'a list'} where a text is needed, for ${row.where}`,
    );
  }

  #field(name: string, { fields, where }: Row): Field {
    const field = fields.get(name);
    if (field !== undefined) return field;
    const names = [...fields.keys()];
    const meant = nearest(name, names);
    const perhaps = meant === undefined ? '' : `, perhaps {${meant}} was meant`;
    const there = names.length === 0 ? 'it has none' : `its fields are ${names.slice(0, 20).join(', ')}`;
    throw this.bad(`takes {${name}}, which ${where} does not have${perhaps}: ${there}`);
  }
}
