/** A file that fits the schema, and its samples -> an experiment, every template filled. */
import type {
  Experiment,
  LogitContrast,
  Patch,
  Sample,
  SampleInVariant,
  Settings,
  Variant,
} from '../patchscope.js';
import { around, badAt, type Located, type Path, pathText, quoted } from './document.js';
import { expectedOf } from './expected.js';
import type { Levels } from './factors.js';
import { adaptersAt } from './loras.js';
import { Mappings, type OpenMapping } from './mappings.js';
import { given, promptAt, sourceAt, templateAt } from './prompts.js';
import { type Bad, readingOf } from './reading.js';
import type { ExperimentFile } from './schema.js';
import type { Row } from './template.js';

export interface ToExperiment {
  /** Of the variants that are made of factors, by name. */
  readonly factors: ReadonlyMap<string, Levels>;
  /** Default: every mapping is the identity. */
  readonly open?: OpenMapping;
}

/** @throws PatchscopeError `bad_input` */
export function toExperiment(
  file: ExperimentFile,
  root: Located,
  rows: readonly Row[],
  { factors, open }: ToExperiment,
): Experiment {
  const bad = (path: Path, what: string) => badAt(around(root, path).place, `${pathText(path)} ${what}`);
  const mappings = new Mappings(file, root, rows, open);
  const variants = file.variants?.map((_, index) => variantOf(file, root, index, mappings, factors, bad));
  const { name, seed = 0, metrics, controls, known, probe } = file;
  return {
    name,
    samples: samplesOf(file, root, rows),
    sourceLayers: selector(file.source.layers ?? 'all'),
    targetLayers: selector(file.target.layers ?? 'same'),
    ...placeSettings(file),
    ...adaptersAt(file, root, []),
    mapping: mappings.own(),
    ...given({
      patch: patchOf(file.edit),
      contrast: contrastOf(file.contrast, ['contrast'], bad),
      window: file.target.window,
      draws: file.draws,
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
  const source = sourceAt(file, root);
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
    const prompt = 'prompt' in own.source ? own.source.prompt : undefined;
    return {
      name: name?.fill(row) ?? (prompt?.kind === 'text' ? prompt.text : `sample ${i + 1}`),
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
    const { source, target } = variant;
    const isOwn = (...keys: unknown[]) => keys.some((key) => key !== undefined);
    const filled = {
      source: isOwn(source?.prompt, source?.position, source?.vector)
        ? sourceAt(file, root, index)
        : undefined,
      target: isOwn(target?.prompt, target?.position, target?.cut, target?.edits)
        ? promptAt(file, root, 'target', index)
        : undefined,
      answer: answersOf(variant.answer, root, ['variants', index, 'answer']),
    };
    const fill = (row: Row): SampleInVariant =>
      given({
        source: filled.source?.(row),
        target: filled.target?.(row),
        answer: filled.answer?.(row),
      });
    return isOwn(...Object.values(filled)) ? [[variant.name, fill] as const] : [];
  });
}

function variantOf(
  file: ExperimentFile,
  root: Located,
  index: number,
  mappings: Mappings,
  factors: ToExperiment['factors'],
  bad: Bad,
): Variant {
  const variant = file.variants![index]!;
  if (file.variants!.findIndex(({ name }) => name === variant.name) !== index) {
    throw bad(
      ['variants', index, 'name'],
      `is ${quoted(variant.name)}, as that of another variant is: give each its own`,
    );
  }
  const { source, target, edit, contrast } = variant;
  return {
    name: variant.name,
    ...given({
      sourceLayers: source?.layers === undefined ? undefined : selector(source.layers),
      targetLayers: target?.layers === undefined ? undefined : selector(target.layers),
      patch: edit && patchOf({ ...file.edit, ...edit }),
      contrast:
        contrast &&
        contrastOf(
          contrast.with === undefined ? { ...file.contrast, ...contrast } : contrast,
          ['variants', index, 'contrast'],
          bad,
        ),
      window: target?.window,
      draws: variant.draws,
      mapping: mappings.ofVariant(index),
      maxTokens: variant.reading?.tokens,
      factors: factors.get(variant.name),
    }),
    ...placeSettings(variant),
    ...adaptersAt(variant, root, ['variants', index]),
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
  const { op, alpha, decay } = edit;
  return given({ op, alpha, atGenerated: edit['at-generated'], decay }) as Patch;
}

function contrastOf(contrast: ExperimentFile['contrast'], path: Path, bad: Bad): LogitContrast | undefined {
  if (contrast === undefined) return undefined;
  const { with: other, alpha, cutoff = 0.1 } = contrast;
  if (other === undefined) throw bad(path, 'does not say with what: give with: unpatched, or with: [0, 1]');
  if (other === 'unpatched') return { with: other, alpha: alpha ?? 1, cutoff };
  if (alpha !== undefined) {
    throw bad([...path, 'alpha'], 'is of with: unpatched, where a contrast with layers has none');
  }
  return { with: { layers: selector(other) }, cutoff };
}
