/** A relation's facts and sentences as samples: each sentence about each subject. */
import type { Read } from './sample-files.js';
import type { SamplesFile } from './schema.js';
import type { Field } from './template.js';

export interface Relation {
  /** What its samples have in common. */
  readonly fields: Iterable<readonly [string, Field]>;
  /** With the place of the subject in them. */
  readonly sentences: readonly string[];
  readonly subjectMark: string;
  readonly facts: readonly {
    readonly subject: string;
    readonly object: Field;
    readonly place: string;
  }[];
}

/** All subjects with the first sentence, then with the next. */
export function relationRows(
  { fields, sentences, subjectMark, facts }: Relation,
  most: Pick<SamplesFile, 'subjects' | 'sentences'>,
): Read[] {
  return sentences.slice(0, most.sentences).flatMap((sentence) =>
    facts.slice(0, most.subjects).map(({ subject, object, place }) => ({
      fields: new Map<string, Field>([
        ...fields,
        ['subject', subject],
        ['object', object],
        ['sentence', sentence.replaceAll(subjectMark, () => subject)],
      ]),
      place,
    })),
  );
}
