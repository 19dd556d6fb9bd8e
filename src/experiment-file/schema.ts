/**
 * What may stand in an experiment file. Each `error` says what would be right, as in "… where a text is needed";
 * the descriptions and defaults go into the published JSON Schema.
 */
import { z } from 'zod';
import {
  activations,
  controls,
  editOps,
  mappingKinds,
  metricNames,
  placeholders,
  sides,
  sites,
} from '../patchscope.js';

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
        padded: flag.optional().meta({
          description:
            'Of a target: padding tokens before the text, so that its position is that of the source.',
          default: false,
        }),
        placeholder: word(placeholders).optional().meta({
          description:
            "Of a target: one token more behind the text: the model's padding or end of text, one drawn with the seed for each sample, or that of the source's position.",
        }),
      }),
    ],
    { error: 'a text, or a set of keys with text, tokens or same' },
  )
  .meta({ description: 'A text with {fields} of the sample ({{ and }} are braces), or token ids.' });

const aSigma = 'a number of at least 0';
const aboveZero = z.number('a number above 0').gt(0, 'a number above 0');

const aSpan = 'all, an index, a range such as 0..4, a text of the prompt, or a list of these';
const oneSpan = z.union([z.int(aSpan), z.string().min(1, aSpan)], { error: aSpan });
const spans = z.union([oneSpan, z.array(oneSpan).min(1, aSpan)], { error: aSpan });

const aToken = 'a whole number, a text of the prompt';
const token = z.union([z.int(aToken), z.string().min(1, aToken)], { error: aToken });
const tokenWords =
  'its index (negative from the end), or a text that it ends, with #2 behind it for its second occurrence';

const aPosition = `${aToken}, same, or a list of these`;
const position = z.union([token, z.array(token).min(1, aPosition)], { error: aPosition }).meta({
  description: `A token of the target prompt: ${tokenWords}; same for the index of the source's; or a list of these, all of which are patched in each cell.`,
  default: -1,
});

const aTokenOrDrawn = `${aToken}, or { random: true }`;
const onePosition = z.union([token, section({ random: z.literal(true) })], { error: aTokenOrDrawn }).meta({
  description: `A token of the prompt: ${tokenWords}; or any token but BOS, drawn with the seed.`,
  default: -1,
});

const aSource = `${aToken}, a list of these, { random: true }, or { each: ... }`;
const sourcePosition = z
  .union(
    [
      token,
      z.array(token).min(1, aSource),
      section({ random: z.literal(true) }),
      section({ each: spans.meta({ description: 'One after the other, in cells of their own.' }) }),
    ],
    { error: aSource },
  )
  .meta({
    description: `A token of the source prompt: ${tokenWords}; any token but BOS, drawn with the seed; or a list, whose states go to as many target positions, one to one.`,
    default: -1,
  });

const somePrompts =
  'a list of prompts ({ prompt, position } or a text), or a set of keys with samples and a prompt for them';
const prompts = z.union(
  [
    z
      .array(
        z.union([text, section({ prompt, position: onePosition.optional() })], { error: somePrompts }),
        somePrompts,
      )
      .min(1, somePrompts),
    section({
      samples: z
        .lazy(() => samples)
        .meta({ description: 'What the prompt is filled with, one set of fields each.' }),
      prompt,
      position: onePosition.optional(),
    }),
  ],
  { error: somePrompts },
);

