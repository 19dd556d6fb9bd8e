/** A file that fits the schema, and its samples -> an experiment, every template filled. */
import type { Experiment, Patch, Sample, SampleInVariant, Settings, Variant } from '../patchscope.js';
import { around, badAt, type Located, type Path, pathText, quoted } from './document.js';
import { expectedOf } from './expected.js';
import { Mappings, type OpenMapping } from './mappings.js';
import { type Filled, given, promptAt, templateAt } from './prompts.js';
import { type Bad, readingOf } from './reading.js';
import type { ExperimentFile } from './schema.js';
import type { Row } from './template.js';

/**
 * @param open default: every mapping is the identity.
 * @throws PatchscopeError `bad_input`
 */
export function toExperiment(
  file: ExperimentFile,
  root: Located,
  rows: readonly Row[],
  open: OpenMapping | undefined,
): Experiment {
  const bad = (path: Path, what: string) => badAt(around(root, path).place, `${pathText(path)} ${what}`);
  const mappings = new Mappings(file, root, rows, open);
  const variants = file.variants?.map((_, index) => variantOf(file, index, mappings, bad));
  const { name, seed = 0, metrics, controls, known, probe } = file;
  return {
    name,
    samples: samplesOf(file, root, rows),
    sourceLayers: selector(file.source.layers ?? 'all'),
    targetLayers: selector(file.target.layers ?? 'same'),
    ...placeSettings(file),
    mapping: mappings.own(),
    ...given({
      patch: patchOf(file.edit),
      variants,
      metrics: metrics && [...new Set(metrics)],
      controls: controls && given(controls),
      known: known === undefined ? undefined : [known].flat(),
      probe: probe && { folds: probe.folds ?? 3 },
      expected: expectedOf(file, bad),
    }),
    reading: readingOf(file, bad),
    seed,
  };
}

function samplesOf(file: ExperimentFile, root: Located, rows: readonly Row[]): Sample[] {
  const text = (path: Path, template: string) => templateAt(root, path, template);
  const source = promptAt(file, root, 'source');
  const target = promptAt(file, root, 'target');
  const name = file.sample === undefined ? undefined : text(['sample'], file.sample);
  const group = file.group === undefined ? undefined : text(['group'], file.group);
  const answers = answersOf(file.answer, root, ['answer']);
  const [subject, kind] = (['subject', 'class'] as const).map(
    (key) => file.probe && text(['probe', key], file.probe[key]),
  );
  const variants = variantPrompts(file, root);
  return rows.map((row, i): Sample => {
    const own = { source: source(row), target: target(row) };
    const { prompt } = own.source;
    return {
      name: name?.fill(row) ?? (prompt.kind === 'text' ? prompt.text : `sample ${i + 1}`),
      ...given({
        group: group?.fill(row),
        answer: answers?.(row),
        subject: subject?.fill(row),
        class: kind?.fillList(row)[0],
      }),
      ...own,
      ...(variants.length > 0 && {
        variants: Object.fromEntries(variants.map(([variant, fill]) => [variant, fill(row)])),
      }),
    };
  });
}

function answersOf(typed: ExperimentFile['answer'], root: Located, path: Path) {
  if (typed === undefined) return undefined;
  const answers = Array.isArray(typed)
    ? typed.map((one, i) => templateAt(root, [...path, i], one))
    : [templateAt(root, path, typed)];
  return (row: Row) => [...new Set(answers.flatMap((answer) => answer.fillList(row)))];
}

/** Of the variants that have other prompts, positions or answers. */
function variantPrompts(file: ExperimentFile, root: Located) {
  return (file.variants ?? []).flatMap((variant, index) => {
    const filled = (['source', 'target'] as const).flatMap((side): [string, Filled][] => {
      const { prompt, position } = variant[side] ?? {};
      const cut = side === 'target' ? variant.target?.cut : undefined;
      return prompt === undefined && position === undefined && cut === undefined
        ? []
        : [[side, promptAt(file, root, side, index)]];
    });
    const answers = answersOf(variant.answer, root, ['variants', index, 'answer']);
    const fill = (row: Row): SampleInVariant => ({
      ...Object.fromEntries(filled.map(([side, prompt]) => [side, prompt(row)])),
      ...(answers && { answer: answers(row) }),
    });
    return filled.length === 0 && answers === undefined ? [] : [[variant.name, fill] as const];
  });
}

function variantOf(file: ExperimentFile, index: number, mappings: Mappings, bad: Bad): Variant {
  const variant = file.variants![index]!;
  if (file.variants!.findIndex(({ name }) => name === variant.name) !== index) {
    throw bad(
      ['variants', index, 'name'],
      `is ${quoted(variant.name)}, as that of another variant is: give each its own`,
    );
  }
  const { source, target, edit } = variant;
  return {
    name: variant.name,
    ...given({
      sourceLayers: source?.layers === undefined ? undefined : selector(source.layers),
      targetLayers: target?.layers === undefined ? undefined : selector(target.layers),
      patch: edit && patchOf({ ...file.edit, ...edit }),
      mapping: mappings.ofVariant(index),
    }),
    ...placeSettings(variant),
  };
}

function placeSettings({ source, target }: Pick<VariantKeys, 'source' | 'target'>) {
  const settings = {
    sourceSite: source?.site,
    sourceSide: source?.side,
    targetSite: target?.site,
    targetSide: target?.side,
  };
  return given(settings) as Pick<Settings, Extract<keyof Settings, keyof typeof settings>>;
}

type VariantKeys = NonNullable<ExperimentFile['variants']>[number];

function selector(layers: number | string | readonly (number | string)[]): string {
  return Array.isArray(layers) ? layers.join(',') : String(layers);
}

function patchOf(edit: ExperimentFile['edit']): Patch | undefined {
  if (edit === undefined) return undefined;
  return given({ op: edit.op, alpha: edit.alpha, atGenerated: edit['at-generated'] }) as Patch;
}
