/**
 * What may stand in an experiment file. Each `error` says what would be right, as in "… where a text is needed";
 * the descriptions and defaults go into the published JSON Schema.
 */
import { z } from 'zod';
import { editOps, metricNames, sides, sites } from '../patchscope.js';

const LAYER = '(?:-?\\d+(?:\\.\\.-?\\d+)?|embed|all|blocks\\.\\d+\\.hook_\\w+|hidden_states\\[\\d+\\])';
const layerWord = new RegExp(`^${LAYER}$`);
const layerWords = new RegExp(`^\\s*${LAYER}(?:\\s*,\\s*${LAYER})*\\s*$`);

const text = z.string('a text').min(1, 'a text that is not empty');
const flag = z.boolean('true or false');

function whole(least: number, most = Number.MAX_SAFE_INTEGER) {
  const error =
    most === Number.MAX_SAFE_INTEGER
      ? `a whole number of at least ${least}`
      : `a whole number from ${least} to ${most}`;
  return z.int({ error }).min(least, { error }).max(most, { error });
}

/** The message of keys that are not there is the list of those that could be. */
function section<Shape extends z.core.$ZodLooseShape>(shape: Shape) {
  const keys = Object.keys(shape).join(', ');
  return z.strictObject(shape, {
    error: ({ code }) => (code === 'unrecognized_keys' ? keys : `a set of keys (${keys})`),
  });
}

function word<const Words extends readonly string[]>(words: Words) {
  return z.enum(words, { error: `one of ${words.join(', ')}` });
}

const oneLayer = 'a layer (a number, a range such as 0..9, embed or all)';
const layer = z.union([z.int(oneLayer), z.string().regex(layerWord, oneLayer)], { error: oneLayer });

const layerKinds = (error: string) =>
  [z.int(error), z.string().regex(layerWords, error), z.array(layer).min(1, error)] as const;

const someLayers = 'a layer, a range such as 0..9, embed, all, or a list of these';
const layers = z.union(layerKinds(someLayers), { error: someLayers });

const targets = `same, below or above (the source layer), ${someLayers}`;
const targetLayers = z.union([z.enum(['same', 'below', 'above']), ...layerKinds(targets)], {
  error: targets,
});

const tokenIds = z.union([z.array(whole(0)).min(1, 'a list of at least one token id'), text], {
  error: 'a list of token ids, or a template such as {ids}',
});

const prompt = z
  .union(
    [
      text,
      section({
        text: text.optional().meta({ description: 'The prompt, with {fields} of the sample.' }),
        tokens: tokenIds.optional().meta({ description: 'Token ids, used exactly as they are.' }),
        same: word(['source'])
          .optional()
          .meta({ description: 'Of a target: the source prompt up to its position (T = S).' }),
        bos: flag.optional().meta({ description: 'Begin with BOS where the model has one.', default: true }),
        chat: flag.optional().meta({ description: "Wrap in the model's chat template.", default: false }),
        special: flag.optional().meta({ description: 'Read special tokens as such.', default: false }),
      }),
    ],
    { error: 'a text, or a set of keys with text, tokens or same' },
  )
  .meta({ description: 'A text with {fields} of the sample ({{ and }} are braces), or token ids.' });

const aPosition = 'a whole number, a text of the prompt, or { random: true }';
const position = z
  .union([z.int(aPosition), z.string().min(1, aPosition), section({ random: z.literal(true) })], {
    error: aPosition,
  })
  .meta({
    description:
      'A token of the prompt: its index (negative from the end), a text that it ends, with #2 behind it for its second occurrence, or any token but BOS, drawn with the seed.',
    default: -1,
  });

const site = word(sites).meta({ description: 'Where in its block the state lies.', default: 'resid_out' });
const side = word(sides).meta({ description: 'Which half of an encoder-decoder model.', default: 'decoder' });

const place = <Layers extends z.ZodType>(layersOf: Layers) => ({
  prompt: prompt.optional(),
  position: position.optional(),
  layers: layersOf,
  site: site.optional(),
  side: side.optional(),
});

const sourcePlace = place(
  layers.optional().meta({ description: 'Layers to take states from.', default: 'all' }),
);
const targetPlace = place(
  targetLayers.optional().meta({
    description: 'Layers to put states into: same, below or above the source layer, or layers.',
    default: 'same',
  }),
);

const edit = section({
  op: word(editOps)
    .optional()
    .meta({ description: 'What becomes of the state that is met.', default: 'replace' }),
  alpha: z.number('a number').optional().meta({ description: 'The factor of the op.', default: 1 }),
  'at-generated': flag.optional().meta({ description: 'Patch each generated token too.', default: false }),
}).meta({ description: 'How a state is written into the target.' });

const aMapping = 'identity or a .safetensors file of patchscopes fit';
const mapping = z
  .string(aMapping)
  .regex(/^identity$|\.safetensors$/, aMapping)
  .meta({
    description:
      'What a state goes through on its way: identity, or a file of patchscopes fit, relative to this one.',
    default: 'identity',
  });

const stop = z.union([z.enum(['newline', 'answer']), section({ text })], {
  error: 'newline, answer, or a set of keys such as { text: ";" }',
});

