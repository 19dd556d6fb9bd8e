/** What a model says once it is loaded: its vocabulary's special tokens, and where its states lie. */
import { asPatchscopeError, PatchscopeError } from '../errors.js';
import type { LoadedAddon, NativeModel, NativeModelInfo, NativeSite } from '../native.js';
import { checkModel } from './llama-engine.js';

export interface Probe {
  /** Null where the model could not be loaded. */
  readonly info: NativeModelInfo | null;
  readonly sites: Readonly<Record<string, NativeSite>>;
  /** None where there is no encoder. */
  readonly encoderSites: Readonly<Record<string, NativeSite>>;
  /** Why there are no sites, else null. */
  readonly reason: string | null;
  /** Of a K/V cache in f16; null without a context. */
  readonly cacheBytesPerToken: number | null;
}

/** Loads a model on the CPU as an engine would, and closes it again; a refusal is an answer. */
export async function probeModel(
  file: { readonly path: string; readonly parts: readonly string[] },
  addon: LoadedAddon,
): Promise<Probe> {
  let model: NativeModel | undefined;
  let info: NativeModelInfo | null = null;
  try {
    await addon.check(file.parts);
    model = await addon.load(file.path, { gpuLayers: 0, devices: [], splitMode: 'layer' });
    info = model.describe();
    checkModel(info);
    const context = await model.createContext({
      cells: CELLS,
      batchTokens: 8,
      sequences: 1,
      outputs: 2,
      threads: 1,
      flashAttention: true,
      typeK: 'f16',
      typeV: 'f16',
    });
    const { sites, encoderSites = {}, memoryBytes } = context.describe();
    context.close();
    return { info, sites, encoderSites, reason: null, cacheBytesPerToken: memoryBytes / CELLS };
  } catch (error) {
    const known = asPatchscopeError(error);
    if (!(known instanceof PatchscopeError)) throw known;
    return { info, sites: {}, encoderSites: {}, reason: known.message, cacheBytesPerToken: null };
  } finally {
    model?.close();
  }
}

const CELLS = 256;
