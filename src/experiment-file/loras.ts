/** The LoRAs that a file names. */
import { readAdapter } from '../adapters.js';
import type { Adapter } from '../patchscope.js';
import { around, badAt, type Located, type Path, pathFrom, pathText } from './document.js';
import { given } from './prompts.js';
import type { LoraKeys } from './schema.js';

interface Places {
  readonly source?: { readonly lora?: LoraKeys | undefined } | undefined;
  readonly target?: { readonly lora?: LoraKeys | undefined } | undefined;
}

export interface Adapters {
  readonly sourceAdapter?: Adapter | null;
  readonly targetAdapter?: Adapter | null;
}

/** @param path of the experiment's keys, or of a variant's, which says none where it takes one off. */
export function adaptersAt({ source, target }: Places, root: Located, path: Path): Adapters {
  return given({
    sourceAdapter: adapterAt(source?.lora, root, [...path, 'source', 'lora']),
    targetAdapter: adapterAt(target?.lora, root, [...path, 'target', 'lora']),
  });
}

function adapterAt(lora: LoraKeys | undefined, root: Located, path: Path): Adapter | null | undefined {
  if (lora === undefined) return undefined;
  if (lora === 'none') return null;
  const node = around(root, path);
  if (typeof lora === 'string') return readAdapter(pathFrom(node, lora));
  if ('file' in lora) return readAdapter(pathFrom(around(root, [...path, 'file']), lora.file), lora.scale);
  throw badAt(
    node.place,
    `${pathText(path)} is still to be given, ${lora.needed}: --set ${pathText(path)}=FILE.gguf does it`,
  );
}
