/** `patchscopes build`: what it runs, what it keeps, how it refuses; and which libraries the addon is linked to. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { findVariants } from '../native/variants.mjs';
import { type BuildOptions, buildLibraries, checkBuild, type Ran } from '../src/local-build.js';
import { assertRefused, assertSentence, folder } from './support.js';

const command = fileURLToPath(new URL('../dist/cli.js', import.meta.url));
const platform = process.platform === 'darwin' ? 'mac' : 'linux';
const gpuHere = process.platform === 'darwin' ? 'metal' : 'cuda';
const temporaryFolder = () => fs.mkdtempSync(path.join(folder(), 'build-'));

type Commands = readonly (readonly string[])[];

/** Stands for git, CMake and the compiler; `fails` answers with what they would have said. */
function build(
  options: Omit<BuildOptions, 'run'>,
  fails: (words: readonly string[]) => string | undefined = () => undefined,
) {
  const commands: string[][] = [];
  const run = (name: string, args: readonly string[]): Ran => {
    const words = [path.basename(name), ...args];
    commands.push(words);
    const output = fails(words);
    if (output !== undefined) return { ok: false, output };
    if (args[0] === '--build') {
      fs.mkdirSync(path.join(args[1]!, 'bin'), { recursive: true });
      fs.writeFileSync(path.join(args[1]!, 'bin', 'libllama.local.so'), 'made');
    }
    return { ok: true, output: '' };
  };
  return { commands: commands as Commands, work: () => buildLibraries({ ...options, run }) };
}

test('a build clones the bundle, configures, compiles, keeps the libraries and links the addon', () => {
  const at = temporaryFolder();
  const { commands, work } = build({ gpu: 'off', folder: at, jobs: 3 });
  const made = work();
  assert.deepEqual(made, { variant: 'cpu', folder: path.join(at, 'local', 'cpu') });
  assert.deepEqual(
    commands.map(([name, first]) => [name, first]),
    [
      ['git', 'clone'],
      ['cmake', '-S'],
      ['cmake', '--build'],
      [path.basename(process.execPath), fileURLToPath(new URL('../native/install.mjs', import.meta.url))],
    ],
  );
  assert.match(commands[0]![3]!, /gitRelease\.bundle$/);
  for (const flag of ['-DGGML_CUDA=OFF', '-DGGML_VULKAN=OFF', '-DGGML_METAL=OFF', '-DBUILD_SHARED_LIBS=ON']) {
    assert.ok(commands[1]!.includes(flag), flag);
  }
  assert.deepEqual(commands[2]!.slice(3), ['--target', 'llama', '--parallel', '3']);
  assert.equal(fs.readFileSync(path.join(made.folder, 'libllama.local.so'), 'utf8'), 'made');
  assert.deepEqual(fs.readdirSync(path.join(at, 'local')), ['cpu'], 'what it worked in is gone');
});

test('what was built is found again, before the prebuilt libraries', () => {
  const at = temporaryFolder();
  build({ gpu: gpuHere, folder: at }).work();
  const record = JSON.parse(
    fs.readFileSync(path.join(at, 'local', gpuHere, '_nlcBuildMetadata.json'), 'utf8'),
  );
  const { release } = record.buildOptions.llamaCpp;
  const scope = path.join(at, 'scope');
  const prebuilt = (name: string, gpu: string | false, changes: object = {}) => {
    const directory = path.join(scope, name, 'bins', name);
    fs.mkdirSync(directory, { recursive: true });
    const buildOptions = { gpu, platform, arch: process.arch, llamaCpp: { release }, ...changes };
    fs.writeFileSync(path.join(directory, '_nlcBuildMetadata.json'), JSON.stringify({ buildOptions }));
    return directory;
  };
  const cpu = prebuilt('here', false);
  prebuilt('gpu', gpuHere);
  prebuilt('elsewhere', 'vulkan', { arch: 'other' });
  prebuilt('windows', 'vulkan', { platform: 'win' });
  prebuilt('old', 'vulkan', { llamaCpp: { release: 'v0' } });
  const where = { localFolder: path.join(at, 'local'), scopes: [scope], platform, arch: process.arch };
  const local = { variant: gpuHere, directory: path.join(at, 'local', gpuHere), origin: 'local' };
  assert.deepEqual(findVariants({ ...where, release }), [
    { variant: 'cpu', directory: cpu, origin: 'prebuilt' },
    local,
  ]);
  assert.deepEqual(findVariants({ ...where, scopes: [], release }), [local]);
  assert.deepEqual(findVariants({ ...where, scopes: [], release: 'v999' }), [], 'of another release');
  fs.rmSync(path.join(at, 'local'), { recursive: true });
  assert.deepEqual(
    findVariants({ ...where, release }).map(({ variant, origin }) => [variant, origin]),
    [
      ['cpu', 'prebuilt'],
      [gpuHere, 'prebuilt'],
    ],
  );
});

