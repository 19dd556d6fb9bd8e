/** Vectors of the file, with their templates -> those of each sample. */
import type { FileVector, PromptAt, Vector } from '../patchscope.js';
import { around, badAt, type Located, type Path, pathFrom, pathText } from './document.js';
import { templateAt, writtenPrompt } from './prompts.js';
import { readSamples } from './samples.js';
import type { PromptsKeys, VectorKeys } from './schema.js';
import type { Row } from './template.js';

const forms = ['file', 'mean', 'difference', 'zero', 'noise', 'random'] as const;

/** @throws PatchscopeError `bad_input` */
export function vectorAt(keys: VectorKeys, root: Located, path: Path): (row: Row) => Vector {
  const bad = (what: string) => badAt(around(root, path).place, `${pathText(path)} ${what}`);
  const named = forms.filter((form) => keys[form] !== undefined);
  if (named.length !== 1) {
    throw bad(
      `has ${named.length === 0 ? 'none' : named.join(' and ')} of ${forms.join(', ')} where one of them is needed`,
    );
  }
  const [form] = named;
  for (const key of ['tensor', 'row'] as const) {
    if (keys[key] !== undefined && form !== 'file') throw bad(`has ${key}, which is for a file`);
  }
  const { mean, difference, noise, random } = keys;
  if (mean !== undefined) {
    const prompts = promptsAt(mean, root, [...path, 'mean']);
    return (row) => ({ kind: 'mean', prompts: prompts(row) });
  }
  if (difference !== undefined) {
    const [prompts, minus] = difference.map((one, i) => promptsAt(one, root, [...path, 'difference', i]));
    return (row) => ({ kind: 'difference', prompts: prompts!(row), minus: minus!(row) });
  }
  if (noise !== undefined) {
    const { sigma, of } = noise;
    return () => ({ kind: 'noise', sigma, ...(of && { of }) });
  }
  if (random !== undefined) return () => ({ kind: 'random', norm: random.norm });
  return form === 'zero' ? () => ({ kind: 'zero' }) : fileAt(keys, root, path);
}

function fileAt({ file, tensor, row }: VectorKeys, root: Located, path: Path): (row: Row) => FileVector {
  const node = around(root, [...path, 'file']);
  const [fileOf, tensorOf, rowOf] = [
    templateAt(root, [...path, 'file'], file!),
    tensor === undefined ? undefined : templateAt(root, [...path, 'tensor'], tensor),
    row === undefined ? undefined : templateAt(root, [...path, 'row'], String(row)),
  ];
  return (fields) => {
    const number = rowOf?.fill(fields);
    if (number !== undefined && !/^\d{1,9}$/.test(number)) {
      throw rowOf!.bad(`is ${number} for ${fields.where} where a whole number of at least 0 is needed`);
    }
    return {
      kind: 'file',
      path: pathFrom(node, fileOf.fill(fields)),
      ...(tensorOf && { tensor: tensorOf.fill(fields) }),
      ...(number !== undefined && { row: Number(number) }),
    };
  };
}

/** Those of a list take the fields of the experiment's sample, others those of their own samples. */
function promptsAt(keys: PromptsKeys, root: Located, path: Path): (row: Row) => PromptAt[] {
  if (Array.isArray(keys)) {
    const all = keys.map((one, i) =>
      typeof one === 'string'
        ? writtenPrompt(one, -1, root, [...path, i], [...path, i])
        : writtenPrompt(
            one.prompt,
            one.position ?? -1,
            root,
            [...path, i, 'prompt'],
            [...path, i, 'position'],
          ),
    );
    return (row) => all.map((fill) => fill(row));
  }
  const { samples, prompt, position = -1 } = keys;
  const fill = writtenPrompt(prompt, position, root, [...path, 'prompt'], [...path, 'position']);
  const where = [...path, 'samples'];
  const prompts = readSamples(samples, around(root, where), pathText(where)).map(fill);
  return () => prompts;
}