const aRow = 'a whole number of at least 0, or a template such as {feature}';
const vector = section({
  file: text.optional().meta({
    description: 'A .safetensors, .npy or .gguf file, relative to this one. A GGUF file is a control vector.',
  }),
  tensor: text.optional().meta({ description: 'Its name in the file, where there are several.' }),
  row: z
    .union([z.int(aRow).min(0, aRow), text], { error: aRow })
    .optional()
    .meta({ description: 'Of a matrix, counted from 0.' }),
  mean: prompts.optional().meta({ description: 'Of the states of prompts, at each source layer.' }),
  difference: z
    .tuple([prompts, prompts], { error: 'a list of two lists of prompts' })
    .optional()
    .meta({ description: 'Mean over the first prompts minus mean over the second.' }),
  zero: z.literal(true, 'true').optional(),
  noise: section({
    sigma: z.number(aSigma).min(0, aSigma).meta({ description: 'Standard deviation.' }),
    of: word(['embed']).optional().meta({
      description: "Times that of all floats of the target prompts' tokens (BOS aside) at that site.",
    }),
  })
    .optional()
    .meta({ description: 'Drawn with the seed, another one for each sample and token.' }),
  random: section({ norm: aboveZero.meta({ description: 'Its length.' }) })
    .optional()
    .meta({ description: 'A direction drawn with the seed, another one for each sample.' }),
}).meta({ description: 'One of file, mean, difference, zero, noise and random.' });

const site = word(sites).meta({ description: 'Where in its block the state lies.', default: 'resid_out' });
const side = word(sides).meta({ description: 'Which half of an encoder-decoder model.', default: 'decoder' });

const aLora = 'a LoRA (a .gguf file, none, or a set of keys with file and scale)';
const lora = z
  .union(
    [
      z.literal('none'),
      z.string(aLora).regex(/\.gguf$/, aLora),
      section({
        file: z.string(aLora).regex(/\.gguf$/, aLora),
        scale: z
          .number('a number')
          .optional()
          .meta({ description: 'What it adds is multiplied by it.', default: 1 }),
      }),
      section({ needed: text.meta({ description: 'What the user is to give here, in words.' }) }),
    ],
    { error: aLora },
  )
  .meta({
    description:
      'A LoRA as a GGUF file, relative to this one, that the model reads this prompt with; none: without one.',
    default: 'none',
  });

const place = <Layers extends z.ZodType, Where extends z.ZodType>(layersOf: Layers, positionOf: Where) => ({
  prompt: prompt.optional(),
  position: positionOf,
  layers: layersOf,
  site: site.optional(),
  side: side.optional(),
  lora: lora.optional(),
});

const sourcePlace = {
  ...place(
    layers.optional().meta({
      description:
        'Layers to take states from; of a vector that is the same at all of them, where target.layers is same, those to put it into.',
      default: 'all',
    }),
    sourcePosition.optional(),
  ),
  vector: vector.optional().meta({ description: 'In place of a prompt.' }),
};
const aWindow = 'a whole number of at least 1, or onward';

const cutLayers = `${someLayers}, or around: 9 for so many around each target layer`;
const cut = section({
  from: spans.meta({ description: 'Tokens that do not attend. Of a text all tokens that hold it.' }),
  to: spans.meta({ description: 'The tokens they do not attend to; only earlier ones, and never itself.' }),
  layers: z
    .union([...layerKinds(cutLayers), section({ around: whole(1) })], { error: cutLayers })
    .optional()
    .meta({
      description: 'In these layers, or so many around each target layer, half of them on either side.',
      default: 'all',
    }),
  'at-generated': flag.optional().meta({ description: 'From each generated token too.', default: false }),
});

const ownEdit = section({
  at: spans.meta({ description: 'Tokens of the target. Of a text all tokens that hold it.' }),
  layers: layers.meta({ description: 'In these layers, or at embed.' }),
  site: site.optional(),
  op: word(editOps).optional().meta({ description: 'What becomes of the states.', default: 'replace' }),
  alpha: z.number('a number').optional().meta({ description: 'The factor of the op.', default: 1 }),
  'at-generated': flag.optional().meta({ description: 'Of each generated token too.', default: false }),
  vector: vector.optional().meta({ description: 'What all ops but scale need.' }),
});

