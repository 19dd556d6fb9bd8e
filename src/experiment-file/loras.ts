/** The LoRAs that a file names. */
import { readAdapter } from '../adapters.js';
import type { Settings } from '../patchscope.js';
import { around, type Located, type Path, pathFrom } from './document.js';
import { given } from './prompts.js';
import type { LoraKeys } from './schema.js';

interface Places {
  readonly source?: { readonly lora?: LoraKeys | undefined } | undefined;
  readonly target?: { readonly lora?: LoraKeys | undefined } | undefined;
}

/** @param path of the experiment's keys, or of a variant's, which says none where it takes one off. */
export function adaptersAt(
  { source, target }: Places,
  root: Located,
  path: Path,
): Pick<Settings, 'sourceAdapter' | 'targetAdapter'> {
  const adapters = {
    sourceAdapter: adapterAt(source?.lora, root, [...path, 'source', 'lora']),
    targetAdapter: adapterAt(target?.lora, root, [...path, 'target', 'lora']),
  };
  return given(adapters) as Pick<Settings, keyof typeof adapters>;
}

function adapterAt(lora: LoraKeys | undefined, root: Located, path: Path): Settings['sourceAdapter'] {
  if (lora === undefined || lora === 'none') return lora;
  const node = around(root, path);
  if (typeof lora === 'string') return readAdapter(pathFrom(node, lora));
  return 'file' in lora
    ? readAdapter(pathFrom(around(root, [...path, 'file']), lora.file), lora.scale)
    : { needed: lora.needed };
}
