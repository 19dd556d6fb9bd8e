/** Compiles llama.cpp on this machine, for GPUs and systems without a fitting prebuilt library. */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { PatchscopeError } from './errors.js';
import { buildFolder } from './native.js';

export const buildChoices = ['off', 'cuda', 'vulkan', 'metal'] as const;
export type BuildChoice = (typeof buildChoices)[number];

export interface Ran {
  readonly ok: boolean;
  readonly output: string;
}

export interface BuildOptions {
  readonly gpu: BuildChoice;
  /** Architectures of CUDA GPUs as CMake names them: 86, native, 80;90, ... */
  readonly arch?: string | undefined;
  /** Compilers that run at once; default: one for each processor. */
  readonly jobs?: number | undefined;
  readonly onNote?: (line: string) => void;
  /** Where the libraries go, and how commands are run; replaced in tests. */
  readonly folder?: string;
  readonly run?: (command: string, args: readonly string[], how: 'quiet' | 'shown') => Ran;
}

export interface LocalBuild {
  readonly variant: string;
  readonly folder: string;
}

const platforms: Readonly<Partial<Record<NodeJS.Platform, string>>> = { linux: 'linux', darwin: 'mac' };

/**
 * Builds the libraries of one variant into a folder of their own and links the addon to them.
 *
 * @throws PatchscopeError `bad_input` for options that don't go together, `no_addon` where a tool is missing or
 *   the build fails.
 */
export function buildLibraries(options: BuildOptions): LocalBuild {
  const { gpu, arch, onNote, run = runCommand } = options;
  checkBuild(options);
  const variant = gpu === 'off' ? 'cpu' : gpu;
  const root = path.join(options.folder ?? buildFolder, 'local');
  const target = path.join(root, variant);
  const { bundle, release } = llamaSource();
  fs.mkdirSync(root, { recursive: true });
  const work = fs.mkdtempSync(path.join(root, '.work-'));
  const removeWork = () => fs.rmSync(work, { recursive: true, force: true });
  process.once('exit', removeWork);
  try {
    const [source, made] = [path.join(work, 'source'), path.join(work, 'made')];
    step(run('git', ['clone', '--quiet', bundle, source], 'quiet'), 'git clone', variant);
    onNote?.(`llama.cpp ${release} is compiled for ${variant}; this takes minutes, for cuda up to an hour.`);
    step(run('cmake', configuration(source, made, variant, arch), 'quiet'), 'cmake', variant);
    const jobs = String(options.jobs ?? os.availableParallelism());
    step(
      run('cmake', ['--build', made, '--target', 'llama', '--parallel', jobs], 'shown'),
      'the compiler',
      variant,
    );
    const libraries = path.join(made, 'bin');
    fs.writeFileSync(path.join(libraries, '_nlcBuildMetadata.json'), buildRecord(gpu, release));
    fs.rmSync(target, { recursive: true, force: true });
    fs.renameSync(libraries, target);
  } finally {
    process.off('exit', removeWork);
    removeWork();
  }
  const install = fileURLToPath(new URL('../native/install.mjs', import.meta.url));
  step(run(process.execPath, [install], 'quiet'), 'linking the addon', variant);
  return { variant, folder: target };
}

export function checkBuild({ gpu, arch }: Pick<BuildOptions, 'gpu' | 'arch'>): void {
  if (arch !== undefined && gpu !== 'cuda') {
    throw new PatchscopeError('bad_input', `--arch is for --gpu cuda, not for --gpu ${gpu}: leave it out.`);
  }
  if (arch !== undefined && !/^[\w-]+([;,][\w-]+)*$/.test(arch)) {
    throw new PatchscopeError(
      'bad_input',
      `--arch is '${arch}' where CUDA architectures such as 86, native or 80,90 are needed.`,
    );
  }
  if ((gpu === 'metal') !== (process.platform === 'darwin') && gpu !== 'off') {
    throw new PatchscopeError(
      'bad_input',
      gpu === 'metal'
        ? 'Metal is there on macOS alone: take --gpu cuda, vulkan or off.'
        : `macOS has Metal, not ${gpu}: take --gpu metal or off.`,
    );
  }
}