const aTarget = `${aToken}, same, a list of these, or { random: true }`;
const targetPlace = {
  ...place(
    targetLayers.optional().meta({
      description: 'Layers to put states into: same, below or above the source layer, or layers.',
      default: 'same',
    }),
    z.union([position, section({ random: z.literal(true) })], { error: aTarget }).optional(),
  ),
  window: z
    .union([z.int(aWindow).min(1, aWindow), z.literal('onward')], { error: aWindow })
    .optional()
    .meta({
      description:
        'Patch several layers in each cell, each with the state as far above or below the source layer: so many around the target layer, or with onward all from there on. Default: that layer alone.',
    }),
  cut: z
    .array(cut, 'a list of cuts, { from, to, layers } each')
    .optional()
    .meta({ description: 'Edges of attention that are cut in the target.' }),
  edits: z.array(ownEdit, 'a list of edits, { at, layers, op, vector } each').optional().meta({
    description:
      "The target's own edits, done in every cell and control, before what is patched: where both meet, the patch comes last.",
  }),
};

const aPart = 'a number from 0 to 1';
const share = z.number(aPart).min(0, aPart).max(1, aPart);

const edit = section({
  op: word(editOps)
    .optional()
    .meta({ description: 'What becomes of the state that is met.', default: 'replace' }),
  alpha: z.number('a number').optional().meta({ description: 'The factor of the op.', default: 1 }),
  'at-generated': flag.optional().meta({ description: 'Patch each generated token too.', default: false }),
  decay: share.optional().meta({
    description:
      'At the k-th generated token alpha is decay^k times as large; for add, mix, norm-matched-add.',
    default: 1,
  }),
}).meta({ description: 'How a state is written into the target.' });

const aContrast = `unpatched, or layers: ${someLayers}`;
const contrast = section({
  with: z
    .union([z.literal('unpatched'), ...layerKinds(aContrast)], { error: aContrast })
    .optional()
    .meta({
      description:
        'The same run with nothing patched: z + alpha (z - z_unpatched). Or layers before the last, by the logit lens: z - z_layer, of the layer farthest from what is read.',
    }),
  alpha: z
    .number('a number')
    .optional()
    .meta({ description: 'Of unpatched: the weight of the difference.', default: 1 }),
  cutoff: share.optional().meta({
    description: 'Tokens less probable than this times the most probable one are left out.',
    default: 0.1,
  }),
}).meta({ description: 'What the logits of each token read are contrasted with before one is chosen.' });

const stop = z.union([z.enum(['newline', 'answer']), section({ text })], {
  error: 'newline, answer, or a set of keys such as { text: ";" }',
});

const tokens = whole(1)
  .optional()
  .meta({ description: 'Tokens to generate, the first read included.', default: 1 });

const reading = section({
  top: whole(1)
    .optional()
    .meta({ description: 'Most probable tokens kept for each token read.', default: 5 }),
  tokens,
  continuation: word(['own']).optional().meta({
    description:
      "own: the tokens that the source's model itself generates behind the source's position follow, as many as tokens says, and what the patched run says behind each of them is read.",
  }),
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
          .meta({
            description:
              'From the package: entities, sentences, world, two-hops, relations, or relations/NAME.',
          }),
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
        from: whole(1)
          .optional()
          .meta({ description: 'The first sample that is taken, counted from 1.', default: 1 }),
        limit: whole(1).optional().meta({ description: 'Only so many samples, from that one on.' }),
        only: z
          .array(whole(1), 'a list of numbers')
          .min(1, 'a list of at least one number')
          .optional()
          .meta({ description: 'Only these samples, counted from 1, in place of from and limit.' }),
      }),
    ],
    { error: 'a list of samples, or a set of keys with data or a file' },
  )
  .meta({ description: 'What the templates are filled with: one set of fields for each sample.' });

const aMapping =
  'identity, a .safetensors file of patchscopes fit, a list of such files, or a set of keys with the samples to fit one to';