test('CUDA architectures go to CMake', { skip: process.platform === 'darwin' }, () => {
  const { commands, work } = build({ gpu: 'cuda', arch: '80,90', folder: temporaryFolder() });
  work();
  assert.ok(commands[1]!.includes('-DGGML_CUDA=ON'));
  assert.ok(commands[1]!.includes('-DCMAKE_CUDA_ARCHITECTURES=80;90'));
  const plain = build({ gpu: 'cuda', folder: temporaryFolder() });
  plain.work();
  assert.ok(!plain.commands[1]!.some((word) => word.includes('ARCHITECTURES')));
});

const failures: readonly [what: string, at: string, said: string, says: RegExp][] = [
  ['git', 'git', 'spawnSync git ENOENT', /git is missing: install git/],
  ['CMake', '-S', 'spawnSync cmake ENOENT', /CMake is missing: install/],
  [
    'the CUDA toolkit',
    '-S',
    'CMake Error at x:1:\n  CUDA Toolkit not found',
    /CUDA toolkit is missing or not whole: install .*nvcc/,
  ],
  [
    'cuBLAS',
    '-S',
    'links to:\n\n    CUDA::cublas\n\n  but the target was not found.',
    /CUDA toolkit is .*cuBLAS/,
  ],
  ['nvcc', '-S', 'No CMAKE_CUDA_COMPILER could be found.', /CUDA toolkit is missing/],
  ['glslc', '-S', 'Could NOT find Vulkan (missing: glslc)', /Vulkan headers or glslc are missing: install/],
  ['a compiler', '-S', 'No CMAKE_CXX_COMPILER could be found.', /C\+\+ compiler is missing: install/],
  [
    'nothing we know',
    '--build',
    'x.cpp:1: error: it is odd\nmake: stop',
    /the compiler failed \(x\.cpp:1: error: it is odd\)\.$/,
  ],
];

for (const [what, at, said, says] of failures) {
  test(`a build that lacks ${what} is one sentence, and keeps what was there`, async () => {
    const root = temporaryFolder();
    build({ gpu: 'off', folder: root }).work();
    const broken = build({ gpu: 'off', folder: root }, (words) => (words.includes(at) ? said : undefined));
    await assertRefused(broken.work, 'no_addon', says);
    assert.deepEqual(fs.readdirSync(path.join(root, 'local')), ['cpu']);
    assert.ok(fs.existsSync(path.join(root, 'local', 'cpu', 'libllama.local.so')));
    assert.ok(
      !broken.commands.some(([name]) => name === path.basename(process.execPath)),
      'no addon is linked',
    );
  });
}

test('options that do not go together are refused', async () => {
  await assertRefused(() => checkBuild({ gpu: 'off', arch: '86' }), 'bad_input', /--arch is for --gpu cuda/);
  const wrong = process.platform === 'darwin' ? 'cuda' : 'metal';
  await assertRefused(() => checkBuild({ gpu: wrong, arch: undefined }), 'bad_input', /take --gpu/);
  if (process.platform === 'darwin') return;
  await assertRefused(() => checkBuild({ gpu: 'cuda', arch: '8 6' }), 'bad_input', /--arch is '8 6'/);
});

for (const [args, says] of [
  [[], /--gpu must be given/],
  [['--gpu', 'opencl'], /--gpu is 'opencl' where one of off, cuda, vulkan, metal is needed/],
  [['--gpu', 'off', '--arch', '86'], /--arch is for --gpu cuda/],
  [['--gpu', 'off', '-t', '0'], /-t is '0'/],
] as const) {
  test(`build ${args.join(' ')} is one sentence and exit code 2`, () => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [command, 'build', ...args], {
      encoding: 'utf8',
    });
    assert.equal(status, 2, stderr);
    assert.equal(stdout, '');
    assert.match(stderr, says);
    assertSentence(stderr.trim());
  });
}