const reading = section({
  top: whole(1)
    .optional()
    .meta({ description: 'Most probable tokens kept for each token read.', default: 5 }),
  tokens: whole(1)
    .optional()
    .meta({ description: 'Tokens to generate, the first read included.', default: 1 }),
  track: z
    .array(z.union([text, whole(0)], { error: 'a text or a token id' }), 'a list of texts and token ids')
    .optional()
    .meta({ description: 'Tokens that are scored wherever they rank; of a text its first token.' }),
  'track-answer': flag
    .optional()
    .meta({ description: 'Score the first token of each answer. On where a metric needs it.' }),
  stop: z
    .union([stop, z.array(stop, 'a list')], { error: 'newline, answer, { text: ";" }, or a list of these' })
    .optional()
    .meta({ description: 'What else ends the generated text.' }),
  temperature: z
    .number('a number of at least 0')
    .min(0, 'a number of at least 0')
    .optional()
    .meta({ description: '0: the most probable token follows.', default: 0 }),
  'top-k': whole(0).optional().meta({ description: 'Draw from so many tokens; 0: from all.', default: 0 }),
  'top-p': z
    .number('a number from 0 to 1')
    .min(0, 'a number from 0 to 1')
    .max(1, 'a number from 0 to 1')
    .optional()
    .meta({ description: 'Draw from the tokens that reach this probability together.', default: 1 }),
}).meta({ description: 'What is read from each patched run.' });

const someNames = 'a name or a list of names';

const samples = z
  .union(
    [
      z
        .array(z.record(z.string(), z.unknown(), 'a set of fields such as { prompt: ... }'))
        .min(1, 'a list of at least one sample'),
      section({
        data: z
          .union([text, z.array(text).min(1, someNames)], { error: someNames })
          .optional()
          .meta({ description: 'From the package: entities, sentences, relations, or relations/NAME.' }),
        file: text.optional().meta({ description: 'A file of samples, relative to this one.' }),
        format: word(['jsonl', 'csv', 'tsv', 'text', 'patchscopes-tsv', 'popqa', 'lre'])
          .optional()
          .meta({ description: "Default: by the file's ending." }),
        columns: z
          .record(z.string(), text, 'a set of field: column')
          .optional()
          .meta({ description: 'Other names for columns, as field: column.' }),
        delimiter: z
          .string('one character')
          .regex(/^[^"\r\n]$/, 'one character')
          .optional()
          .meta({ description: 'What stands between columns. Default: a comma, or a tab in TSV.' }),
        quotes: flag.optional().meta({ description: 'Whether " encloses a value.', default: true }),
        keep: z
          .array(word(['known', 'intact', 'distinct']), 'a list of known, intact, distinct')
          .optional()
          .meta({ description: 'Of patchscopes-tsv: which rows. Default: those that are all three.' }),
        extremes: whole(1)
          .optional()
          .meta({ description: 'Of popqa: so many rarest and most popular subjects, each once.' }),
        subjects: whole(1)
          .optional()
          .meta({ description: 'Of relations and lre: only so many subjects of each relation.' }),
        sentences: whole(1)
          .optional()
          .meta({ description: 'Of relations and lre: only so many sentences about each subject.' }),
        skip: whole(0)
          .optional()
          .meta({ description: 'Leave out so many samples, from the first on.', default: 0 }),
        limit: whole(1)
          .optional()
          .meta({ description: 'Only so many samples, from the first that is not left out.' }),
      }),
    ],
    { error: 'a list of samples, or a set of keys with data or a file' },
  )
  .meta({ description: 'What the templates are filled with: one set of fields for each sample.' });

const variant = section({
  name: text,
  source: section(sourcePlace).optional(),
  target: section(targetPlace).optional(),
  edit: edit.optional(),
  mapping: mapping.optional(),
});

const model = text.meta({ description: 'Name of the catalogue, path of a .gguf file, or hf: URI.' });

export const experimentSchema = section({
  $schema: text.optional(),
  name: text.meta({ description: 'What its runs are called.' }),
  about: text.optional().meta({ description: 'The question it asks.' }),
  model: z
    .union([model, section({ source: model, target: model })], {
      error: "a model's name or path, or a set of keys (source, target)",
    })
    .optional(),
  samples,
  sample: text.optional().meta({ description: "A sample's name. Default: the source prompt's text." }),
  group: text.optional().meta({ description: 'What results are gathered by, such as {relation}.' }),
  answer: z
    .union([text, z.array(text).min(1, 'a text or a list of texts')], { error: 'a text or a list of texts' })
    .optional()
    .meta({ description: 'Texts of which any is right; a field that is a list gives all of it.' }),
  source: section({ ...sourcePlace, prompt }).meta({ description: 'Where states are taken from.' }),
  target: section({ ...targetPlace, prompt }).meta({ description: 'Where they are put, and what is read.' }),
  edit: edit.optional(),
  mapping: mapping.optional(),
  variants: z
    .array(variant, 'a list of variants')
    .min(1, 'a list of at least one variant')
    .optional()
    .meta({ description: 'The experiment again, with some keys changed.' }),
  reading: reading.optional(),
  metrics: z
    .array(word(metricNames), 'a list of metrics')
    .optional()
    .meta({ description: 'Numbers that say how good each reading is.' }),
  controls: section({
    random: whole(0, 1000).optional().meta({ description: 'Draws of a random vector of the same norm.' }),
    shuffled: whole(0, 1000).optional().meta({ description: "Draws of another sample's state." }),
    unpatched: flag.optional().meta({ description: 'The target as it is.' }),
  })
    .optional()
    .meta({ description: 'What is run beside it, to compare with.' }),
  seed: whole(0).optional().meta({ description: 'What is drawn is drawn with it.', default: 0 }),
});

export type ExperimentFile = z.output<typeof experimentSchema>;
export type SamplesFile = Exclude<ExperimentFile['samples'], readonly unknown[]>;

/** For editors. */
export function jsonSchema(): string {
  const schema = z.toJSONSchema(experimentSchema, { target: 'draft-07', io: 'input' });
  return `${JSON.stringify({ title: 'A patchscopes experiment', ...schema }, null, 2)}\n`;
}
