/** What it takes to find the sites of a deep model: a tiny one whose first block is repeated. */
import { rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openDevices } from '../../src/devices.js';
import { type Gguf, scalar, writeGguf } from '../fixtures/gguf.js';
import { type ModelKind, tinyModel } from '../fixtures/models.js';

/** @returns milliseconds, of a number of contexts in turn. */
export async function labelMilliseconds(
  kind: ModelKind,
  blocks: number,
  contexts: number,
): Promise<number[]> {
  const path = join(tmpdir(), `deep-${process.pid}.gguf`);
  writeFileSync(path, writeGguf(deepen(tinyModel(kind), blocks)));
  const model = await openDevices('off').addon.load(path, {
    gpuLayers: 0,
    devices: [],
    splitMode: 'layer',
  });
  const times: number[] = [];
  for (let i = 0; i < contexts; i++) {
    const context = await model.createContext({
      cells: 256,
      batchTokens: 8,
      sequences: 1,
      outputs: 8,
      threads: 1,
      flashAttention: true,
      typeK: 'f16',
      typeV: 'f16',
    });
    times.push(context.describe().labelMilliseconds);
    context.close();
  }
  model.close();
  rmSync(path);
  return times;
}

function deepen({ metadata, tensors }: Gguf, blocks: number): Gguf {
  const [key] = [...metadata.keys()].filter((name) => name.endsWith('.block_count'));
  return {
    metadata: new Map([...metadata, [key!, scalar('u32', blocks)]]),
    tensors: [
      ...tensors.filter(({ name }) => !name.startsWith('blk.')),
      ...Array.from({ length: blocks }, (_, i) =>
        tensors
          .filter(({ name }) => name.startsWith('blk.0.'))
          .map((tensor) => ({ ...tensor, name: tensor.name.replace('blk.0.', `blk.${i}.`) })),
      ).flat(),
    ],
  };
}
