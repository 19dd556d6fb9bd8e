/** The JSON files of LRE (Hernandez et al., 2023): a relation, prompts about a subject, and its facts. */
import { z } from 'zod';
import { parseDocument, plain } from './document.js';
import { problem } from './problems.js';
import { relationRows } from './relation-rows.js';
import type { Read } from './sample-files.js';
import type { SamplesFile } from './schema.js';

const SUBJECT = '{}';

const text = z.string('a text').min(1, 'a text that is not empty');
const prompt = z
  .string('a text')
  .refine((written) => written.includes(SUBJECT), `a text with ${SUBJECT} for the subject`);
const fact = z.looseObject({ subject: text, object: text }, 'a set of keys (subject, object)');

const relation = z.looseObject(
  {
    name: text,
    prompt_templates: z.array(prompt, 'a list of texts').min(1, 'a list of at least one text'),
    samples: z.array(fact, 'a list of facts').min(1, 'a list of at least one fact'),
  },
  'a set of keys (name, prompt_templates, samples)',
);

/** @throws PatchscopeError `bad_input` */
export function lreRows(written: string, file: string, samples: SamplesFile): Read[] {
  const root = parseDocument(written, {
    folder: '',
    placeOf: (line, column) => `${file}:${line}:${column}`,
  });
  const parsed = relation.safeParse(plain(root));
  if (!parsed.success) throw problem(parsed.error.issues, root, 'the relation');
  const { name, prompt_templates: sentences, samples: facts } = parsed.data;
  const nodes = root.map!.get('samples')!.node.list!;
  return relationRows(
    {
      fields: [['relation', name]],
      sentences,
      subjectMark: SUBJECT,
      facts: facts.map(({ subject, object }, i) => ({ subject, object, place: nodes[i]!.place() })),
    },
    samples,
  );
}
