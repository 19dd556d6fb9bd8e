/** What must come out where the truth is known, checked against what the file asks for. */
import type { Expectation } from '../patchscope.js';
import { quoted } from './document.js';
import { given } from './prompts.js';
import type { Bad } from './reading.js';
import type { ExperimentFile } from './schema.js';

/** @throws PatchscopeError `bad_input` where no cell of the file could be meant, or nothing is bounded. */
export function expectedOf(file: ExperimentFile, bad: Bad): Expectation[] | undefined {
  return file.expected?.map(({ control = 'none', source, target, ...keys }, index) => {
    const at = (key: string, what: string) => bad(['expected', index, key], what);
    const { metric, variant, least, most } = keys;
    const { metrics = [], variants = [], controls = {} } = file;
    if (metric === 'probe') {
      if (file.probe === undefined) throw at('metric', 'is probe, and the experiment has none');
      if (control !== 'none') throw at('control', 'is for patched cells, and the probe patches nothing');
      if (target !== undefined) throw at('target', 'is for patched cells, and the probe patches nothing');
    } else if (!metrics.includes(metric)) {
      throw at('metric', `is ${metric}, which metrics does not name: ${there(metrics)}`);
    }
    if (variant !== undefined && !variants.some(({ name }) => name === variant)) {
      const names = variants.map(({ name }) => name);
      throw at('variant', `is ${quoted(variant)}, which is no variant: ${there(names)}`);
    }
    if (control !== 'none' && !controls[control]) {
      throw at('control', `is ${control}, which controls does not ask for`);
    }
    if (control === 'unpatched' && (source ?? target) !== undefined) {
      throw at(
        source ? 'source' : 'target',
        'is for cells without layers, since nothing is patched: leave it out',
      );
    }
    if (least === undefined && most === undefined) {
      throw bad(['expected', index], 'bounds nothing: give least, most or both');
    }
    return {
      ...(given(keys) as typeof keys),
      control,
      ...given({ sourceLayers: source, targetLayers: target }),
    } as Expectation;
  });
}

function there(names: readonly string[]): string {
  return names.length === 0 ? 'there is none' : `there are ${names.join(', ')}`;
}