const aShare = 'a number from 0 to below 1';
const aRidge = 'a number of at least 0';
const mapping = z
  .union(
    [
      z.string(aMapping).regex(/^identity$|\.safetensors$/, aMapping),
      z
        .array(z.string(aMapping).regex(/\.safetensors$/, aMapping))
        .min(2, aMapping)
        .meta({ description: 'Each takes what the one before gives.' }),
      section({
        samples: samples.meta({
          description:
            "What it is fitted to: the source prompt is filled with these, as with the experiment's samples, none of which may be among them.",
        }),
        kind: word(mappingKinds).optional().meta({ description: 'What is fitted.', default: 'affine' }),
        ridge: z
          .number(aRidge)
          .min(0, aRidge)
          .optional()
          .meta({ description: 'Keeps weights small, as --ridge of patchscopes fit.', default: 0 }),
        rank: whole(1).optional().meta({ description: 'Of low-rank.' }),
        features: whole(1).optional().meta({ description: 'Of kernel.', default: 1024 }),
        bandwidth: aboveZero.optional().meta({
          description:
            'Of kernel: distance of states that are alike. Default: their median distance, map by map.',
        }),
        hidden: whole(1)
          .optional()
          .meta({ description: 'Of mlp: floats between its layers.', default: 1024 }),
        activation: word(activations).optional().meta({ description: 'Of mlp.', default: 'silu' }),
        epochs: whole(1)
          .optional()
          .meta({ description: 'Of mlp: how often it sees each pair.', default: 100 }),
        rate: aboveZero.optional().meta({ description: 'Of mlp: size of its first steps.', default: 0.003 }),
        positions: word(['sample', 'all'])
          .optional()
          .meta({ description: "The source's position, or all tokens but BOS.", default: 'sample' }),
        'target-site': word(sites.filter((name) => name !== 'embed'))
          .optional()
          .meta({ description: 'Site to fit to, where it is not the one that is patched.' }),
        'held-out': z
          .number(aShare)
          .min(0, aShare)
          .lt(1, aShare)
          .optional()
          .meta({ description: 'Share of the prompts that the maps are judged by.', default: 0.1 }),
      }),
    ],
    { error: aMapping },
  )
  .meta({
    description:
      'What a state goes through on its way: identity, a file of patchscopes fit, relative to this one, several of them, one after the other, or what the run fits itself before its first cell.',
    default: 'identity',
  });

const draws = whole(1, 1000);

const answer = z
  .union([text, z.array(text).min(1, 'a text or a list of texts')], { error: 'a text or a list of texts' })
  .meta({ description: 'Texts of which any is right; a field that is a list gives all of it.' });

const changes = {
  answer: answer.optional(),
  source: section(sourcePlace).optional(),
  target: section(targetPlace).optional(),
  edit: edit.optional(),
  contrast: contrast.optional(),
  mapping: mapping.optional(),
  draws: draws.optional(),
  reading: section({ tokens }).optional(),
};

const variant = section({ name: text, ...changes });

const levels = z.record(z.string(), section(changes), 'a set of levels, { name: what it changes } each');

const aKnownLayer = 'embed or the number of a block';
const knownLayers = z.array(
  z.union([z.literal('embed'), whole(0)], { error: aKnownLayer }),
  'a list of layers such as [embed, 0]',
);
const number = z.number('a number');

const expectation = section({
  about: text.meta({ description: 'What must come out, in words.' }),
  metric: word([...metricNames, 'probe']).meta({
    description:
      'The number that is bounded: its mean at each pair of layers; probe is what the probe finds, at each source layer.',
  }),
  variant: text.optional().meta({ description: 'Default: every variant.' }),
  control: word(controls).optional().meta({ description: 'Which cells are meant.', default: 'none' }),
  group: text.optional().meta({ description: 'Samples of one group. Default: all.' }),
  source: knownLayers.optional().meta({ description: 'Source layers. Default: every one.' }),
  target: knownLayers.optional().meta({ description: 'Target layers. Default: every one.' }),
  truth: number.optional().meta({ description: 'What a reading that says what is so would give.' }),
  least: number.optional().meta({ description: 'The mean is no less.' }),
  most: number.optional().meta({ description: 'The mean is no more.' }),
});

const model = text.meta({ description: 'Name of the catalogue, path of a .gguf file, or hf: URI.' });

