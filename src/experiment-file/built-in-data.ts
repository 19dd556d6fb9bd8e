/** Samples that come with the package: relations, entities, sentences, the known-answers world. */
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';
import { nearest } from '../nearest.js';
import { badAt, type Located, quoted } from './document.js';
import { relationRows } from './relation-rows.js';
import { type Read, table, textLines } from './sample-files.js';
import type { SamplesFile } from './schema.js';
import type { Field } from './template.js';
import { readText } from './text-file.js';

const MOST_MIB = 16;
const folder = fileURLToPath(new URL('../../src/data/', import.meta.url));

interface Relations {
  readonly 'two-hops': readonly (readonly [first: string, second: string])[];
  readonly neutral: readonly string[];
  readonly relations: Readonly<Record<string, { readonly phrase: string; readonly sentences: string[] }>>;
}

/**
 * @param node where the names are written.
 * @param key what is written there, for messages.
 * @throws PatchscopeError `bad_input` where a name is none of what there is.
 */
export function builtInRows(
  names: readonly string[],
  samples: SamplesFile,
  node: Located,
  key: string,
): Read[] {
  const relations = parse(content('relations.yaml')) as Relations;
  const there = Object.keys(relations.relations).map((name) => `relations/${name}`);
  const wanted = names.flatMap((name) => (name === 'relations' ? there : [name]));
  return [...new Set(wanted)].flatMap((name) => {
    if (there.includes(name)) return ofRelation(name, relations, samples);
    if (name === 'entities' || name === 'world') return tableOf(`${name}.csv`);
    if (name === 'two-hops') return twoHops(relations);
    if (name === 'sentences') return textLines(content('sentences.txt'), 'sentences.txt', Infinity);
    const meant = nearest(name, ['entities', 'sentences', 'world', 'two-hops', ...there]);
    throw badAt(
      node.place,
      `${key} is ${quoted(name)}, which does not come with the package${meant === undefined ? '' : `, perhaps ${meant} was meant`}: there are entities, sentences, world, two-hops, relations, and of these ${there.join(', ')}`,
    );
  });
}

export function areRelations(names: readonly string[]): boolean {
  return names.every((name) => /^relations(\/|$)/.test(name));
}

function ofRelation(name: string, { neutral, relations }: Relations, samples: SamplesFile): Read[] {
  const relation = name.replace('relations/', '');
  const { phrase, sentences } = relations[relation]!;
  return relationRows(
    {
      fields: [
        ['relation', relation],
        ['phrase', phrase],
      ],
      sentences: [...sentences, ...neutral],
      subjectMark: '{subject}',
      facts: tableOf(`${name}.csv`).map(({ fields, place }) => ({
        subject: fields.get('subject') as string,
        object: (fields.get('object') as string).split('|'),
        place,
      })),
    },
    samples,
  );
}

/** Chains of two facts: what the first one gives, the bridge, is what the second one is about. */
function twoHops({ 'two-hops': chains, relations }: Relations): Read[] {
  return chains.flatMap(([first, second]) => {
    const facts = new Map(
      tableOf(`relations/${second}.csv`).map(({ fields }) => [fields.get('subject'), objectsOf(fields)]),
    );
    return tableOf(`relations/${first}.csv`).flatMap(({ fields, place }) => {
      const [bridge] = objectsOf(fields);
      const object = facts.get(bridge!);
      if (object === undefined) return [];
      const subject = fields.get('subject') as string;
      const asked = relations[first]!.phrase;
      const chained = new Map<string, Field>([
        ['relation', `${first}, ${second}`],
        ['subject', subject],
        ['bridge', bridge!],
        ['object', object],
        ['first', `${asked[0]!.toLowerCase()}${asked.slice(1)} ${subject}`],
        ['second', relations[second]!.phrase],
      ]);
      return [{ fields: chained, place }];
    });
  });
}

/** The first one stands for all of them. */
function objectsOf(fields: Read['fields']): string[] {
  return (fields.get('object') as string).split('|');
}

function tableOf(file: string): Read[] {
  return table(content(file), file, 'csv', {}, Infinity);
}

function content(file: string): string {
  return readText(`${folder}${file}`, MOST_MIB, 'The data');
}