function configuration(source: string, made: string, variant: string, arch: string | undefined): string[] {
  const isOn = (name: string) => (name === variant ? 'ON' : 'OFF');
  return [
    ...['-S', source, '-B', made],
    '-DCMAKE_BUILD_TYPE=Release',
    // names of their own: the loader must not take another llama.cpp on its search path for these
    '-DCMAKE_RELEASE_POSTFIX=.local',
    '-DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON',
    '-DBUILD_SHARED_LIBS=ON',
    // the folder is moved once it is complete
    '-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON',
    `-DCMAKE_INSTALL_RPATH=${process.platform === 'darwin' ? '@loader_path' : '$ORIGIN'}`,
    ...['COMMON', 'TESTS', 'TOOLS', 'EXAMPLES', 'SERVER', 'APP'].map((part) => `-DLLAMA_BUILD_${part}=OFF`),
    ...['-DLLAMA_ALL_WARNINGS=OFF', '-DGGML_ALL_WARNINGS=OFF', '-DGGML_CCACHE=OFF'],
    `-DGGML_CUDA=${isOn('cuda')}`,
    `-DGGML_VULKAN=${isOn('vulkan')}`,
    `-DGGML_METAL=${isOn('metal')}`,
    ...(variant === 'metal' ? ['-DGGML_METAL_EMBED_LIBRARY=ON'] : []),
    ...(arch === undefined ? [] : [`-DCMAKE_CUDA_ARCHITECTURES=${arch.replaceAll(',', ';')}`]),
  ];
}

/** In the form of the records of prebuilt libraries. */
function buildRecord(gpu: BuildChoice, release: string): string {
  const platform = platforms[process.platform];
  return `${JSON.stringify({ buildOptions: { gpu: gpu === 'off' ? false : gpu, platform, arch: process.arch, llamaCpp: { release } } })}\n`;
}

function llamaSource(): { bundle: string; release: string } {
  const engine = path.join(path.dirname(fileURLToPath(import.meta.resolve('node-llama-cpp'))), '..', 'llama');
  const { release } = JSON.parse(fs.readFileSync(path.join(engine, 'binariesGithubRelease.json'), 'utf8'));
  return { bundle: path.join(engine, 'gitRelease.bundle'), release };
}

/** What a build says where a tool is missing -> what to install. */
const missing: readonly [sign: RegExp, advice: string][] = [
  [/\bgit\b.*ENOENT/, 'git is missing: install git'],
  [/\bcmake\b.*ENOENT/, 'CMake is missing: install CMake 3.18 or later'],
  [
    /CUDA Toolkit not found|No CMAKE_CUDA_COMPILER|CMAKE_CUDA_COMPILER-NOTFOUND|CUDA::\w+\s+but the target was not found/i,
    "the CUDA toolkit is missing or not whole: install NVIDIA's, with cuBLAS, and nvcc on the PATH or named by CUDACXX",
  ],
  [
    /Could NOT find Vulkan/i,
    'the Vulkan headers or glslc are missing: install them (Debian: apt install libvulkan-dev glslc spirv-headers)',
  ],
  [/SPIRV-?Headers/i, 'the SPIR-V headers are missing: install them (Debian: apt install spirv-headers)'],
  [
    /No CMAKE_C(XX)?_COMPILER could be found/,
    'a C++ compiler is missing: install one (Debian: apt install g++; macOS: xcode-select --install)',
  ],
  [/CMAKE_MAKE_PROGRAM is not set|no known build tool/i, 'make is missing: install make or ninja'],
];

function step({ ok, output }: Ran, what: string, variant: string): void {
  if (ok) return;
  const advice = missing.find(([sign]) => sign.test(output))?.[1];
  if (advice !== undefined) {
    throw new PatchscopeError(
      'no_addon',
      `The ${variant} libraries can't be built because ${advice}; then try again.`,
    );
  }
  const said = output
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => /error/i.test(line))
    .at(-1);
  throw new PatchscopeError(
    'no_addon',
    `The ${variant} libraries could not be built: ${what} failed${said === undefined ? '' : ` (${said.replace(/[.\s]+$/, '')})`}.`,
  );
}

function runCommand(command: string, args: readonly string[], how: 'quiet' | 'shown'): Ran {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    stdio: ['ignore', how === 'shown' ? 2 : 'pipe', how === 'shown' ? 2 : 'pipe'],
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  });
  return { ok: status === 0, output: `${stdout ?? ''}${stderr ?? ''}${error ? `${error.message}\n` : ''}` };
}
