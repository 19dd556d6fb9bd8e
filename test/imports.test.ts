/** Flow goes one way: which part of src may import which. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const src = fileURLToPath(new URL('../src/', import.meta.url));

/** Types of data and errors, which every part may know. */
const shared = ['patchscope', 'errors', 'engine', 'observation'];

const allowed: Readonly<Record<string, readonly string[]>> = {
  patchscope: [],
  errors: [],
  engine: ['patchscope'],
  edges: ['engine'],
  observation: ['patchscope'],
  'file-hash': [],
  adapters: [...shared, 'file-hash'],
  layers: shared,
  places: [...shared, 'layers'],
  positions: shared,
  prompts: [...shared, 'positions', 'random'],
  'cache-layout': ['engine'],
  alignment: [...shared, 'prompts'],
  vocabulary: ['engine'],
  continuation: [...shared],
  relevancy: [...shared],
  plan: [
    ...[
      ...shared,
      'adapters',
      'alignment',
      'cache-layout',
      'continuation',
      'edges',
      'floats',
      'group',
      'layers',
      'mapping',
      'metrics',
    ],
    ...['places', 'positions', 'prompts', 'random', 'statistics', 'vocabulary'],
  ],
  probing: [...shared, 'floats', 'places', 'plan', 'prompts', 'source-states', 'statistics'],
  random: [],
  safetensors: [],
  'state-file': [...shared, 'own-readings', 'places', 'plan', 'prompts', 'safetensors'],
  'source-states': [...shared, 'floats', 'group', 'own-readings', 'places', 'plan', 'prompts'],
  'states-ahead': [...shared, 'places', 'plan', 'prompts', 'source-states', 'state-file'],
  statistics: ['errors', 'random'],
  'own-edits': [...shared, 'places', 'plan', 'random', 'source-states', 'vector-values'],
  'own-readings': ['vocabulary'],
  metrics: [...shared, 'own-readings', 'statistics'],
  mapping: [...shared, 'file-hash', 'floats', 'native', 'places', 'random', 'safetensors'],
  'fit-mapping': [
    ...shared,
    ...[
      'alignment',
      'file-hash',
      'floats',
      'folders',
      'mapping',
      'output-file',
      'places',
      'plan',
      'prompts',
      'random',
    ],
    ...['safetensors', 'source-states'],
  ],
  run: [
    ...[...shared, 'mapping', 'metrics', 'own-readings', 'plan', 'prompts', 'random', 'source-states'],
    ...['floats', 'own-edits', 'relevancy', 'vector-values', 'vocabulary'],
  ],
  lens: [...shared, 'floats', 'places', 'plan', 'prompts', 'run', 'source-states'],
  'experiment-file': [...shared, 'adapters', 'mapping', 'metrics', 'nearest', 'positions'],
  experiments: ['experiment-file', 'patchscope'],
  'best-variant': ['errors', 'experiment-file', 'store'],
  'record-probes': [...shared, 'plan', 'probing', 'run', 'store'],
  'record-run': [
    ...[...shared, 'adapters', 'group', 'lens', 'plan', 'prompts', 'record-probes', 'run', 'store'],
  ],
  store: [...shared, 'folders', 'group', 'nearest', 'output-file', 'statistics'],
  folders: [],
  floats: [],
  'vector-values': [...shared, 'floats', 'places', 'plan', 'prompts', 'random', 'source-states'],
  vectors: [
    ...[...shared, 'file-hash', 'gguf', 'native', 'nearest', 'places', 'plan', 'prompts', 'safetensors'],
    'source-states',
  ],
  group: [],
  report: ['errors', 'folders', 'group', 'output-file', 'statistics', 'store'],
  models: ['errors', 'folders', 'nearest'],
  native: ['errors', 'patchscope'],
  devices: ['errors', 'native'],
  workers: ['errors', 'native'],
  serve: ['errors', 'devices', 'native', 'threads', 'workers'],
  'gpu-layers': ['errors'],
  doctor: ['devices', 'folders', 'models', 'native', 'package-version', 'store', 'threads'],
  'local-build': ['errors', 'native'],
  gguf: ['errors', 'models', 'native', 'patchscope'],
  convert: ['errors', 'devices', 'gguf', 'models', 'output-file', 'threads'],
  'output-file': ['errors'],
  llama: [
    ...shared,
    ...[
      'adapters',
      'devices',
      'edges',
      'floats',
      'gpu-layers',
      'models',
      'native',
      'package-version',
      'threads',
      'workers',
    ],
  ],
  'engine-process': [
    ...['fit-mapping', ...shared, 'llama', 'models', 'plan', 'probing', 'run', 'source-states', 'state-file'],
    ...['states-ahead', 'vectors'],
  ],
  selftest: [...shared, 'random'],
  inspect: ['errors', 'convert', 'devices', 'gguf', 'llama', 'models', 'native', 'patchscope'],
  cli: ['index'],
  commands: ['cli', 'index'],
  threads: [],
  nearest: [],
  'package-version': [],
};

test('no part of src imports another against the flow', () => {
  const wrong: string[] = [];
  for (const file of fs.readdirSync(src, { recursive: true, encoding: 'utf8' })) {
    if (!file.endsWith('.ts')) continue;
    const from = partOf(file);
    if (from === 'index') continue;
    const text = fs.readFileSync(path.join(src, file), 'utf8');
    for (const [, specifier] of text.matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g)) {
      const to = partOf(path.join(path.dirname(file), specifier!));
      if (to !== from && !(allowed[from] ?? (file === 'cli.ts' ? allowed.commands! : [])).includes(to)) {
        wrong.push(`${file} imports ${specifier}`);
      }
    }
  }
  assert.deepEqual(wrong, []);
});

test('only the engine over the addon knows llama.cpp, and nothing in native/ names a method', () => {
  const native = fileURLToPath(new URL('../native/', import.meta.url));
  for (const file of fs.readdirSync(native)) {
    const text = fs.readFileSync(path.join(native, file), 'utf8');
    assert.doesNotMatch(text, /token.?identity|entity|inspection|experiment prompt/i, file);
  }
});

/** A folder is one part; cli.ts belongs to the commands. */
function partOf(file: string): string {
  const [first] = file.split(path.sep);
  const part = first!.replace(/\.(ts|js)$/, '');
  return file === 'cli.ts' ? 'commands' : part;
}