export const experimentSchema = section({
  $schema: text.optional(),
  name: text.meta({ description: 'What its runs are called.' }),
  about: text.optional().meta({ description: 'The question it asks.' }),
  method: text.optional().meta({ description: 'The short name of a method that it is an instance of.' }),
  from: text.optional().meta({ description: 'Whose method: authors and year.' }),
  model: z
    .union([model, section({ source: model, target: model })], {
      error: "a model's name or path, or a set of keys (source, target)",
    })
    .optional(),
  samples,
  sample: text.optional().meta({ description: "A sample's name. Default: the source prompt's text." }),
  group: text.optional().meta({ description: 'What results are gathered by, such as {relation}.' }),
  answer: answer.optional(),
  source: section(sourcePlace).meta({ description: 'Where states are taken from: a prompt or a vector.' }),
  target: section({ ...targetPlace, prompt }).meta({ description: 'Where they are put, and what is read.' }),
  edit: edit.optional(),
  contrast: contrast.optional(),
  mapping: mapping.optional(),
  variants: z
    .array(variant, 'a list of variants')
    .min(1, 'a list of at least one variant')
    .optional()
    .meta({ description: 'The experiment again, with some keys changed.' }),
  factors: z.record(z.string(), levels, 'a set of factors, { name: levels } each').optional().meta({
    description:
      'What is to be compared: variants with the first level of each factor, each further level alone, and each two of these together.',
  }),
  reading: reading.optional(),
  metrics: z.array(word(metricNames), 'a list of metrics').optional().meta({
    description:
      "Numbers that say how good each reading is; those that end in -ahead-2, -3 and -4 are of the further tokens of the model's own continuation.",
  }),
  controls: section({
    random: whole(0, 1000).optional().meta({ description: 'Draws of a random vector of the same norm.' }),
    shuffled: whole(0, 1000).optional().meta({ description: "Draws of another sample's state." }),
    unpatched: flag.optional().meta({ description: 'The target as it is.' }),
    repeat: whole(0, 1000).optional().meta({
      description:
        'Chunks that are run again and compared to the bit; cut so that they are a tenth of all cells at most.',
    }),
  })
    .optional()
    .meta({ description: 'What is run beside it, to compare with.' }),
  known: z
    .union([text, z.array(text).min(1, someNames)], { error: someNames })
    .optional()
    .meta({
      description:
        'A variant that patches nothing (edit: { op: scale }), or several: where the texts of all of them hold an answer, the model knows the facts.',
    }),
  probe: section({
    class: text.meta({
      description: 'What is to be found in a state, such as {object}; of a list its first.',
    }),
    subject: text.meta({ description: 'Samples of one subject are held out together.' }),
    folds: whole(2).optional().meta({ description: 'Parts of which each is held out once.', default: 3 }),
  })
    .optional()
    .meta({
      description:
        'A linear probe (logistic regression) of the same source states, for each group and layer, to compare with.',
    }),
  expected: z
    .array(expectation, 'a list of expectations')
    .min(1, 'a list of at least one expectation')
    .optional()
    .meta({ description: 'Where the truth is known: what must come out. The report shows both.' }),
  draws: draws.optional().meta({
    description: 'How often each cell is run, each time with other random numbers.',
    default: 1,
  }),
  seed: whole(0).optional().meta({ description: 'What is drawn is drawn with it.', default: 0 }),
});

export type ExperimentFile = z.output<typeof experimentSchema>;
export type VectorKeys = NonNullable<ExperimentFile['source']['vector']>;
export type PromptsKeys = NonNullable<VectorKeys['mean']>;
export type MappingKeys = Exclude<NonNullable<ExperimentFile['mapping']>, string | readonly string[]>;
export type LoraKeys = NonNullable<ExperimentFile['source']['lora']>;
export type SamplesFile = Exclude<ExperimentFile['samples'], readonly unknown[]>;

/** For editors. */
export function jsonSchema(): string {
  const schema = z.toJSONSchema(experimentSchema, { target: 'draft-07', io: 'input', reused: 'ref' });
  return `${JSON.stringify({ title: 'A patchscopes experiment', ...schema }, null, 2)}\n`;
}
