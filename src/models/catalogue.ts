import { PatchscopeError } from '../errors.js';
import { nearest } from '../nearest.js';
import data from './catalogue.json' with { type: 'json' };

/** One wheel holding a model file, or one piece of it. */
export interface Wheel {
  readonly package: string;
  readonly version: string;
  readonly bytes: number;
}

/** One file of the hub, fetched by node-llama-cpp's downloader. */
export interface HubSource {
  readonly kind: 'hub';
  readonly uri: string;
}

/** Wheels whose pieces, in this order, are the model file. */
export interface PypiSource {
  readonly kind: 'pypi';
  readonly wheels: readonly Wheel[];
}

export type ModelSource = HubSource | PypiSource;

/** A model whose bytes are known, so that every source of it can be trusted or refused. */
export interface CatalogueModel {
  readonly title: string;
  readonly licence: string;
  readonly bytes: number;
  readonly sha256: string;
  readonly sources: readonly ModelSource[];
}

export type Catalogue = Readonly<Record<string, CatalogueModel>>;

/** The models that can be asked for by name. */
export const catalogue: Catalogue = data.models as Catalogue;

/** The name used where none is given. */
export const defaultModel: string = data.defaultModel;

/** The model of that name, or an error that says which name may have been meant. */
export function modelNamed(name: string, models: Catalogue = catalogue): CatalogueModel {
  const model = Object.hasOwn(models, name) ? models[name] : undefined;
  if (model) return model;
  const meant = nearest(name, Object.keys(models));
  throw new PatchscopeError(
    'bad_input',
    `There is no model named "${name}"${meant ? `, perhaps "${meant}" was meant` : ''}: write ${Object.keys(models).join(', ')}, the path of a .gguf file, or an hf: URI.`,
  );
}

/** A source as a person would name it. */
export function describeSource(source: ModelSource): string {
  if (source.kind === 'hub') return source.uri.replace(/#.*/, '');
  const [first, ...others] = source.wheels.map((wheel) => `${wheel.package} ${wheel.version}`);
  return others.length === 0
    ? `the PyPI package ${first}`
    : `the PyPI packages ${first} and ${others.length} more`;
}
